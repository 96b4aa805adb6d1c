"""A refusal names the line of each mistake."""

from __future__ import annotations

import time

import pytest

from stackd.errors import InvalidPodSpec, Reason
from stackd.podspec import located, sanitize
from tests.unit.podspec.specs import DEFAULT_POLICY, HTTP

TWO = "containers:\n  - name: one\n    ports:\n    - containerPort: 1\n    - containerPort: 2\n  - name: two\n"


def lines(text: str, *paths: str) -> list[int | None]:
    refusal = InvalidPodSpec([Reason(path=path, text="is wrong") for path in paths])
    return [reason.line for reason in located(refusal, text).reasons]


def refusal(text: str) -> InvalidPodSpec:
    with pytest.raises(InvalidPodSpec) as refused:
        sanitize(text, HTTP, DEFAULT_POLICY)
    return refused.value


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a:\n  b: 1\n", "a.b", 2),
        ("a:\n- x: 1\n- w: 2\n  z: 3\n", "a[1].z", 4),
        ("a:\n  - - 1\n    - k: v\n", "a[0][1].k", 3),
        ("a: |\n  b: 1\n  c: 2\nb: 2\n", "b", 4),
        ("a: {b: {c: 1}}\n", "a.b.c", 1),
        ("a: {b:\n  {c: [1,\n   2]}}\n", "a.b.c[1]", 3),
        ('# first\n\na:\n  # then\n  "x/y": 1\n', 'a["x/y"]', 5),
        ('a:\n  x/y.z: 1\n  "b]c": 1\n', "a[x/y.z]", 2),  # as Kubernetes writes the path
        ('a:\n  x/y.z: 1\n  "b]c": 1\n', 'a["b]c"]', 3),
        ('"a b":\n  c: 1\n', '["a b"].c', 2),
        ("a:\n  b: 1\nc:\n  b: 2\n", "c.b", 4),
        (TWO, "containers[0].ports[1]", 5),
        ("a:\n  b: &x\n    c: 1\nd: *x\n", "d.c", 3),
    ],
)
def test_a_path_has_the_line_where_it_stands(text: str, path: str, line: int) -> None:
    assert lines(text, path) == [line]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("containers[1].image", 6),
        ("containers[7].image", 1),
        ("containers (cpu)", 1),
        ("target_port[0]", None),
        ("(root)", None),
        ("", None),
    ],
)
def test_what_is_missing_has_the_line_of_what_it_is_missing_in(path: str, line: int | None) -> None:
    assert lines(TWO, path) == [line]


@pytest.mark.parametrize(
    ("text", "line", "path"),
    [
        ("spec:\n  a:\n    - containerPort: 80\n  b: [1\n  c: 2\n", 5, ""),
        ("apiVersion: v1\n\tkind: Pod\n", 2, ""),
        ("kind: Pod\nkind: Pod\n", 2, "kind"),
        ("kind: Pod\nmetadata:\n  name: *nobody\n", 3, "metadata.name"),
        ("ä: ü\nkind: Pod\nmetadata:\n  name: a\x07b\n", 4, ""),
        ("kind: Pod\n---\nkind: Pod\n", 2, "(root)"),
    ],
)
def test_what_cannot_be_read_has_the_line_where_reading_ended(text: str, line: int, path: str) -> None:
    (reason,) = refusal(text).reasons
    assert (reason.line, reason.path) == (line, path)


def test_a_refused_pod_has_the_line_of_each_reason() -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  hostPID: true\n  containers:\n  - name: A\n    nope: 1\n"
    found = {reason.path: reason.line for reason in refusal(text).reasons}
    assert (found["spec.hostPID"], found["spec.containers[0].name"], found["spec.containers[0].nope"]) == (6, 8, 9)


def test_a_thousand_strange_fields_are_found_in_no_time() -> None:
    text = "".join(f'"k {index}":\n  "l {index}": 1\n' for index in range(4000))
    paths = [f'["k {index}"]["l {index}"]' for index in range(3900, 4000)]
    started = time.thread_time()
    assert lines(text, *paths) == [2 * index + 2 for index in range(3900, 4000)]
    assert time.thread_time() - started < 2

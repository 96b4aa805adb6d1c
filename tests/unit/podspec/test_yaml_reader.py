"""Reading a tenant's YAML: strict, and with bounded time and memory for any text."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from stackd.errors import InvalidPodSpec, Reason
from stackd.podspec import Policy, located
from stackd.podspec.yaml_text import MAX_DEPTH, MAX_NODES, emit, read
from tests.unit.podspec.specs import REFUSALS, admit, container, reasons

MEBIBYTE = 2**20


def refusal(text: str) -> str:
    with pytest.raises(InvalidPodSpec) as refused:
        read(text)
    return "; ".join(map(str, refused.value.reasons))


@pytest.mark.parametrize(
    ("plain", "value"),
    [
        ("1", 1), ("0x1F", 31), ("0o17", 15), ("017", 15), ("0b101", 5), ("1_000", 1000), ("0.5", 0.5),
        ("1e3", 1000.0), ("08", 8.0), ("off", False), ("null", None), ("~", None), ("", None),
        ("2026-02-10", "2026-02-10"), ("12:30", "12:30"), ("'1'", "1"), ('"yes"', "yes"), ("!!str 1", "1"),
        ("!!int 1", 1), ("!!float 1.5", 1.5), ("!!bool on", True), ("!!null ~", None), ("! 1", "1"), ("-7", -7),
        ("9" * 500, "9" * 500),
    ],
)  # fmt: skip
def test_plain_scalars_mean_what_kubernetes_reads_in_them(plain: str, value: object) -> None:
    found = read(f"a: {plain}\n")["a"]
    assert found == value
    assert type(found) is type(value)


def test_json_is_yaml() -> None:
    document = {"🚩": "\\ud83d\\udea9", "a": [1, True, None, 'x\n\t"\\/'], "b": {"c": -0.5, "d": {}, "e": []}}
    for text in (json.dumps(document, indent="\t"), json.dumps(document, separators=(",", ":"))):
        assert read(text) == document


@pytest.mark.parametrize("case", REFUSALS["texts"], ids=lambda case: ascii(case["text"]))
def test_what_is_not_one_plain_document_is_refused_with_its_place(case: dict[str, str]) -> None:
    assert refusal(case["text"]).startswith(case["reason"])


def test_half_of_a_surrogate_pair_is_refused() -> None:
    assert "half of a surrogate pair" in refusal("a: \ud800\n")
    twice = "a: given twice (lines 1 and 2); b.c: given twice (lines 3 and 3)"
    assert refusal("a: 1\na: 2\nb: {c: 1, c: 2}\n") == twice


def test_up_to_the_limits_a_text_is_read_and_beyond_it_is_not() -> None:
    assert read('a: &m "<<"\n*m : 1\n') == {"a": "<<", "<<": 1}
    assert read("a: &x {k: [1]}\nb: *x\nc: &s t\nd: *s\n") == {"a": {"k": [1]}, "b": {"k": [1]}, "c": "t", "d": "t"}
    levels, half, items = MAX_DEPTH - 1, MAX_DEPTH // 2, MAX_NODES - 3
    assert read("a: " + "[" * levels + "]" * levels)
    assert "nested deeper" in refusal("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH)
    nested = "[" * half + "]" * half
    assert "nested deeper" in refusal(f"a: &a {nested}\nb: " + "[" * half + "*a" + "]" * half)
    assert len(read("a: [" + "1," * items + "]")["a"]) == items
    assert "more than 20000 values" in refusal("a: [" + "1," * (items + 1) + "]")


@pytest.mark.parametrize(
    "text",
    [
        "[" * MEBIBYTE, "{" * MEBIBYTE, "{a: " * (MEBIBYTE // 4), "a: " * (MEBIBYTE // 3), "- " * (MEBIBYTE // 2),
        "? " * (MEBIBYTE // 2), "&a " * (MEBIBYTE // 3), "*a " * (MEBIBYTE // 3), "!<x> " * (MEBIBYTE // 5),
        "%TAG !a! b\n" * (MEBIBYTE // 11), "#\n" * (MEBIBYTE // 2), "\n" * MEBIBYTE, "k" * MEBIBYTE,
        '"' + "\\n" * (MEBIBYTE // 2), "'" + "\n" * MEBIBYTE, "a: [" + "x," * (MEBIBYTE // 2),
        "a: {" + "x: 1, " * (MEBIBYTE // 6), "\n".join(f"{' ' * depth}a:" for depth in range(1400)),
        "x: &x [" + "a," * 9000 + "]\n" + "".join(f"y{index}: *x\n" for index in range(90_000)),
        "x: &x " + "a" * 500_000 + "\n" + "".join(f"y{index}: *x\n" for index in range(15_000)),
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ],
    ids=lambda text: ascii(text[:10]),
)  # fmt: skip
def test_a_hostile_text_is_refused_quickly(text: str) -> None:
    started = time.thread_time()
    assert refusal(text)
    assert time.thread_time() - started < 2


# ---- A refusal names the line of each mistake


TWO = "containers:\n  - name: one\n    ports:\n    - containerPort: 1\n    - containerPort: 2\n  - name: two\n"


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a:\n- x: 1\n- w: 2\n  z: 3\n", "a[1].z", 4), ("a:\n  - - 1\n    - k: v\n", "a[0][1].k", 3),
        ("a: |\n  b: 1\n  c: 2\nb: 2\n", "b", 4), ("a: {b:\n  {c: [1,\n   2]}}\n", "a.b.c[1]", 3),
        ('# first\n\na:\n  # then\n  "x/y": 1\n', 'a["x/y"]', 5),
        ('a:\n  x/y.z: 1\n  "b]c": 1\n', "a[x/y.z]", 2),  # as Kubernetes writes the path
        ('a:\n  x/y.z: 1\n  "b]c": 1\n', 'a["b]c"]', 3), ('"a b":\n  c: 1\n', '["a b"].c', 2),
        (TWO, "containers[0].ports[1]", 5), ("a:\n  b: &x\n    c: 1\nd: *x\n", "d.c", 3),
        # what is missing has the line of what it is missing in
        (TWO, "containers[1].image", 6), (TWO, "containers[7].image", 1), (TWO, "containers (cpu)", 1),
        (TWO, "target_port[0]", None), (TWO, "(root)", None), (TWO, "", None),
    ],
)  # fmt: skip
def test_a_path_has_the_line_where_it_stands(text: str, path: str, line: int | None) -> None:
    refused = InvalidPodSpec([Reason(path=path, text="is wrong")])
    assert [reason.line for reason in located(refused, text).reasons] == [line]


# ---- writing YAML as Kubernetes' own tools write it


AWKWARD = st.sampled_from([
    "yes", "1", "0x1", "1e3", "~", "<<", " a", "a ", "a: b", "a #b", "- a", "\n", "a\nb", " \n", "a\n\n", "\ta", "1:30",
])  # fmt: skip
STRINGS = AWKWARD | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
STRINGS |= st.text(st.sampled_from(" \n\t:#-'\"\\a1?{}[],&*!|>%@`.~"), max_size=8)
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
VALUES = st.recursive(
    STRINGS | st.booleans() | st.integers(-(2**63), 2**63 - 1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=5))
@example({"a": "\u2029"})
@example({"a" * 200: "", "b\n": {"c\n": 1}})
@example({"a": ["\n"], "b": {"c": " \n"}})
def test_what_is_written_is_read_back_unchanged(document: dict[str, Any]) -> None:
    assert read(emit(document)) == document


@given(STRINGS)
def test_another_yaml_reader_reads_the_same(text: str) -> None:
    assert yaml.safe_load(emit({"a": text, "b": [text], "c": "end"})) == {"a": text, "b": [text], "c": "end"}


# ---- The maximum length of a pod spec: as sent and as stored, at a cost that its length bounds


LIMIT = 64 << 10


def padded(size: int, letter: str = "x") -> str:
    """The seed with a variable that makes its text ``size`` bytes long."""
    text = json.dumps(container(env=[{"name": "A", "value": "@"}]), ensure_ascii=False)
    count, rest = divmod(size - len(text.encode()) + 1, len(letter.encode()))
    assert not rest
    return text.replace("@", letter * count)


def repeating(value: str, times: int) -> str:
    """The seed with a variable whose value other variables repeat through an alias."""
    env = "".join(f", {{name: A{number}, value: *a}}" for number in range(times))
    return (
        "kind: Pod\napiVersion: v1\nspec:\n  containers:\n  - name: app\n    image: a:1\n    ports: [{containerPort: 80}]\n"
        f'    resources: {{limits: {{cpu: 100m, memory: 128Mi}}}}\n    env: [{{name: A, value: &a "{value}"}}{env}]\n'
    )


def test_one_byte_over_the_greatest_length_is_refused() -> None:
    assert admit(padded(LIMIT - 600)).text
    for text in (padded(LIMIT + 1), padded(LIMIT + 1, "é"), "#" * (LIMIT + 1), "\ud800" * LIMIT):
        assert reasons(text) == ["(root): the text is longer than 65536 bytes (limits.pod_spec)"]
    assert "limits.pod_spec" in reasons(padded(1025), Policy(max_text=1024))[0]


@pytest.mark.parametrize("value", ["x\\n" * 15_000, "x" * 30_000, "\\x01" * 10_000, "é" * 10_000])
def test_what_becomes_too_long_with_its_aliases_is_refused(value: str) -> None:
    text = repeating(value, 33)
    assert len(text.encode()) < LIMIT
    (reason,) = reasons(text)
    assert reason.startswith("(root): the text is longer than 65536 bytes (limits.pod_spec) once sanitized")

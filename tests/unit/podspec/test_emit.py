"""Writing YAML as Kubernetes' own tools write it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from stackd.podspec import Policy, sanitize
from stackd.podspec.yaml_reader import read
from stackd.podspec.yaml_writer import TooLong, emit
from tests.unit.podspec.specs import DEFAULT_POLICY, HTTP, admit, container, reasons

AWKWARD = st.sampled_from(
    [
        "yes", "1", "0x1", "1e3", "~", "<<", " a", "a ", "a: b", "a #b", "- a", "\n", "a\nb", " \n", "a\n\n", "\ta",
        "1:30",
    ]
)  # fmt: skip
STRINGS = AWKWARD | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
STRINGS |= st.text(st.sampled_from(" \n\t:#-'\"\\a1?{}[],&*!|>%@`.~"), max_size=8)
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
VALUES = st.recursive(
    STRINGS | st.booleans() | st.integers(-(2**63), 2**63 - 1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


AS_IT_IS = ["nginx:stable", "/srv/a b", "a,b", "it's", "-v", "ünïcode", "100m", "1.2.3.4"]
DOUBLE = [
    "", "2", "1.5", "1e3", "0x10", "1_000", "true", "No", "y", "null", "~", "<<", "=", ".5_0", "2026-02-10", "12:30",
    ".inf",
]  # fmt: skip
SINGLE = [" a", "a ", "a: b", "a #b", "- a", "-", "*a", "{a}", "---"]
WRITTEN = {
    **{text: text for text in (*AS_IT_IS, "x" * 300 + " y")},
    **{text: f'"{text}"' for text in (*DOUBLE, "9" * 500)},
    **{text: f"'{text}'" for text in SINGLE},
    "'a": "'''a'",
    "a\tb": '"a\\tb"',
    "\x1b[0m": '"\\e[0m"',
    "🚩": '"\\U0001F6A9"',
    "\ufeff": '"\\uFEFF"',
    "a\u2028b": '"a\\Lb"',
    "a\nb": "|-\n    a\n    b",
    "a\nb\n": "|\n    a\n    b",
    "a\n\nb\n\n": "|+\n    a\n\n    b\n",
    " a\nb": "|2-\n     a\n    b",
    "a \nb": '"a \\nb"',
    "a\nb ": '"a\\nb "',
}


@pytest.mark.parametrize(("text", "written"), WRITTEN.items())
def test_a_string_gets_the_quotes_that_kubernetes_tools_give_it(text: str, written: str) -> None:
    assert emit({"a": {"b": text}}) == f"a:\n  b: {written}\n"


def test_keys_are_sorted_and_lists_stand_in_line_with_their_key() -> None:
    document = {"b": [{"z": 1, "a": [True]}, "x", {}, []], "a": {}, "c": {"d": [[1, 2], [3]]}}
    assert emit(document) == (
        "a: {}\nb:\n- a:\n  - true\n  z: 1\n- x\n- {}\n- []\nc:\n  d:\n  - - 1\n    - 2\n  - - 3\n"
    )


def test_keys_with_numbers_are_in_the_order_of_the_numbers() -> None:
    document = {"d": {"a10": "", "a9": "", "a.b": "", "ab": ""}}
    assert emit(document) == 'd:\n  a.b: ""\n  a9: ""\n  a10: ""\n  ab: ""\n'


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=5))
@example({"a": "\u2029"})
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
    left = size - len(text.encode()) + 1
    assert left % len(letter.encode()) == 0
    return text.replace("@", letter * (left // len(letter.encode())))


def repeating(value: str, times: int) -> str:
    """The seed with a variable whose value other variables repeat through an alias."""
    env = [
        f'        - {{name: A, value: &a "{value}"}}',
        *(f"        - {{name: A{n}, value: *a}}" for n in range(times)),
    ]
    resources = "      resources: {limits: {cpu: 100m, memory: 128Mi}}"
    head = "kind: Pod\napiVersion: v1\nspec:\n  containers:\n    - name: app\n      image: a:1\n"
    return head + "      ports: [{containerPort: 80}]\n" + resources + "\n      env:\n" + "\n".join(env) + "\n"


def test_a_text_of_the_greatest_length_is_accepted_and_one_byte_more_is_not() -> None:
    assert admit(padded(LIMIT - 600)).text
    assert reasons(padded(LIMIT + 1)) == ["(root): the text is longer than 65536 bytes (limits.pod_spec)"]
    assert reasons("#" * LIMIT + "#") == ["(root): the text is longer than 65536 bytes (limits.pod_spec)"]
    assert reasons(padded(1025), Policy(max_text=1024)) == [
        "(root): the text is longer than 1024 bytes (limits.pod_spec)"
    ]
    letters = json.dumps(container(env=[{"name": "A", "value": "é" * (LIMIT // 2)}]), ensure_ascii=False)
    assert "limits.pod_spec" in reasons(letters)[0], "bytes are counted, and not characters"
    assert reasons("\ud800" * LIMIT) == ["(root): the text is longer than 65536 bytes (limits.pod_spec)"]


@pytest.mark.parametrize("value", ["x\\n" * 15_000, "x" * 30_000, "\\x01" * 10_000, "é" * 10_000])
def test_what_becomes_too_long_with_its_aliases_is_refused(value: str) -> None:
    text = repeating(value, 33)
    assert len(text.encode()) < LIMIT
    (reason,) = reasons(text)
    assert reason.startswith("(root): the text is longer than 65536 bytes (limits.pod_spec) once sanitized")


def test_what_becomes_longer_within_the_limit_is_accepted_and_again_when_it_comes_back() -> None:
    spec = admit(repeating("x\\n" * 200, 20))
    assert 10_000 < len(spec.text.encode()) <= LIMIT
    assert sanitize(spec.text, HTTP, DEFAULT_POLICY) == spec


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
@example({"a": {"b": {"c": {"d": "\n\n\n\n\n\n\x01"}}}})
@example({"a": {"b": {"c": {"d": "x\n\n\n\n\ny"}}}})
@example({"a": [[[["x\ny\n"]]]]})
def test_a_text_is_written_exactly_up_to_the_length_that_it_may_have(document: dict[str, object]) -> None:
    whole = emit(document)
    assert emit(document, len(whole)) == whole
    with pytest.raises(TooLong):
        emit(document, len(whole) - 1)

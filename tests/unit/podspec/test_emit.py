"""Writing YAML as Kubernetes' own tools write it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from stackd.podspec.yaml_reader import read
from stackd.podspec.yaml_writer import emit

AWKWARD = st.sampled_from(
    [
        "yes",
        "1",
        "0x1",
        "1e3",
        "~",
        "<<",
        " a",
        "a ",
        "a: b",
        "a #b",
        "- a",
        "\n",
        "a\nb",
        " \n",
        "a\n\n",
        "\ta",
        "1:30",
    ]
)
STRINGS = AWKWARD | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
STRINGS |= st.text(st.sampled_from(" \n\t:#-'\"\\a1?{}[],&*!|>%@`.~"), max_size=8)
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
VALUES = st.recursive(
    STRINGS | st.booleans() | st.integers(-(2**63), 2**63 - 1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("nginx:stable", "nginx:stable"),
        ("/srv/a b", "/srv/a b"),
        ("a,b", "a,b"),
        ("it's", "it's"),
        ("-v", "-v"),
        ("ünïcode", "ünïcode"),
        ("", '""'),
        ("2", '"2"'),
        ("1.5", '"1.5"'),
        ("1e3", '"1e3"'),
        ("0x10", '"0x10"'),
        ("1_000", '"1_000"'),
        ("true", '"true"'),
        ("No", '"No"'),
        ("y", '"y"'),
        ("null", '"null"'),
        ("~", '"~"'),
        ("<<", '"<<"'),
        ("=", '"="'),
        ("9" * 500, '"' + "9" * 500 + '"'),
        (".5_0", '".5_0"'),
        ("2026-02-10", '"2026-02-10"'),
        ("12:30", '"12:30"'),
        (".inf", '".inf"'),
        ("100m", "100m"),
        ("1.2.3.4", "1.2.3.4"),
        (" a", "' a'"),
        ("a ", "'a '"),
        ("a: b", "'a: b'"),
        ("a #b", "'a #b'"),
        ("- a", "'- a'"),
        ("-", "'-'"),
        ("*a", "'*a'"),
        ("{a}", "'{a}'"),
        ("'a", "'''a'"),
        ("---", "'---'"),
        ("a\tb", '"a\\tb"'),
        ("\x1b[0m", '"\\e[0m"'),
        ("🚩", '"\\U0001F6A9"'),
        ("\ufeff", '"\\uFEFF"'),
        ("a\u2028b", '"a\\Lb"'),
        ("a\nb", "|-\n    a\n    b"),
        ("a\nb\n", "|\n    a\n    b"),
        ("a\n\nb\n\n", "|+\n    a\n\n    b\n"),
        (" a\nb", "|2-\n     a\n    b"),
        ("a \nb", '"a \\nb"'),
        ("a\nb ", '"a\\nb "'),
        ("x" * 300 + " y", "x" * 300 + " y"),
    ],
)
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

"""A stranger's text cannot affect the terminal of whoever looks at it."""

from __future__ import annotations

import json
import unicodedata

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackd.printable import printable, printable_json

ANY = st.text(alphabet=st.characters())
"""Any text, including lone surrogates."""

FORBIDDEN = {"Cc", "Zl", "Zp", "Cs"}
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def obeyed(text: str) -> list[str]:
    """The characters that a terminal, a reader of lines or a text layout would act on."""
    return [c for c in text if unicodedata.category(c) in FORBIDDEN or c in TURNING]


@given(ANY)
def test_nothing_is_left_that_would_be_obeyed(text: str) -> None:
    shown = printable(text)
    assert obeyed(shown) == []
    assert len(shown.splitlines()) <= 1
    shown.encode()


@given(ANY)
def test_lines_are_kept_where_they_are_wanted(text: str) -> None:
    shown = printable(text, lines=True)
    assert set(obeyed(shown)) <= {"\n", "\t"}
    assert shown.count("\n") == text.count("\n")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_json_document_stays_the_same_document(text: str) -> None:
    shown = printable_json(orjson.dumps({"text": text, text: [text]}).decode())
    assert obeyed(shown) == []
    assert json.loads(shown) == {"text": text, text: [text]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, mit Umlauten: äöü, and 日本語 🙂", "plain, mit Umlauten: äöü, and 日本語 🙂"), ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"), ("\x9b31m \x7f \u2028 \u202egpj", r"\x9b31m \x7f \u2028 \u202egpj"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_was_there_can_still_be_read(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_of_a_log_stay_lines() -> None:
    assert printable("a\tb\nc\x1b[0m\r\n", lines=True) == "a\tb\nc\\x1b[0m\\r\n"

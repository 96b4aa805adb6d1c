"""Quantities: one parser for all of them, and the canonical form of the API server."""

from __future__ import annotations

import json
import unicodedata
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackd import quantity
from stackd.printable import printable, printable_json

SUFFIXES = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "e3", "E-2", "e0"]
TEXTS = st.builds(
    "{}{}{}".format,
    st.integers(0, 10**6),
    st.sampled_from(["", ".", ".5", ".25", ".001", ".123456789"]),
    st.sampled_from(SUFFIXES),
)


@pytest.mark.parametrize(
    ("given_text", "canonical"),
    [
        ("0.1", "100m"), ("100m", "100m"), ("2000m", "2"), ("2", "2"), ("1.5", "1500m"), (".5", "500m"), ("5.", "5"),
        ("+1", "1"), ("-1", "-1"), ("0", "0"), ("0Gi", "0"), ("1000", "1k"), ("1024", "1024"), ("100000", "100k"),
        ("128Mi", "128Mi"), ("131072Ki", "128Mi"), ("1.5Gi", "1536Mi"), ("0.5Gi", "512Mi"), ("0.5Ki", "512"),
        ("1024Mi", "1Gi"), ("1000Mi", "1000Mi"), ("1536", "1536"), ("129M", "129M"), ("129e6", "129e6"),
        ("1e4", "10e3"), ("1E3", "1e3"), ("1e0", "1"), ("2e-3", "2e-3"), ("1E", "1E"), ("1Ei", "1Ei"),
        ("0.0001", "100u"), ("1n", "1n"), ("0.1n", "1n"), ("1.0001Ki", "1024102400u"), ("0.0001Ki", "102400u"),
        (2, "2"), (0.1, "100m"), (1e3, "1k"), (129e6, "129M"), (1.5, "1500m"), (0.00001, "10u"), (1e-7, "100e-9"),
        (0.0, "0"),
    ],
)  # fmt: skip
def test_a_quantity_is_written_in_canonical_form(given_text: str | int | float, canonical: str) -> None:
    assert str(quantity.parse(given_text)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "m", "1 Gi", " 1", "1\n", "1gi", "1KI", "1e", "1ee3", "--1", "1,5", "0x10", "1mi", "\u0661",
        "1e99999", "NaN", "9" * 1_000_000,
    ],
)  # fmt: skip
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity.parse(text)


@pytest.mark.parametrize("value", ["1e100", "1e9999", "9" * 60, "16Ei", "10E", 1e100, 2**64 - 1])
def test_an_absurd_amount_is_refused(value: str | float) -> None:
    with pytest.raises(ValueError, match="too large"):
        quantity.parse(value)


@pytest.mark.parametrize(("text", "whole"), [("1", 1), ("100m", 1), ("1.5Ki", 1536), ("1.0001Ki", 1025)])
def test_ones_are_rounded_up(text: str, whole: int) -> None:
    amount = quantity.parse(text)
    assert amount.whole == whole
    assert amount.in_whole().nanos == whole * 10**9


def _exact(text: str) -> Fraction:
    if text[-1].isdigit() and "e" in text.lower():
        mantissa, _, exponent = text.lower().partition("e")
        return Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent)
    number = text.rstrip("numkKMGTPEi")
    suffix = text[len(number) :]
    powers = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
    tens = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
    factor = Fraction(1024) ** powers[suffix] if suffix in powers else Fraction(10) ** tens[suffix]
    return Fraction(number.rstrip(".")) * factor


@settings(deadline=None)
@given(TEXTS)
def test_the_value_is_exact_and_the_canonical_form_has_the_same_value(text: str) -> None:
    exact = _exact(text)
    if exact >= 2**63:
        with pytest.raises(ValueError, match="too large"):
            quantity.parse(text)
        return
    amount = quantity.parse(text)
    assert 0 <= amount.nanos - exact * 10**9 < 1
    again = quantity.parse(str(amount))
    assert again.nanos == amount.nanos
    if not (amount.notation is quantity.Notation.BINARY and str(amount).isdigit()):
        assert str(again) == str(amount)


def test_binary_amounts_without_a_suffix_are_read_back_as_decimal_ones_as_kubernetes_does() -> None:
    assert str(quantity.parse("5062.5Ki")) == "5184000"
    assert str(quantity.parse("5184000")) == "5184k"


RECORDINGS = Path(__file__).parent.parent / "recordings"
HELD = {"capacity", "allocatable", "requests", "limits", "max", "min", "default", "defaultRequest", "hard", "used"}


def recorded() -> set[str]:
    """Every quantity that the recorded API server has written."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, list):
            for one in value:
                walk(one)
        elif isinstance(value, dict):
            for key, part in value.items():
                if key in HELD and isinstance(part, dict):
                    found.update(text for text in part.values() if isinstance(text, str))
                walk(part)

    for file in RECORDINGS.glob("*.json"):
        document = json.loads(file.read_text())
        walk([document.get("response"), document.get("events")])
    return found


def test_what_an_api_server_wrote_is_written_in_the_same_way() -> None:
    texts = recorded()
    assert {"24581684Ki", "1k", "1000Gi", "100m"} <= texts
    assert {str(quantity.parse(text)) for text in texts} == texts


@settings(deadline=None)
@given(st.integers(0, 10**15))
def test_thousandths_are_written_with_the_largest_suffix_that_leaves_a_whole_number(count: int) -> None:
    text = str(quantity.of_milli(count))
    assert quantity.parse(text).milli == count
    assert int(text.rstrip("mkMGTPE")) % 1000 != 0 or count == 0


@pytest.mark.parametrize(
    ("told", "whole"),
    [
        ("24581684Ki", 24581684 * 1024), ("7833477939200m", 7_833_477_940), ("1e30", 2**63 - 1), ("9999Ei", 2**63 - 1),
        ("-1e30", 1 - 2**63), (None, 0), ("much", 0), ({}, 0),
    ],
)  # fmt: skip
def test_whatever_a_cluster_tells_is_an_amount(told: object, whole: int) -> None:
    assert quantity.reported(told).whole == whole


# ---- a stranger's text cannot affect the terminal of whoever looks at it


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


@settings(deadline=None)
@given(st.integers(1024, 2**62))
def test_bytes_are_written_with_the_largest_suffix_that_leaves_a_whole_number(count: int) -> None:
    text = str(quantity.of_bytes(count))
    assert quantity.parse(text).whole == count
    assert int(text.rstrip("KMGTPEi")) % 1024 != 0 or text.endswith("Ei")

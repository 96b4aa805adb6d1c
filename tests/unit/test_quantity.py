"""Quantities in the API server's canonical form, and text that is safe to show."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json

from stackd import quantity
from stackd.printable import printable, printable_json
from tests.unit.podspec.specs import exact

SUFFIXES = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "e3", "E-2", "e0"]
FRACTIONS = ["", ".", ".5", ".25", ".001", ".123456789"]
TEXTS = st.builds("{}{}{}".format, st.integers(0, 10**6), st.sampled_from(FRACTIONS), st.sampled_from(SUFFIXES))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0.1", "100m"), ("2000m", "2"), ("1.5", "1500m"), (".5", "500m"), ("5.", "5"), ("+1", "1"), ("-1", "-1"),
        ("0Gi", "0"), ("1000", "1k"), ("1024", "1024"), ("131072Ki", "128Mi"), ("1.5Gi", "1536Mi"), ("0.5Ki", "512"),
        ("1000Mi", "1000Mi"), ("129e6", "129e6"), ("1e4", "10e3"), ("1E3", "1e3"), ("1e0", "1"), ("2e-3", "2e-3"),
        ("1E", "1E"), ("1Ei", "1Ei"), ("0.1n", "1n"), ("1.0001Ki", "1024102400u"), (2, "2"), (0.1, "100m"),
        (129e6, "129M"), (0.00001, "10u"), (1e-7, "100e-9"), (0.0, "0"),
        ("5062.5Ki", "5184000"), ("5184000", "5184k"),  # read back as decimal, as Kubernetes does
    ],
)  # fmt: skip
def test_a_quantity_is_written_in_canonical_form(text: str | int | float, canonical: str) -> None:
    assert str(quantity.parse(text)) == canonical


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *((text, "not a quantity") for text in ("", ".", "m", "1 Gi", " 1", "1\n", "1gi", "1KI", "1e", "1ee3", "--1")),
        *((text, "not a quantity") for text in ("1,5", "0x10", "\u0661", "1e99999", "NaN", "9" * 1_000_000)),
        *((value, "too large") for value in ("1e100", "1e9999", "9" * 60, "16Ei", "10E", 1e100, 2**64 - 1)),
    ],
)
def test_what_is_no_quantity_or_absurd_is_refused(value: str | float, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        quantity.parse(value)


@pytest.mark.parametrize(
    ("reported", "whole"),
    [
        ("24581684Ki", 24581684 * 1024), ("7833477939200m", 7_833_477_940), ("1.0001Ki", 1025), ("100m", 1),
        ("1e30", 2**63 - 1), ("9999Ei", 2**63 - 1), ("-1e30", 1 - 2**63), (None, 0), ("much", 0), ({}, 0),
    ],
)  # fmt: skip
def test_whatever_a_cluster_reports_is_an_amount(reported: object, whole: int) -> None:
    assert quantity.reported(reported).value == whole


@settings(deadline=None)
@given(TEXTS)
def test_the_canonical_form_has_the_same_value(text: str) -> None:
    value = exact(text)
    if value >= 2**63:
        with pytest.raises(ValueError, match="too large"):
            quantity.parse(text)
        return
    amount = quantity.parse(text)
    assert 0 <= amount.nanos - value * 10**9 < 1
    again = quantity.parse(str(amount))
    assert again.nanos == amount.nanos
    if not (amount.notation is quantity.Notation.BINARY and str(amount).isdigit()):
        assert str(again) == str(amount)


# ---- a stranger's text cannot affect the terminal of whoever looks at it

ANY = st.text(alphabet=st.characters())  # including lone surrogates


def obeyed(text: str) -> str:
    """The characters that a terminal, a reader of lines or a text layout would act on."""
    turning = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return "".join(c for c in text if unicodedata.category(c) in {"Cc", "Zl", "Zp", "Cs"} or c in turning)


@given(ANY)
def test_nothing_is_left_that_would_be_obeyed_but_wanted_line_ends(text: str) -> None:
    shown = printable(text)
    assert obeyed(shown) == ""
    assert len(shown.splitlines()) <= 1
    shown.encode()
    lines = printable(text, lines=True)
    assert set(obeyed(lines)) <= {"\n", "\t"}
    assert lines.count("\n") == text.count("\n")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_json_document_stays_the_same_document(text: str) -> None:
    shown = printable_json(json.encode({"text": text, text: [text]}).decode())
    assert obeyed(shown) == ""
    assert json.decode(shown) == {"text": text, text: [text]}

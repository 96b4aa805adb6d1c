from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackd.embedded import quantity


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1000", "1k"),
        ("0.1", "100m"),
        ("1500m", "1500m"),
        ("2000m", "2"),
        ("1024Mi", "1Gi"),
        ("1025Mi", "1025Mi"),
        ("512", "512"),
        ("1e3", "1k"),
        ("0.5Gi", "512Mi"),
        ("0", "0"),
        (".5", "500m"),
        ("1.", "1"),
        ("24581684Ki", "24581684Ki"),
        ("-1", "-1"),
    ],
)
def test_quantities_are_written_as_kubernetes_writes_them(text: str, canonical: str) -> None:
    assert quantity.canonical(text) == canonical


def test_less_than_a_thousandth_is_rounded_up() -> None:
    assert quantity.canonical("1u") == "1m"


@pytest.mark.parametrize("text", ["", "1x", "Mi", "1 Gi", "1e", "--1", "1e99999999"])
def test_other_texts_are_no_quantities(text: str) -> None:
    with pytest.raises(quantity.QuantityError):
        quantity.parse(text)


@given(st.integers(min_value=0, max_value=2**60), st.booleans())
def test_a_rendered_quantity_reads_back_the_same(thousandths: int, binary: bool) -> None:
    assert quantity.milli(quantity.render(thousandths, binary)) == thousandths

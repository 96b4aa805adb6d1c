from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackd.units import format_duration, format_size, parse_duration, parse_frequency, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("1h30m", 5400), ("10s", 10), ("250ms", 0.25), ("0s", 0), ("0", 0), ("1.5h", 5400), ("7d", 604800)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("part", ["1h", "1", "1h ", "x"])
def test_what_is_too_long_to_be_a_duration_or_a_size_is_refused_unread(part: str) -> None:
    for parse in (parse_duration, parse_size):
        with pytest.raises(ValueError, match="is too long") as caught:
            parse(part * 500_000)
        assert len(str(caught.value)) < 100


@given(st.integers(0, 10**12))
def test_a_duration_that_is_printed_reads_back_as_itself(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("seconds", "text"), [(60, "60s"), (120, "2m"), (5400, "1h30m"), (86400, "24h"), (0.25, "250ms")]
)
def test_durations_are_printed_as_people_write_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "count"), [("1MiB", 1 << 20), ("512KiB", 1 << 19), ("4096", 4096), ("10kB", 10_000), ("1 GiB", 1 << 30)]
)
def test_sizes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert parse_size(text) == count


@given(st.integers(0, 1 << 40))
def test_a_size_that_is_printed_reads_back_as_itself(count: int) -> None:
    assert parse_size(format_size(count)) == count


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [
        ("6/min", 6, 60), ("1/s", 1, 1), ("20/10min", 20, 600), ("100/h", 100, 3600), ("1/day", 1, 86400),
        ("5 / 30 s", 5, 30),
    ],
)  # fmt: skip
def test_rates_are_read_as_people_write_them(text: str, count: int, seconds: float) -> None:
    frequency = parse_frequency(text)
    assert (frequency.count, frequency.seconds, str(frequency)) == (count, seconds, text)


DURATIONS = ["", "10", "h", "1x", "1h-", "-1s", "1h 30m", "1e3s", "\u0661s"]
SIZES = ["", "MiB", "1XB", "-1", "1.5MiB"]
RATES = ["", "6", "6/", "/min", "0/min", "-1/min", "6/0s", "6/fortnight", "1.5/min", "6/2day", "99999/s"]


@pytest.mark.parametrize(
    ("parse", "text"),
    [*product([parse_duration], DURATIONS), *product([parse_size], SIZES), *product([parse_frequency], RATES)],
)
def test_what_is_none_is_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a |has no unit|unknown unit|is not from 1 to|above zero"):
        parse(text)

"""Kubernetes quantities as whole milli-units, and back in canonical form. Knows no objects."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from math import ceil

PATTERN = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"

_FORM = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][-+]?[0-9]+)?")
_BINARY = {suffix: 1024**power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
_DECIMAL = {suffix: 1000**power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)}
_SMALL = {"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000)}


class QuantityError(ValueError):
    """The text is not a quantity."""


@lru_cache(maxsize=4096)
def parse(text: str) -> tuple[int, bool]:
    """Thousandths (rounded up, as Kubernetes does) and whether it was written with a binary suffix.

    Raises QuantityError.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise QuantityError(f"quantities must match the regular expression '{PATTERN}'")
    number, suffix = match.groups(default="")
    if suffix in _BINARY:
        return ceil(Fraction(number) * _BINARY[suffix] * 1000), True
    if suffix in _DECIMAL:
        return ceil(Fraction(number) * _DECIMAL[suffix] * 1000), False
    if suffix in _SMALL:
        return ceil(Fraction(number) * _SMALL[suffix] * 1000), False
    if suffix and abs(int(suffix[1:])) > 30:
        raise QuantityError("unable to parse quantity's suffix")
    exponent = Fraction(10) ** int(suffix[1:]) if suffix else 1
    return ceil(Fraction(number) * exponent * 1000), False


def milli(value: str | int | float) -> int:
    """Thousandths of the value. Raises QuantityError."""
    return parse(value if isinstance(value, str) else str(value))[0]


@lru_cache(maxsize=4096)
def render(thousandths: int, binary: bool = False) -> str:
    """The canonical form: the largest suffix that leaves a whole number."""
    if thousandths == 0:
        return "0"
    if thousandths % 1000:
        return f"{thousandths}m"
    whole = thousandths // 1000
    base, suffixes = (1024, _BINARY) if binary and abs(whole) >= 1024 else (1000, _DECIMAL)
    chosen = ""
    for suffix in suffixes:
        if whole % base:
            break
        whole, chosen = whole // base, suffix
    return f"{whole}{chosen}"


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """The same quantity as Kubernetes would answer it. Raises QuantityError."""
    return render(*parse(text))


def total(parts: list[str]) -> str:
    """The canonical sum; written in binary when the first part is, as Kubernetes does. Raises QuantityError."""
    parsed = [parse(part) for part in parts]
    return render(sum(value for value, _ in parsed), bool(parsed) and parsed[0][1])

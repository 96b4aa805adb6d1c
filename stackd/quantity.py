"""Kubernetes resource quantities: parsing, and the canonical form in which the API server writes them.

Owns: exact arithmetic in units of 10⁻⁹, the three notations (binary and decimal suffixes, exponents) and their
canonical text. It is the only reader of quantities in the project: pod specs, nodes, quotas, the configuration, the
command line and the embedded cluster all use it. Does not know pods, or which resources exist.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

NANO = 10**9
_LARGEST = 2**63 - 1
_QUANTITY = re.compile(
    r"([+-]?)(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))(?:(Ki|Mi|Gi|Ti|Pi|Ei)|([numkMGTPE])|[eE]([+-]?[0-9]{1,4}))?\Z",
    re.ASCII,
)
_LONGEST = 64
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_BINARY_SUFFIX = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}


class Notation(enum.Enum):
    """The family of suffixes in which a quantity was given; its canonical form uses the same family."""

    BINARY = "binary"
    DECIMAL = "decimal"
    EXPONENT = "exponent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """An exact amount, in units of 10⁻⁹."""

    nanos: int
    notation: Notation

    @property
    def milli(self) -> int:
        """In thousandths, rounded up."""
        return -(-self.nanos // 10**6)

    @property
    def value(self) -> int:
        """In ones, rounded up."""
        return -(-self.nanos // NANO)

    def in_milli(self) -> Quantity:
        """The same amount, rounded up to thousandths."""
        return self if self.nanos % 10**6 == 0 else Quantity(nanos=self.milli * 10**6, notation=self.notation)

    def in_ones(self) -> Quantity:
        """The same amount, rounded up to ones."""
        return self if self.nanos % NANO == 0 else Quantity(nanos=self.value * NANO, notation=self.notation)

    def __str__(self) -> str:
        """The canonical text: the largest suffix that needs no fraction."""
        if self.nanos == 0:
            return "0"
        ones, fraction = divmod(self.nanos, NANO)
        if self.notation is Notation.BINARY and not fraction and abs(ones) >= 1024:
            return _binary_text(ones)
        return _decimal_text(self.nanos, self.notation)


NOTHING = Quantity(nanos=0, notation=Notation.DECIMAL)


class TooLarge(ValueError):
    """The amount is beyond what any resource has."""


def of_milli(count: int) -> Quantity:
    """``count`` thousandths, with decimal suffixes: CPU."""
    return Quantity(nanos=count * 10**6, notation=Notation.DECIMAL)


def of_bytes(count: int) -> Quantity:
    """``count`` ones, with binary suffixes: memory and storage."""
    return Quantity(nanos=count * NANO, notation=Notation.BINARY)


def reported(value: object) -> Quantity:
    """A quantity from the cluster; ``NOTHING`` if it cannot be read."""
    return stored(value) if isinstance(value, (str, int, float)) else NOTHING


@lru_cache(maxsize=4096)
def stored(value: str | int | float) -> Quantity:
    """As ``reported``, for text or a number.

    An API server refuses text that is not a quantity, but accepts absurdly large ones. They count as the largest
    possible amount, so that one absurd quota does not break all answers.
    """
    try:
        return parse(value)
    except TooLarge:
        return Quantity(nanos=_LARGEST * NANO * (-1 if str(value).startswith("-") else 1), notation=Notation.DECIMAL)
    except ValueError:
        return NOTHING


@lru_cache(maxsize=4096)
def parse(value: str | int | float) -> Quantity:
    """The quantity written in ``value``, rounded up to 10⁻⁹. Raises ``ValueError`` with a message."""
    text = value if isinstance(value, str) else _number_text(value)
    match = _QUANTITY.match(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError('not a quantity (such as "100m", "0.5" or "128Mi")')
    sign, digits, fraction, bare_fraction, binary, decimal, exponent = match.groups()
    fraction = fraction or bare_fraction or ""
    mantissa = int((digits or "") + fraction)
    power = 9 - len(fraction)
    notation = Notation.DECIMAL
    if binary is not None:
        mantissa <<= _BINARY[binary]
        notation = Notation.BINARY
    elif exponent is not None:
        power += int(exponent)
        notation = Notation.EXPONENT
    else:
        power += _DECIMAL[decimal or ""]
    nanos = _scaled(mantissa, power)
    return Quantity(nanos=-nanos if sign == "-" else nanos, notation=notation)


def _scaled(mantissa: int, power: int) -> int:
    if mantissa == 0:
        return 0
    if len(str(mantissa)) + power > 30:
        raise TooLarge("too large")
    if power < -_LONGEST * 2:
        return 1
    scale: int = 10 ** abs(power)
    nanos = mantissa * scale if power >= 0 else -(-mantissa // scale)
    if nanos > _LARGEST * NANO:
        raise TooLarge("too large")
    return nanos


def _number_text(number: int | float) -> str:
    """A YAML number as JSON writes it, which is what the API server would parse."""
    if isinstance(number, int):
        return str(number) if abs(number) < 2**64 else "too large"
    if not number or 1e-6 <= abs(number) < 1e21:
        return format(Decimal(repr(number)), "f")
    return repr(number)


def _binary_text(ones: int) -> str:
    step = 0
    while ones % 1024 == 0 and step < len(_BINARY_SUFFIX) - 1:
        ones //= 1024
        step += 1
    return f"{ones}{_BINARY_SUFFIX[step]}"


def _decimal_text(nanos: int, notation: Notation) -> str:
    exponent = -9
    while nanos % 1000 == 0 and exponent < 18:
        nanos //= 1000
        exponent += 3
    if notation is Notation.EXPONENT:
        return f"{nanos}e{exponent}" if exponent else str(nanos)
    return f"{nanos}{_DECIMAL_SUFFIX[exponent]}"

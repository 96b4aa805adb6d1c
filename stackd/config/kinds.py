"""The kinds of value that a key may have, each with the words that say what is expected of it.

Owns the annotated types of which the sections are made. Each carries an ``Expects``, so that a mistake can say
what would be right.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, TypeVar

from annotated_types import Ge, Le
from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from stackd.config.units import parse_duration, parse_size

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_DNS_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DNS_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_QUANTITY: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:m|k|[KMGTPE]i|[MGTPE])?)?", re.ASCII)
V = TypeVar("V")
_LONGEST_SECONDS: Final = 10 * 366 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expects:
    """What would be right, as a noun phrase.

    ``secret`` values are never repeated in a mistake; ``unit`` says how to print; ``path`` values may begin with ``~``.
    """

    what: str
    secret: bool = False
    unit: str = ""
    path: bool = False


def _seconds(value: object, info: ValidationInfo) -> object:
    """Read a duration. Code may hand in seconds; in a file a bare number would leave its unit to guessing."""
    if info.context is None and isinstance(value, int | float):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit")
    return _at_most_ten_years(parse_duration(value)) if isinstance(value, str) else value


def _at_most_ten_years(seconds: float) -> float:
    if seconds > _LONGEST_SECONDS:
        raise ValueError("this is more than ten years")
    return seconds


def _bytes(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _frozen(value: Mapping[str, V]) -> Mapping[str, V]:
    return MappingProxyType(dict(value))


def _above_zero(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("this must be more than nothing")
    return seconds


def _matches(pattern: re.Pattern[str], wrong: str) -> Callable[[str], str]:
    """A validator that accepts what ``pattern`` matches in full."""

    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f'"{value}" {wrong}')
        return value

    return check


def check_label_key(key: str) -> str:
    """A Kubernetes label key: an optional DNS prefix and a name; ValueError says what is wrong."""
    prefix, slash, name = key.rpartition("/")
    if not _NAME.fullmatch(name) or (slash and not _DNS_NAME.fullmatch(prefix)):
        raise ValueError(f'"{key}" is not a label key')
    return key


def _label_value(value: str) -> str:
    if value and not _NAME.fullmatch(value):
        raise ValueError(f'"{value}" is not a label value')
    return value


def _address(value: str) -> str:
    """An IP address or a host name."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not _DNS_NAME.fullmatch(value.lower()):
            raise ValueError(f'"{value}" is neither an IP address nor a host name') from None
    return value


Flag = Annotated[bool, Expects(what="true or false")]
Text = Annotated[str, Expects(what="a string")]
FilePath = Annotated[str, Expects(what="a path", secret=True, path=True)]
Port = Annotated[int, Ge(0), Le(65535), Expects(what="a port from 1 to 65535 (0 for any free one)")]
NodePort = Annotated[int, Ge(1), Le(65535), Expects(what="a port from 1 to 65535")]
Count = Annotated[int, Ge(0), Le(10**9), Expects(what="a whole number (0 for no limit)")]
Rate = Annotated[float, Ge(0), Le(10**6), Expects(what="a number of times a second (0 for no limit)")]
Share = Annotated[float, Ge(0), Le(1), Expects(what="a share from 0 to 1")]
Size = Annotated[
    int, BeforeValidator(_bytes), Ge(1024), Le(1 << 30), Expects(what='a size from "1KiB" to "1GiB"', unit="bytes")
]
Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Ge(0),
    Expects(what='a duration such as "2h", "1h30m", "10s" or "0s"', unit="seconds"),
]
Period = Annotated[
    float,
    BeforeValidator(_seconds),
    AfterValidator(_above_zero),
    Expects(what='a duration above zero, such as "2h", "1h30m", "10s" or "250ms"', unit="seconds"),
]
DnsLabel = Annotated[
    str,
    AfterValidator(_matches(_DNS_LABEL, "is not a DNS label")),
    Expects(what='lower-case letters, digits and "-", at most 63'),
]
OptionalDnsLabel = Annotated[
    str,
    AfterValidator(_matches(re.compile(f"(?:{_DNS_LABEL.pattern})?"), "is not a DNS label")),
    Expects(what='a name of lower-case letters, digits and "-", or ""'),
]
LabelName = Annotated[
    str,
    AfterValidator(_matches(_NAME, "is not a label value")),
    Expects(what='letters, digits, "-", "_" and ".", at most 63'),
]
Address = Annotated[str, AfterValidator(_address), Expects(what="an IP address or a host name")]
Quantity = Annotated[
    str,
    AfterValidator(_matches(_QUANTITY, "is not a quantity")),
    Expects(what='a Kubernetes quantity such as "500m", "2" or "4Gi", or "" for no limit'),
]
Strings = Annotated[tuple[str, ...], BeforeValidator(_tuple), Expects(what='a list of strings such as ["a", "b-*"]')]
Labels = Annotated[
    Mapping[Annotated[str, AfterValidator(check_label_key)], Annotated[str, AfterValidator(_label_value)]],
    AfterValidator(_frozen),
    Expects(what='a table of labels such as { role = "stack" }'),
]
Annotations = Annotated[
    Mapping[Annotated[str, AfterValidator(check_label_key)], str],
    AfterValidator(_frozen),
    Expects(what='a table of strings such as { "example.org/team" = "blue" }'),
]
Addresses = Annotated[
    Mapping[str, Annotated[str, AfterValidator(_address)]],
    AfterValidator(_frozen),
    Expects(what='a table from node names to addresses such as { worker-1 = "203.0.113.7" }'),
]
LabelLimits = Annotated[
    Mapping[Annotated[str, AfterValidator(check_label_key)], Annotated[int, Ge(1)]],
    AfterValidator(_frozen),
    Expects(what="a table from label keys to whole numbers above 0, such as { team = 3 }"),
]
as_tuple: Final = BeforeValidator(_tuple)

"""The types of configuration values, each with a description of what is expected.

Owns: the annotated types of the configuration's sections. Each carries an ``Expects``, so that an error message can say
what would be right.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, TypeVar

from annotated_types import Ge, Le
from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from stackd.names import (
    BARE_KEY_FORM,
    LABEL_FORM,
    LONGEST_DOMAIN,
    is_bare_key,
    is_key,
    is_label,
    is_label_value,
    is_subdomain,
)
from stackd.quantity import TooLarge
from stackd.quantity import parse as parse_quantity
from stackd.units import parse_duration, parse_frequency, parse_size

V = TypeVar("V")
LIVE: Final = "live"
"""The mark of a key, or of all keys of a section, that a reload may change."""

AT_START: Final = "at start"
"""The mark of a key of a live section that only a restart changes."""

_LONGEST_SECONDS: Final = 10 * 366 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expects:
    """What would be right, as a noun phrase.

    ``secret`` values are never quoted in an error message; ``unit`` says how to print; ``path`` values may begin with
    ``~``.
    """

    what: str
    secret: bool = False
    unit: str = ""
    path: bool = False


def _seconds(value: object, info: ValidationInfo) -> object:
    """Read a duration. Code may pass seconds; in a file, a number without a unit is ambiguous and so an error."""
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
        raise ValueError("must be greater than zero")
    return seconds


def _matches(accepts: Callable[[str], bool], wrong: str) -> Callable[[str], str]:
    """A validator for the values that ``accepts`` accepts."""

    def check(value: str) -> str:
        if not accepts(value):
            raise ValueError(f'"{value}" {wrong}')
        return value

    return check


def _address(value: str) -> str:
    """An IP address or a host name."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not is_subdomain(value.lower()):
            raise ValueError(f'"{value}" is neither an IP address nor a host name') from None
    return value


def _one_spelling(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse labels that differ only in letter case, because limits are counted without regard to it."""
    if len({label.lower() for label in labels}) < len(labels):
        raise ValueError("a label is given twice, in different letter case")
    return labels


def _frequency(value: str) -> str:
    parse_frequency(value)
    return value


def _quantity(value: str) -> str:
    try:
        parse_quantity(value or "0")
    except TooLarge:
        raise ValueError(f'"{value}" is too large') from None
    except ValueError:
        raise ValueError(f'"{value}" is not a quantity') from None
    return value


def _network(value: str) -> str:
    """An IP address or a network, as it is usually written."""
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError(f'"{value}" is neither an IP address nor a network') from None


as_tuple: Final = BeforeValidator(_tuple)
LabelKey = Annotated[str, AfterValidator(_matches(is_key, "is not a label key"))]
LabelValue = Annotated[str, AfterValidator(_matches(is_label_value, "is not a label value"))]
ClientLabel = Annotated[str, AfterValidator(_matches(is_bare_key, "is not a label of a create"))]
"""The key of a label in a create; it has no prefix, because stackd adds its own."""
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
TextSize = Annotated[
    int, BeforeValidator(_bytes), Ge(1024), Le(1 << 20), Expects(what='a size from "1KiB" to "1MiB"', unit="bytes")
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
LeaseDuration = Annotated[
    float,
    BeforeValidator(_seconds),
    Ge(1),
    Le(3600),
    Expects(what='a duration from "1s" to "1h"', unit="seconds"),
]
DnsLabel = Annotated[
    str,
    AfterValidator(_matches(is_label, "is not a DNS label")),
    Expects(what=f"a name of {LABEL_FORM}"),
]
OptionalDnsLabel = Annotated[
    str,
    AfterValidator(_matches(lambda name: not name or is_label(name), "is not a DNS label")),
    Expects(what=f'a name of {LABEL_FORM}, or ""'),
]
GatewayName = Annotated[
    str,
    AfterValidator(
        _matches(
            lambda name: not name or (name.count("/") == 1 and all(map(is_subdomain, name.split("/")))),
            "is not the namespace and the name of a Gateway",
        )
    ),
    Expects(what='a namespace and a name such as "gateways/public", or ""'),
]
Domain = Annotated[
    str,
    AfterValidator(
        _matches(
            lambda name: not name or (is_subdomain(name) and len(name) <= LONGEST_DOMAIN),
            "is not a domain",
        )
    ),
    Expects(what=f'a domain of at most {LONGEST_DOMAIN} lower-case letters, digits, hyphens and dots, or ""'),
]
LabelName = Annotated[
    str,
    AfterValidator(_matches(is_bare_key, "is not a label value")),
    Expects(what=f"a name of {BARE_KEY_FORM}"),
]
Address = Annotated[str, AfterValidator(_address), Expects(what="an IP address or a host name")]
Quantity = Annotated[
    str,
    AfterValidator(_quantity),
    Expects(what='a Kubernetes quantity such as "500m", "2" or "4Gi", or "" for no limit'),
]
Strings = Annotated[tuple[str, ...], as_tuple, Expects(what='a list of strings such as ["a", "b-*"]')]
Networks = Annotated[
    tuple[Annotated[str, AfterValidator(_network)], ...],
    as_tuple,
    Expects(what='a list of addresses and networks such as ["192.0.2.7", "2001:db8::/64"]'),
]
Labels = Annotated[
    Mapping[LabelKey, LabelValue],
    AfterValidator(_frozen),
    Expects(what='a table of labels such as { role = "stack" }'),
]
Annotations = Annotated[
    Mapping[LabelKey, str],
    AfterValidator(_frozen),
    Expects(what='a table of strings such as { "example.org/team" = "blue" }'),
]
Addresses = Annotated[
    Mapping[str, Annotated[str, AfterValidator(_address)]],
    AfterValidator(_frozen),
    Expects(what='a table from node names to addresses such as { worker-1 = "203.0.113.7" }'),
]
ClientLabels = Annotated[
    tuple[ClientLabel, ...], as_tuple, Expects(what='a list of labels without prefix such as ["player"]')
]
TenantLabels = Annotated[
    Mapping[ClientLabel, Annotated[str, AfterValidator(_matches(is_bare_key, "is not the value of a label"))]],
    AfterValidator(_one_spelling),
    AfterValidator(_frozen),
]
"""The labels of a tenant's key; none of their values is empty."""
LabelLimits = Annotated[
    Mapping[ClientLabel, Annotated[int, Ge(1)]],
    AfterValidator(_frozen),
    Expects(what="a table from labels without prefix to whole numbers above 0, such as { team = 3 }"),
]
LabelRates = Annotated[
    Mapping[ClientLabel, Annotated[str, AfterValidator(_frequency)]],
    AfterValidator(_one_spelling),
    AfterValidator(_frozen),
    Expects(what='a table from labels without prefix to rates such as { player = "6/min" }'),
]

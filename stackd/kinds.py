"""The base of the configuration's sections, and the types of their values, each with a description of what is expected.

Owns: the annotated types of the sections. Each carries an ``Expects``, so that an error message can say
what would be right.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo

from stackd.contract import BARE_KEY_FORM
from stackd.names import (
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

LIVE: Final = "live"
"""The mark of a key, or of all keys of a section, that a reload may change."""

AT_START: Final = "at start"
"""The mark of a key of a live section that only a restart changes."""

_LONGEST_SECONDS: Final = 10 * 366 * 86400.0
_ORIGIN: Final = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
SHORTEST_SECRET: Final = 32


class Section(BaseModel):
    """The base of all sections, and of the tables in them: frozen, strict about types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def key(default: object, why: str, **limits: Any) -> Any:
    """A key with its default and its one line of why."""
    if isinstance(default, Mapping):  # pydantic would copy it
        return Field(default_factory=lambda: default, description=why, **limits)
    return Field(default=default, description=why, **limits)


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
    if not isinstance(value, str):
        return value
    seconds = parse_duration(value)
    if seconds > _LONGEST_SECONDS:
        raise ValueError("this is more than ten years")
    return seconds


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("must be greater than zero")
    return seconds


def _matches(accepts: Callable[[str], bool], wrong: str) -> AfterValidator:
    def check(value: str) -> str:
        if not accepts(value):
            raise ValueError(f'"{value}" {wrong}')
        return value

    return AfterValidator(check)


def _parses(parse: Callable[[str], object]) -> AfterValidator:
    """A validator for the values that ``parse`` raises no ValueError for."""

    def check(value: str) -> str:
        parse(value)
        return value

    return AfterValidator(check)


def _is_address(value: str) -> bool:
    """Whether it is an IP address or a host name, which does not end with a number: that would be an IPv4 address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return is_subdomain(value.lower()) and not value.rpartition(".")[2].isdigit()
    return True


def _one_spelling(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse labels that differ only in letter case, because limits are counted without regard to it."""
    if len({label.lower() for label in labels}) < len(labels):
        raise ValueError("a label is given twice, in different letter case")
    return labels


def _parse_quantity(value: str) -> None:
    try:
        parse_quantity(value or "0")
    except TooLarge:
        raise ValueError(f'"{value}" is too large') from None
    except ValueError:
        raise ValueError(f'"{value}" is not a quantity') from None


def _are_secrets(value: SecretStr) -> SecretStr:
    """Whoever has a link can try secrets on it without asking stackd: so none may be short."""
    if any(len(one) < SHORTEST_SECRET for one in value.get_secret_value().split()):
        raise ValueError(f"a secret has fewer than {SHORTEST_SECRET} characters")
    return value


def _network(value: str) -> str:
    """An IP address or a network, as it is usually written."""
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError(f'"{value}" is neither an IP address nor a network') from None


def _optional(accepts: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda value: not value or accepts(value)


as_tuple: Final = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
frozen: Final = AfterValidator(lambda value: MappingProxyType(dict(value)))
one_spelling: Final = AfterValidator(_one_spelling)
a_size: Final = BeforeValidator(lambda value: parse_size(value) if isinstance(value, str) else value)
a_duration: Final = BeforeValidator(_seconds)
LabelKey = Annotated[str, _matches(is_key, "is not a label key")]
LabelValue = Annotated[str, _matches(is_label_value, "is not a label value")]
ClientLabel = Annotated[str, _matches(is_bare_key, "is not a label of a create")]
"""The key of a label in a create; it has no prefix, because stackd adds its own."""
Flag = Annotated[bool, Expects(what="true or false")]
Text = Annotated[str, Expects(what="a string")]
FilePath = Annotated[str, Expects(what="a path", secret=True, path=True)]
Port = Annotated[int, Field(ge=0, le=65535), Expects(what="a port from 1 to 65535 (0 for any free one)")]
NodePort = Annotated[int, Field(ge=1, le=65535), Expects(what="a port from 1 to 65535")]
Count = Annotated[int, Field(ge=0, le=10**9), Expects(what="a whole number (0 for no limit)")]
Rate = Annotated[float, Field(ge=0, le=10**6), Expects(what="a number of times a second (0 for no limit)")]
Share = Annotated[float, Field(ge=0, le=1), Expects(what="a share from 0 to 1")]
Size = Annotated[int, a_size, Field(ge=1 << 10, le=1 << 30), Expects(what='a size from "1KiB" to "1GiB"', unit="bytes")]
TextSize = Annotated[
    int, a_size, Field(ge=1 << 10, le=1 << 20), Expects(what='a size from "1KiB" to "1MiB"', unit="bytes")
]
Duration = Annotated[
    float, a_duration, Field(ge=0), Expects(what='a duration such as "2h", "1h30m", "10s" or "0s"', unit="seconds")
]
Period = Annotated[
    float,
    a_duration,
    AfterValidator(_positive),
    Expects(what='a duration above zero, such as "2h", "1h30m", "10s" or "250ms"', unit="seconds"),
]
LeaseDuration = Annotated[
    float, a_duration, Field(ge=1, le=3600), Expects(what='a duration from "1s" to "1h"', unit="seconds")
]
DnsLabel = Annotated[str, _matches(is_label, "is not a DNS label"), Expects(what=f"a name of {LABEL_FORM}")]
OptionalDnsLabel = Annotated[
    str, _matches(_optional(is_label), "is not a DNS label"), Expects(what=f'a name of {LABEL_FORM}, or ""')
]
GatewayName = Annotated[
    str,
    _matches(
        _optional(lambda name: name.count("/") == 1 and all(map(is_subdomain, name.split("/")))),
        "is not the namespace and the name of a Gateway",
    ),
    Expects(what='a namespace and a name such as "gateways/public", or ""'),
]
Domain = Annotated[
    str,
    _matches(_optional(lambda name: is_subdomain(name) and len(name) <= LONGEST_DOMAIN), "is not a domain"),
    Expects(what=f'a domain of at most {LONGEST_DOMAIN} lower-case letters, digits, hyphens and dots, or ""'),
]
LabelName = Annotated[str, _matches(is_bare_key, "is not a label value"), Expects(what=f"a name of {BARE_KEY_FORM}")]
HostAddress = Annotated[str, _matches(_is_address, "is neither an IP address nor a host name")]
Address = Annotated[HostAddress, Expects(what="an IP address or a host name")]
Quantity = Annotated[
    str,
    _parses(_parse_quantity),
    Expects(what='a Kubernetes quantity such as "500m", "2" or "4Gi", or "" for no limit'),
]
Strings = Annotated[tuple[str, ...], as_tuple, Expects(what='a list of strings such as ["a", "b-*"]')]
Networks = Annotated[
    tuple[Annotated[str, AfterValidator(_network)], ...],
    as_tuple,
    Expects(what='a list of addresses and networks such as ["192.0.2.7", "2001:db8::/64"]'),
]
Labels = Annotated[Mapping[LabelKey, LabelValue], frozen, Expects(what='a table of labels such as { role = "stack" }')]
Annotations = Annotated[
    Mapping[LabelKey, str], frozen, Expects(what='a table of strings such as { "example.org/team" = "blue" }')
]
Addresses = Annotated[
    Mapping[str, HostAddress],
    frozen,
    Expects(what='a table from node names to addresses such as { worker-1 = "203.0.113.7" }'),
]
ClientLabels = Annotated[
    tuple[ClientLabel, ...], as_tuple, Expects(what='a list of labels without prefix such as ["player"]')
]
TenantLabels = Annotated[
    Mapping[ClientLabel, Annotated[str, _matches(is_bare_key, "is not the value of a label")]], one_spelling, frozen
]
"""The labels of a tenant's key; none of their values is empty."""
LabelLimits = Annotated[
    Mapping[ClientLabel, Annotated[int, Field(ge=1)]],
    frozen,
    Expects(what="a table from labels without prefix to whole numbers above 0, such as { team = 3 }"),
]
Secret = Annotated[
    SecretStr,
    AfterValidator(_are_secrets),
    Expects(what="a text of at least 32 characters, such as `openssl rand -hex 32` prints", secret=True),
]
"""Secrets, separated by blanks or line ends. Configuration that is shown, logged or compared never has their text."""
PlayUrl = Annotated[
    str,
    _matches(_optional(lambda text: bool(_ORIGIN.fullmatch(text))), "is not such a URL"),
    Expects(what='a URL without a path, such as "https://stackd.example", or ""'),
]
LabelRates = Annotated[
    Mapping[ClientLabel, Annotated[str, _parses(parse_frequency)]],
    one_spelling,
    frozen,
    Expects(what='a table from labels without prefix to rates such as { player = "6/min" }'),
]

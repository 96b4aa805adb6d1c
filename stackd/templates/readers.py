"""Reads the fields of a template that are neither its pod nor about its pod's rights. Each raises ValueError, or InvalidRequest
with the paths of what is wrong.

Owns: what people read about a template, what players may do with its stacks, the names by which its containers find each
other, and the variables that a create may set. Their patterns are regular expressions in a form that matches in linear
time and little memory, because tenants may write templates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any, Final

from msgspec import Meta
from pydantic import StringConstraints, TypeAdapter
from pydantic_core import SchemaError

from stackd.clock import DAY_SECONDS, NANOSECONDS
from stackd.contract import MOST_MEMBERS, Duration, Labels, MemberName, Request, expects
from stackd.errors import InvalidRequest, Reason
from stackd.names import LONGEST_PREFIX, LONGEST_SUBDOMAIN, SUBDOMAIN, SUBDOMAIN_FORM, is_env_name, require_unreserved
from stackd.podspec.checks import by_path, keeps_running
from stackd.podspec.decoding import decode, refusal
from stackd.podspec.reasons import below
from stackd.templates.template import NO_VARIABLE, NOTICE_SECONDS, Extensions, Hours
from stackd.units import format_duration, parse_duration

LARGEST_POOL: Final = 10_000
LONGEST_TITLE: Final = 120
LONGEST_NOTICE: Final = DAY_SECONDS
EARLIEST_YEAR: Final = 2000  # what is before that is a slip of the pen
LONGEST_CATEGORY: Final = 120
LONGEST_DESCRIPTION: Final = 8 * 1024
MOST_NAMES: Final = 32
MOST_TIMES: Final = 1000
MOST_COST: Final = 1000
MOST_VARIABLES: Final = 32
LONGEST_PATTERN: Final = 100
LONGEST_VALUE: Final = 256
MOST_WEIGHT: Final = 2560
"""What the counts of a pattern, multiplied with each other and with its length, may be: ``[0-9]{256}`` is as much. A pattern of
this weight compiles in some 10 ms, during which nothing else runs."""
MOST_WEIGHT_IN_ALL: Final = 4 * MOST_WEIGHT
"""Of all patterns of a template."""

_COUNT: Final = re.compile(r"\{(?:([0-9]{1,3})(?:,([0-9]{0,3}))?\})?")
"""A brace outside of a class begins a count. The engine would also accept spaces and leading zeros in it."""
_ESCAPED: Final = re.compile(r"\\.", re.DOTALL)
_CLASS: Final = re.compile(r"\[\^?\]?[^\]]*\]")


Pool = Annotated[int, Meta(ge=0, le=LARGEST_POOL)]
Cost = Annotated[int, Meta(ge=0, le=MOST_COST)]
Prefix = Annotated[
    str,
    expects(
        f"at most {LONGEST_PREFIX} lower-case letters, digits and inner hyphens",
        max_length=LONGEST_PREFIX,
        pattern=r"\A[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\Z",
    ),
]
HostNames = Annotated[
    tuple[
        Annotated[str, expects(f"a host's name: {SUBDOMAIN_FORM}", max_length=LONGEST_SUBDOMAIN, pattern=SUBDOMAIN)],
        ...,
    ],
    expects(f"a list of 1 to {MOST_NAMES} names, such as [db, cache]", min_length=1, max_length=MOST_NAMES),
]
TYPED: Final[Mapping[str, tuple[Any, Any]]] = {
    "pool": (Pool, 0),
    "prepull": (bool, False),
    "cost": (Cost, 1),
    "shared": (bool, False),
    "names": (HostNames, ()),
    "route_prefix": (Prefix, ""),
}
"""The fields of which a type says all, each with its default."""


class VariableText(Request, frozen=True, kw_only=True):
    """A variable of ``env``."""

    pattern: Annotated[str, "What its values match as a whole."]


Env = Annotated[
    Mapping[str, VariableText],
    expects(
        f'an object of at most {MOST_VARIABLES} variables and their patterns, such as {{TEAM: {{pattern: "[0-9]{{1,4}}"}}}}',
        max_length=MOST_VARIABLES,
    ),
]


class MemberText(Request, frozen=True, kw_only=True):
    """A member."""

    pod: Annotated[dict[str, Any], "Its pod."]


Members = Annotated[
    Mapping[MemberName, MemberText],
    expects(f"an object of at most {MOST_MEMBERS} members, such as {{db: {{pod: …}}}}", max_length=MOST_MEMBERS),
]


class ExtendText(Request, frozen=True, kw_only=True):
    """What ``extend`` says."""

    by: Annotated[Duration, "How much longer."]
    times: Annotated[Annotated[int, Meta(ge=1, le=MOST_TIMES)], "How often."]


def line_of(longest: int) -> Callable[[object], str]:
    """A reader of one line for people, of at most so many characters."""

    def read(value: object) -> str:
        if not isinstance(value, str) or len(value) > longest or not value.isprintable():
            raise ValueError(f"a line of at most {longest} printable characters is expected")
        return value

    return read


def description(value: object) -> str:
    """Markdown."""
    text = value if isinstance(value, str) else ""
    if not isinstance(value, str) or len(text.encode()) > LONGEST_DESCRIPTION:
        raise ValueError(f"a text (Markdown) of at most {LONGEST_DESCRIPTION} bytes is expected")
    if not text.replace("\n", "").replace("\t", "").isprintable():
        raise ValueError("a text without control characters is expected")
    return text


def labels(value: object) -> Mapping[str, str]:
    """The labels that the template's stacks get."""
    given: Mapping[str, str] = decode(Labels, value, "labels")
    require_unreserved(given)
    return MappingProxyType(dict(given))


def extend(value: object, longest: float) -> Extensions:
    """What players may do; ``longest`` is ``stacks.max_ttl``."""
    given: ExtendText = decode(ExtendText, value, "extend")
    if not 0 < (length := seconds(given.by)) <= longest:
        raise ValueError(f'by: a duration such as "30m" is expected, at most {longest:g} s (stacks.max_ttl)')
    return Extensions(by=length, times=given.times)


def hours(fields: Mapping[str, Any]) -> Hours:
    """``opens``, ``closes`` and ``notice``; all of them may be missing."""
    times = {name: _moment(name, fields[name]) for name in ("opens", "closes") if name in fields}
    opens, closes = times.get("opens", 0), times.get("closes", 0)
    if opens and closes and opens >= closes:
        raise _wrong("closes", "a time after opens is expected")
    if "notice" in fields and not closes:
        raise _wrong("notice", "there is no closes of which it could tell")
    notice = seconds(fields["notice"]) if "notice" in fields else NOTICE_SECONDS
    if not 0 <= notice <= LONGEST_NOTICE:
        text = f'a duration such as "10m" is expected, at most {format_duration(LONGEST_NOTICE)}'
        raise _wrong("notice", text)
    texts = str(fields.get("opens", "")), str(fields.get("closes", ""))
    return Hours(opens=opens, closes=closes, notice=notice, texts=texts)


def seconds(value: object) -> float:
    """A duration; -1 if it is none."""
    try:
        return parse_duration(value) if isinstance(value, str) else -1.0
    except (ValueError, OverflowError):
        return -1.0


def _wrong(name: str, text: str) -> InvalidRequest:
    return refusal([Reason(path=name, text=text)])


def _moment(name: str, value: object) -> int:
    """A time with its zone, in nanoseconds."""
    with suppress(ValueError, OverflowError):
        at = datetime.fromisoformat(value if isinstance(value, str) else "")
        if at.tzinfo is not None and at.year >= EARLIEST_YEAR:
            return int(at.timestamp()) * NANOSECONDS
    raise _wrong(name, "a time with its zone is expected, such as 2026-03-01T18:00:00+01:00 or 2026-03-01T17:00:00Z")


def show(value: object, patterns: Mapping[str, object]) -> tuple[str, ...]:
    """The names of some of the template's ``values``, which are ``patterns``."""
    names: tuple[str, ...] = decode(tuple[str, ...], value, "show")
    for name in names:
        if name not in patterns:
            there = f"those of this template are {', '.join(patterns)}" if patterns else "this template has none"
            raise ValueError(f"{name[:64]} is none of its values; {there}")
    return tuple(dict.fromkeys(names))


def collisions(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The ports that two containers of the pod have, by path: on one machine only one of them can listen."""
    seen: dict[tuple[int, str], str] = {}
    for path, container in by_path(manifest["spec"]).items():
        for index, port in enumerate(container.get("ports", ()) if keeps_running(path, container) else ()):
            number = port["containerPort"], port.get("protocol", "TCP")
            first = seen.setdefault(number, container["name"])
            if first != container["name"]:
                text = f"{number[0]}/{number[1]} is also a port of {first}; containers of a pod share their ports"
                yield f"{path}.ports[{index}].containerPort", text


def mistakes_in_env(patterns: Mapping[str, str], taken: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with ``env``, by path, in a template whose containers and values have the variables ``taken``."""
    in_use = set(taken)
    weights = 0
    for name, pattern in patterns.items():
        path = below("env", name)
        if not is_env_name(name):
            yield path, NO_VARIABLE
        elif name in in_use:
            yield path, "the pod or the values have this variable already; take it out of there"
        elif why := _too_long_or_odd(pattern):
            yield f"{path}.pattern", why
        elif (weights := weights + _weight(pattern)) > MOST_WEIGHT_IN_ALL:
            yield "env", f"the patterns repeat too much: their weights are more than {MOST_WEIGHT_IN_ALL} in all"
            return
        elif why := _no_pattern(pattern):
            yield f"{path}.pattern", why


def _too_long_or_odd(pattern: str) -> str:
    """Why a pattern is not even compiled, which could take long; empty if it is."""
    if not 0 < len(pattern) <= LONGEST_PATTERN:
        return f"a pattern has 1 to {LONGEST_PATTERN} characters"
    if re.search(r"\\[A-Za-z0-9]", pattern):
        return "a backslash stands before punctuation only; write [0-9] for a digit and [A-Za-z0-9_] for a word"
    plain = _plain(pattern)
    if re.search(r"\(\?(?!:)", plain):
        return "of groups there are ( ) and (?: )"
    if any(count[0] == "{" for count in _COUNT.finditer(plain)):
        return "a count is {N}, {N,} or {N,M}, each a number of at most three digits; write [{] for a brace"
    if (weight := _weight(pattern)) > MOST_WEIGHT:
        return f"its counts repeat too much: multiplied, and with its length, they are {weight}; {MOST_WEIGHT} at most"
    return ""


def _plain(pattern: str) -> str:
    """The pattern with an x for each class and for what a backslash stands before."""
    return _CLASS.sub("x", _ESCAPED.sub("x", pattern))


def _weight(pattern: str) -> int:
    counts = (int(most or least) or 1 for least, most in _COUNT.findall(_plain(pattern)))
    return math.prod(counts) * len(pattern)


def _no_pattern(pattern: str) -> str:
    try:
        TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])  # alone: "a)|(b" is none
        _compiled(pattern)
    except SchemaError as error:
        return f"this is no pattern: {str(error).splitlines()[-1].removeprefix('error: ')}"
    return ""


@lru_cache(maxsize=MOST_VARIABLES)
def _compiled(pattern: str) -> TypeAdapter[str]:
    """A matcher that takes linear time. Raises SchemaError.

    Few are kept, because each comes to need up to 2 MB.
    """
    form = StringConstraints(pattern=rf"\A(?:{pattern})\z", max_length=LONGEST_VALUE, strict=True)
    return TypeAdapter(Annotated[str, form])


def matches(pattern: str, value: str) -> bool:
    """Whether a pattern of ``env`` matches the whole value, which has at most ``LONGEST_VALUE`` characters.

    Takes some 10 ms if the pattern was not among the last ones.
    """
    return _compiled(pattern).validator.isinstance_python(value) and value.isprintable()

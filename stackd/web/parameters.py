"""Query parameters: what each one means and how its text is read; those that select stacks, and fields of them.

A route declares its parameters, and OpenAPI describes them from that. Routes without parameters ignore the query. Routes
with parameters refuse unknown ones, so that a mistyped filter never gets an unfiltered answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar, overload

from aiohttp import web

from stackd.contract import DURATION, LONGEST_NAME, NOTHING, STACK_FIELDS
from stackd.errors import InvalidRequest
from stackd.model import Stack, StackStatus
from stackd.names import did_you_mean
from stackd.units import parse_duration
from stackd.web.auth import PARAMETER

T = TypeVar("T")
TRUE: Final = frozenset({"true", "1", ""})
FALSE: Final = frozenset({"false", "0"})
LONGEST_SHOWN: Final = 64
MOST_VALUES: Final = 16
"""How many different values a parameter may have: a stack has no more labels. Each is compared with each stack."""

_OFTEN_TRIED: Final[Mapping[tuple[str, ...], str]] = {
    ("sort", "sort_by", "order", "order_by", "orderby"): "stacks are always ordered by created_at, then stack_id",
    ("page", "offset", "skip", "per_page", "page_size"): "use limit and cursor (the next_cursor of the previous page)",
    ("q", "query", "search", "filter"): "filter by label, status, node or template",
}
"""Parameters of other APIs, and what to use here instead."""


@dataclass(frozen=True, slots=True, eq=False)
class Parameter(Generic[T]):
    """A parameter, or a header (``where``). ``read`` raises InvalidRequest. ``many``: it may have ``MOST_VALUES`` values."""

    name: str
    about: str
    read: Callable[[str], T]
    schema: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    many: bool = False
    example: Any = None
    where: str = "query"


class Parameters:
    """The query of one request, which may have the ``declared`` parameters. A value that is given again is ignored."""

    def __init__(self, request: web.Request, declared: Sequence[Parameter[Any]]) -> None:
        self._values: dict[str, list[str]] = {}
        many = {each.name: each.many for each in declared if each.where == "query"}
        for name, value in request.query.items():
            if name == PARAMETER:
                continue
            if name not in many:
                raise InvalidRequest(f"unknown parameter {_unknown(name, list(many))}")
            values = self._values.setdefault(name, [])
            if values and not many[name]:
                raise InvalidRequest(f"the parameter {name} is given more than once")
            if value not in values:
                values.append(value)
            if len(values) > MOST_VALUES:
                raise InvalidRequest(f"the parameter {name} has more than {MOST_VALUES} different values")

    def __bool__(self) -> bool:
        return bool(self._values)

    def __contains__(self, parameter: Parameter[Any]) -> bool:
        return parameter.name in self._values

    def all(self, parameter: Parameter[T]) -> list[T]:
        """All values, in order. Raises InvalidRequest."""
        return [parameter.read(value) for value in self._values.get(parameter.name, ())]

    @overload
    def get(self, parameter: Parameter[T]) -> T | None: ...
    @overload
    def get(self, parameter: Parameter[T], default: T) -> T: ...
    def get(self, parameter: Parameter[T], default: T | None = None) -> T | None:
        """The value, or the default. Raises InvalidRequest."""
        values = self.all(parameter)
        return values[0] if values else default


def flag(name: str, about: str) -> Parameter[bool]:
    """A parameter that is true or false; a bare name counts as true."""

    def read(text: str) -> bool:
        if text.lower() in FALSE | TRUE:
            return text.lower() in TRUE
        raise InvalidRequest(f"{name} must be true or false, not {text[:LONGEST_SHOWN]!r}")

    return Parameter(name, about, read, {"enum": ["true", "false", "1", "0", ""]})


def number(name: str, about: str, least: int, most: int) -> Parameter[int]:
    """A whole number within bounds."""

    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most:
            return int(text)
        raise InvalidRequest(f"{name} must be a whole number from {least} to {most}, not {text[:LONGEST_SHOWN]!r}")

    return Parameter(name, about, read, {"type": "integer", "minimum": least, "maximum": most})


def length(name: str, about: str) -> Parameter[float]:
    """A duration such as ``30s``, in seconds."""
    return Parameter(name, about, lambda text: seconds_of(name, text), DURATION)


def one_of(name: str, about: str, values: Sequence[str]) -> Parameter[str]:
    """One of these texts."""

    def read(text: str) -> str:
        if text in values:
            return text
        some = "one of " if len(values) > 1 else ""
        raise InvalidRequest(f"{name} must be {some}{', '.join(values)}, not {text[:LONGEST_SHOWN]!r}")

    return Parameter(name, about, read, {"enum": list(values)})


def text(name: str, about: str, **schema: Any) -> Parameter[str]:
    """Any text."""
    return Parameter(name, about, str, schema)


def seconds_of(name: str, text: str) -> float:
    """The seconds of a duration. Raises InvalidRequest, naming ``name``."""
    try:
        return parse_duration(text)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequest(f'{name} must be a duration such as "30m", "1h30m" or "90s"') from exc


def unknown(name: str, known: Sequence[str]) -> str:
    """A message about an unknown name: the name, shortened, and the nearest one that there is, or all of them."""
    return repr(short(name)) + (did_you_mean(name, known) or f"; known are {', '.join(known)}")


def short(name: str) -> str:
    """The name, or its beginning."""
    return name if len(name) <= LONGEST_SHOWN else name[:LONGEST_SHOWN] + "…"


def _unknown(name: str, known: Sequence[str]) -> str:
    meant = next((instead for names, instead in _OFTEN_TRIED.items() if name.lower() in names), "")
    return f"{short(name)!r}; {meant}" if meant else unknown(name, known)


# ---- which stacks, and which of their fields

Test = Callable[[Stack], bool]


def chosen_fields(text: str) -> tuple[str, ...]:
    """The fields of a stack that the text names, in the documented order. Raises InvalidRequest."""
    names = set(text.split(","))
    unknown = sorted(names.difference(STACK_FIELDS))
    if unknown:
        raise InvalidRequest(f"fields: there is no field {unknown[0][:64]!r}; there are {', '.join(STACK_FIELDS)}")
    return tuple(name for name in STACK_FIELDS if name in names)


def label_of(text: str) -> tuple[str, str | None]:
    """A label's key, and its value; None for any. Raises InvalidRequest."""
    key, with_value, value = text.partition("=")
    if not key:
        raise InvalidRequest("label must be key=value, or key for any value")
    return key, value if with_value else None


def _has_label(text: str) -> Test:
    key, value = label_of(text)
    if value is None:
        return lambda stack: key in stack.labels
    return lambda stack: stack.labels.get(key) == value


def _has_status(text: str) -> Test:
    status = _STATUS.read(text)
    return lambda stack: stack.status == status


def _named(name: str, attribute: str) -> Callable[[str], Test]:
    """Any name is valid: stacks of a removed node or template may still exist."""

    def test(text: str) -> Test:
        if not 0 < len(text) <= LONGEST_NAME:
            raise InvalidRequest(f"{name} must be the name of a {name}, of 1 to {LONGEST_NAME} characters")
        return lambda stack: getattr(stack, attribute) == text

    return test


_STATUS: Final = one_of("status", "Any of these statuses.", list(StackStatus))
_NAME: Final = {"minLength": 1, "maxLength": LONGEST_NAME}
FIELDS: Final = Parameter(
    "fields",
    "Only these fields, with commas between them.",
    chosen_fields,
    {"pattern": "^(?:{0})(?:,(?:{0}))*$".format("|".join(STACK_FIELDS))},
    example="stack_id,status",
)
LABEL: Final = Parameter(
    "label",
    "`key=value`, or `key` for any value. If repeated, a stack must match all of them.",
    _has_label,
    {"pattern": "^[^=]"},
    many=True,
    example=["team=7"],
)
STATUS: Final = Parameter(_STATUS.name, _STATUS.about, _has_status, _STATUS.schema, many=True)
NODE: Final = Parameter("node", "On this node.", _named("node", "node_id"), _NAME)
TEMPLATE: Final = Parameter("template", "Made from this template.", _named("template", "template"), _NAME)
FILTERS: Final = (LABEL, STATUS, NODE, TEMPLATE)


class StackSelection:
    """The stacks that the filters of a request select. Raises InvalidRequest if a value is wrong."""

    def __init__(self, parameters: Parameters) -> None:
        read = [(each, parameters.all(each)) for each in FILTERS]
        self._tests = [(each, tests) for each, tests in read if tests]

    def __bool__(self) -> bool:
        """Whether the request has any filter."""
        return bool(self._tests)

    def matches(self, stack: Stack) -> bool:
        """Whether the stack is selected as it is now: by any status, and by all of the others."""
        return all((any if each is STATUS else all)(test(stack) for test in tests) for each, tests in self._tests)

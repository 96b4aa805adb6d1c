"""Query parameters: what each one means and how its text is read; those that select stacks, and fields of them.

A route declares its parameters, and OpenAPI describes them from that. Every route refuses others, so that a mistyped filter
never gets an unfiltered answer; only the pages for browsers ignore the query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar, overload

from stackd.codes import ErrorCode
from stackd.contract import LONGEST_NAME, NOTHING, STACK_FIELDS
from stackd.errors import InvalidRequest
from stackd.model import Stack, StackStatus
from stackd.names import did_you_mean
from stackd.units import parse_duration
from stackd.web.auth import PARAMETER

T = TypeVar("T")
LONGEST_SHOWN: Final = 64
MOST_VALUES: Final = 16
"""How many different values a parameter may have: a stack has no more labels. Each is compared with each stack."""

BOOLEANS: Final = {"true": True, "1": True, "": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True, eq=False)
class Parameter(Generic[T]):
    """A parameter, or a header (``where``). ``read`` raises ValueError with what its value has to be.

    ``many``: it may have ``MOST_VALUES`` values.
    """

    name: str
    about: str
    read: Callable[[str], T]
    schema: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    many: bool = False
    example: Any = None
    where: str = "query"
    required: bool = False


class Parameters:
    """The query of one request, which may have the ``declared`` parameters. A value that is given again is ignored."""

    def __init__(self, query: Iterable[tuple[str, str]], declared: Sequence[Parameter[Any]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        many = {each.name: each.many for each in declared if each.where == "query"}
        for name, value in query:
            if name == PARAMETER:
                continue
            if name not in many:
                sentence = f"unknown parameter {unknown(name, list(many))}"
                raise InvalidRequest(sentence, code=ErrorCode.UNKNOWN_PARAMETER)
            values = self._values.setdefault(name, [])
            if values and not many[name]:
                raise InvalidRequest(f"the parameter {name} is given more than once")
            if value not in values:
                values.append(value)
            if len(values) > MOST_VALUES:
                raise InvalidRequest(f"the parameter {name} has more than {MOST_VALUES} different values")
        for each in declared:
            if each.required and each.name not in self._values:
                raise InvalidRequest(f"the parameter {each.name} is required")

    def __bool__(self) -> bool:
        return bool(self._values)

    def all(self, parameter: Parameter[T]) -> list[T]:
        """All values, in order. Raises InvalidRequest."""
        return [self._read(parameter, value) for value in self._values.get(parameter.name, ())]

    @overload
    def get(self, parameter: Parameter[T]) -> T | None: ...
    @overload
    def get(self, parameter: Parameter[T], default: T) -> T: ...
    def get(self, parameter: Parameter[T], default: T | None = None) -> T | None:
        """The value, or the default. Raises InvalidRequest."""
        values = self.all(parameter)
        return values[0] if values else default

    @staticmethod
    def _read(parameter: Parameter[T], value: str) -> T:
        try:
            return parameter.read(value)
        except ValueError as error:
            raise InvalidRequest(f"{parameter.name} must be {error}, not {short(value)!r}") from error


NO_PARAMETERS: Final = Parameters(())


def flag(name: str, about: str) -> Parameter[bool]:
    """A parameter that is true or false; a bare name counts as true."""

    def read(text: str) -> bool:
        if (value := BOOLEANS.get(text.lower())) is None:
            raise ValueError("true or false")
        return value

    return Parameter(name, about, read, {"enum": ["true", "false", "1", "0", ""]})


def number(name: str, about: str, least: int, most: int) -> Parameter[int]:
    """A whole number within bounds."""

    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"a whole number from {least} to {most}")

    return Parameter(name, about, read, {"type": "integer", "minimum": least, "maximum": most})


def one_of(name: str, about: str, values: Sequence[str]) -> Parameter[str]:
    def read(text: str) -> str:
        if text in values:
            return text
        raise ValueError(("one of " if len(values) > 1 else "") + ", ".join(values))

    return Parameter(name, about, read, {"enum": list(values)})


def any_of(name: str, about: str, values: Sequence[str], alone: str = "") -> Parameter[frozenset[str]]:
    """Some of these texts, with commas between them; or only what stands ``alone``."""

    def read(text: str) -> frozenset[str]:
        found = frozenset(text.split(","))
        if found <= {*values} or (alone and text == alone):
            return found
        other = f", or {alone} alone" if alone else ""
        raise ValueError(f"one or more of {', '.join(values)}, with commas between them{other}")

    several = "(?:{0})(?:,(?:{0}))*".format("|".join(values))
    return Parameter(name, about, read, {"pattern": f"^(?:{several}|{alone})$" if alone else f"^{several}$"})


def named(name: str, about: str) -> Parameter[str]:
    """Any name: that of a removed node or template, too, because its stacks may still exist."""

    def read(text: str) -> str:
        if not 0 < len(text) <= LONGEST_NAME:
            raise ValueError(f"the name of a {name}, of 1 to {LONGEST_NAME} characters")
        return text

    return Parameter(name, about, read, {"minLength": 1, "maxLength": LONGEST_NAME})


def seconds_of(text: str) -> float:
    """The seconds of a duration. Raises ValueError with what it has to be."""
    try:
        return parse_duration(text)
    except (ValueError, OverflowError):
        raise ValueError('a duration such as "30m", "1h30m" or "90s"') from None


def unknown(name: str, names: Sequence[str]) -> str:
    """A message about an unknown name: the name, shortened, and the nearest one that there is, or all of them."""
    known = f"; known are {', '.join(names)}" if names else "; there are none here"
    return repr(short(name)) + (did_you_mean(name, names) or known)


def short(name: str) -> str:
    """The name, or its beginning."""
    return name if len(name) <= LONGEST_SHOWN else name[:LONGEST_SHOWN] + "…"


# ---- which stacks, and which of their fields


def chosen_fields(text: str) -> tuple[str, ...]:
    """The fields of a stack that the text names, in the documented order. Raises ValueError."""
    names = set(text.split(","))
    if not names <= set(STACK_FIELDS):
        raise ValueError(f"of {', '.join(STACK_FIELDS)}, with commas between them")
    return tuple(name for name in STACK_FIELDS if name in names)


def label_of(text: str) -> tuple[str, str | None]:
    """A label's key, and its value; None for any. Raises ValueError."""
    key, with_value, value = text.partition("=")
    if not key:
        raise ValueError("key=value, or key for any value")
    return key, value if with_value else None


def labels(about: str, example: str) -> Parameter[tuple[str, str | None]]:
    """Labels that all have to match."""
    return Parameter("label", about, label_of, {"pattern": "^[^=]"}, many=True, example=[example])


FIELDS: Final = Parameter(
    "fields",
    "Only these fields, with commas between them.",
    chosen_fields,
    {"pattern": "^(?:{0})(?:,(?:{0}))*$".format("|".join(STACK_FIELDS))},
    example="stack_id,status",
)
LABEL: Final = labels("`key=value`, or `key` for any value. If repeated, a stack must match all of them.", "player=7")
STATUS: Final = replace(one_of("status", "Any of these statuses.", list(StackStatus)), many=True)
NODE: Final = named("node", "On this node.")
DRY_RUN: Final = flag("dry_run", "`true` or `1`: say what would be done, and change nothing.")
TEMPLATE: Final = named("template", "Made from this template.")
ENDED: Final = flag("ended", "`false`: only stacks whose pod has not ended for good; `true`: only those whose pod has.")
FILTERS: Final = (LABEL, STATUS, NODE, TEMPLATE, ENDED)


class StackSelection:
    """The stacks that the filters of a request select. Raises InvalidRequest if a value is wrong."""

    def __init__(self, parameters: Parameters) -> None:
        self._labels = parameters.all(LABEL)
        self._statuses = frozenset(parameters.all(STATUS))
        self._node, self._template = parameters.get(NODE), parameters.get(TEMPLATE)
        self._ended = parameters.get(ENDED)

    def __bool__(self) -> bool:
        """Whether the request has any filter."""
        return bool(self._labels or self._statuses or self._node or self._template) or self._ended is not None

    def matches(self, stack: Stack) -> bool:
        """Whether the stack is selected as it is now: by any status, and by all of the others."""
        return (
            (not self._statuses or stack.status in self._statuses)
            and self._node in (None, stack.node_id)
            and self._template in (None, stack.template)
            and self._ended in (None, stack.ended)
            and all(
                stack.labels.get(key) == value if value is not None else key in stack.labels
                for key, value in self._labels
            )
        )

"""Which stacks a request selects, and which of their fields: the parameters of the list and of the event stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from stackd.contract import LONGEST_NAME, STACK_FIELDS
from stackd.errors import InvalidRequest
from stackd.model import Stack, StackStatus
from stackd.web.parameters import Parameter, Parameters, one_of

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
LASTING: Final = (LABEL, TEMPLATE)
"""A stack passes these filters for its whole life or never."""


class StackSelection:
    """The stacks that the filters of a request select. Raises InvalidRequest if a value is wrong."""

    def __init__(self, parameters: Parameters) -> None:
        read = [(each, parameters.all(each)) for each in FILTERS]
        self._tests = [(each, tests) for each, tests in read if tests]

    def __bool__(self) -> bool:
        """Whether the request has any filter."""
        return bool(self._tests)

    def matches(self, stack: Stack, among: Iterable[Parameter[Test]] = FILTERS) -> bool:
        """Whether the stack is selected as it is now, by the filters ``among``: by any status, and by all labels."""
        for each, tests in self._tests:
            if each in among and not (any if each is STATUS else all)(test(stack) for test in tests):
                return False
        return True

    def may_have_matched(self, stack: Stack) -> bool:
        """Whether the stack may have been selected earlier."""
        return self.matches(stack, LASTING)

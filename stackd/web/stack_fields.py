"""The fields of a stack, and the filters that select stacks by them: one table each.

Owns: names, order and meaning. These tables define the answers, the choice of fields, the schemas of the API document,
and the parameters of the list and of the event stream. The first fourteen fields are the contract's, in its order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Final

import orjson

from stackd.clock import from_nanoseconds as rfc3339
from stackd.errors import InvalidRequest
from stackd.model import RoutedPort, Stack, StackStatus
from stackd.names import LONGEST_SUBDOMAIN
from stackd.web.requests import Parameters
from stackd.web.schema import Schema, flag, many, moment, nullable, number, one_of, ref, table, text


@dataclass(frozen=True, slots=True, kw_only=True)
class StackField:
    """A field: how to read it, and its schema in the API document. Fields of the ``contract`` are in the list, too.

    An ``optional`` field is left out if it is None.
    """

    name: str
    value: Callable[[Stack], object]
    schema: Schema
    contract: bool = True
    optional: bool = False


def pod_spec_text(stack: Stack) -> str:
    """A stack's pod spec. Raises ValueError if it has to be read first (``Stacks.whole``): no answer may lack it."""
    if stack.pod_spec is None:
        raise ValueError(f"the pod spec of {stack.stack_id} was not read")
    return stack.pod_spec


def shown_ports(stack: Stack) -> list[object]:
    """The ports; those with names have a `url`, or a `host`, instead of a node port."""
    return [_shown_port(port) if isinstance(port, RoutedPort) else port for port in stack.ports]


def _shown_port(port: RoutedPort) -> dict[str, object]:
    where = {"url": port.url} if port.url else {"host": port.host}
    return {"container_port": port.container_port, "protocol": port.protocol, **where}


def _field(name: str, schema: Schema, value: Callable[[Stack], object] | None = None, **options: bool) -> StackField:
    return StackField(name=name, value=value or attrgetter(name), schema=schema, **options)


_beyond = partial(_field, contract=False)


def _time(name: str, about: str) -> StackField:
    return _field(name, moment(about), lambda stack: rfc3339(getattr(stack, name)))


_TABLE: Final = (
    _field("stack_id", ref("StackId")),
    _field("pod_id", text("The pod's name."), attrgetter("pod_name")),
    _field("namespace", text("Where the pod is.")),
    _field("node_id", nullable(text("The node that the pod is on; null while there is none."))),
    _field("node_public_ip", nullable(text("The node's public address; null where none is known."))),
    _field(
        "pod_spec",
        text("What runs: the request's pod spec, sanitized, as YAML.", contentMediaType="application/yaml"),
        pod_spec_text,
    ),
    _field(
        "ports", many(ref("Port"), "Where the stack is reached: `node_public_ip:node_port`, or a name."), shown_ports
    ),
    _field("service_name", text("The service's name.")),
    _field("status", ref("StackStatus")),
    _time("ttl_expires_at", "When stackd deletes the stack."),
    _time("created_at", "When it was created."),
    _time("updated_at", "When a visible part of it last changed."),
    _field("requested_cpu_milli", number("CPU that is reserved for it, in thousandths of a core.")),
    _field("requested_memory_bytes", number("Memory that is reserved for it.")),
    _beyond("status_reason", text("Why the status is what it is, in one word; empty if there is no reason to give.")),
    _beyond("status_message", text("The same in a sentence. It may quote the pod: treat it as the tenant's text.")),
    _beyond("labels", table(text("A value."), "The labels from the create."), lambda stack: dict(stack.labels)),
    _beyond("ended", flag("Whether the pod has ended for good. Its ports and service are released; the record stays.")),
    _beyond("template", text("The template that it was made from; left out where there is none."), optional=True),
)
FIELDS: Final[Mapping[str, StackField]] = {field.name: field for field in _TABLE}
CONTRACT: Final = tuple(field.name for field in _TABLE if field.contract)
OPTIONAL: Final = tuple(field.name for field in _TABLE if field.optional)
POD_SPEC: Final = "pod_spec"
STATUS_READ: Final = {"stack_id": "stack_id", "status": "status", "ttl": "ttl_expires_at", "ports": "ports"} | {
    "node_public_ip": "node_public_ip"
}
"""The answer to a status read: its own names for the fields."""


def schemas_of(names: Iterable[str]) -> dict[str, Schema]:
    """The schemas of these fields in the API document."""
    return {name: FIELDS[name].schema for name in names}


def renderer(names: Mapping[str, str] | Iterable[str]) -> Callable[[Stack], bytes]:
    """Return a function that renders a stack as JSON with these fields only. A mapping maps shown names to fields."""
    pairs = names.items() if isinstance(names, Mapping) else ((name, name) for name in names)
    fields = [(shown, FIELDS[name]) for shown, name in pairs]
    chosen = [(shown, field.value) for shown, field in fields if not field.optional]
    optional = [(shown, field.value) for shown, field in fields if field.optional]

    def render(stack: Stack) -> bytes:
        told = {name: value(stack) for name, value in chosen}
        for name, value in optional:
            if (found := value(stack)) is not None:
                told[name] = found
        return orjson.dumps(told)

    return render


def chosen_fields(parameters: Parameters) -> tuple[str, ...]:
    """The fields that the parameter ``fields`` names, in the documented order; empty if it is not given.

    Raises InvalidRequest.
    """
    given = parameters.get("fields")
    if given is None:
        return ()
    names = set(given.split(","))
    unknown = sorted(names - FIELDS.keys())
    if unknown:
        raise InvalidRequest(f"fields: there is no field {unknown[0][:64]!r}; there are {', '.join(FIELDS)}")
    return tuple(name for name in FIELDS if name in names)


Test = Callable[[Stack], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFilter:
    """A parameter that selects stacks. If ``repeated``, ``all`` or ``any`` of its tests must hold; None forbids that.

    ``lasting``: a stack passes the test for its whole life or never.
    """

    name: str
    test: Callable[[str], Test]
    about: str
    schema: Schema
    repeated: Callable[[Iterable[bool]], bool] | None = None
    lasting: bool = False
    example: Any = None


def status_named(name: str, given: str, *others: str) -> StackStatus:
    """A status by its name. The parameter ``name`` may have the values ``others``, too. Raises InvalidRequest."""
    try:
        return StackStatus(given)
    except ValueError:
        raise InvalidRequest(
            f"{name} must be one of {', '.join((*StackStatus, *others))}, not {given[:64]!r}"
        ) from None


def _has_label(given: str) -> Test:
    key, with_value, value = given.partition("=")
    if not key:
        raise InvalidRequest("label must be key=value, or key for any value")
    if not with_value:
        return lambda stack: key in stack.labels
    return lambda stack: stack.labels.get(key) == value


def _has_status(given: str) -> Test:
    status = status_named("status", given)
    return lambda stack: stack.status is status


def _named(parameter: str, attribute: str) -> Callable[[str], Test]:
    """Any name is valid: stacks of a removed node or template may still exist."""

    def test(given: str) -> Test:
        if not 0 < len(given) <= LONGEST_SUBDOMAIN:
            raise InvalidRequest(
                f"{parameter} must be the name of a {parameter}, of 1 to {LONGEST_SUBDOMAIN} characters"
            )
        return lambda stack: getattr(stack, attribute) == given

    return test


FILTERS: Final = (
    StackFilter(
        name="label",
        test=_has_label,
        repeated=all,
        lasting=True,
        about="`key=value`, or `key` for any value. If repeated, a stack must match all of them.",
        schema=text("A label.", pattern="^[^=]"),
        example=["team=7"],
    ),
    StackFilter(
        name="status",
        test=_has_status,
        repeated=any,
        about="Any of these statuses.",
        schema=one_of(StackStatus, "A status."),
    ),
    StackFilter(
        name="node",
        test=_named("node", "node_id"),
        about="On this node.",
        schema=text("A node's name.", minLength=1, maxLength=LONGEST_SUBDOMAIN),
    ),
    StackFilter(
        name="template",
        test=_named("template", "template"),
        lasting=True,
        about="Made from this template.",
        schema=text("A template's name.", minLength=1, maxLength=LONGEST_SUBDOMAIN),
    ),
)
FILTERS_ONCE: Final = tuple(each.name for each in FILTERS if each.repeated is None)
FILTERS_MANY: Final = tuple(each.name for each in FILTERS if each.repeated is not None)


class StackSelection:
    """The stacks that the filters of a request select. Raises InvalidRequest if a value is wrong."""

    def __init__(self, parameters: Parameters) -> None:
        given = [(each, [each.test(value) for value in parameters.all(each.name)]) for each in FILTERS]
        self._tests = [(each, tests) for each, tests in given if tests]

    def __bool__(self) -> bool:
        """Whether the request has any filter."""
        return bool(self._tests)

    def matches(self, stack: Stack) -> bool:
        """Whether the stack is selected as it is now."""
        return all((each.repeated or all)(test(stack) for test in tests) for each, tests in self._tests)

    def may_have_matched(self, stack: Stack) -> bool:
        """Whether the stack may have been selected earlier: it passes the filters that are ``lasting``."""
        lasting = [(each, tests) for each, tests in self._tests if each.lasting]
        return all((each.repeated or all)(test(stack) for test in tests) for each, tests in lasting)

"""Query parameters and headers, as they are described."""

from __future__ import annotations

from dataclasses import replace

from stackd.lifecycle.replay import KEY_LIMIT
from stackd.model import StackStatus
from stackd.podspec.target_ports import MAX_TARGET_PORTS
from stackd.web import answers
from stackd.web.capacity import DEFAULT_CPU, DEFAULT_MEMORY
from stackd.web.finding import DEFAULT_PAGE, LARGEST_PAGE, LONGEST_NAME
from stackd.web.history import DEFAULT_TAIL, LONGEST_TAIL
from stackd.web.openapi.operation import Parameter
from stackd.web.openapi.schemas import duration
from stackd.web.openapi.shapes import number, one_of, text
from stackd.web.stacks import DEFAULT_WAIT, LONGEST_WAIT

JOB_LINK = {"job": {"operationId": "getBatchDelete", "parameters": {"job_id": "$response.body#/job_id"}}}
_FIELD = f"(?:{'|'.join(answers.FIELDS)})"
_QUANTITY = {"format": "stackd-quantity", "minLength": 1, "maxLength": 64}

IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    where="header",
    about="A value of the client's for one request: repeated with it, the request gets the first answer again.",
    schema=text("Printable ASCII.", pattern="^[!-~](?:[ -~]*[!-~])?$", maxLength=KEY_LIMIT),
)
CREATE_QUERY = (
    Parameter(
        name="dry_run",
        about="`true` or `1`: validate here and in the cluster, and write nothing.",
        schema=text("True or false.", enum=["true", "false", "1", "0", ""]),
    ),
)
LABEL = Parameter(
    name="label",
    many=True,
    about="`key=value`, or `key` for any value; all of them, if repeated.",
    schema=text("A label.", pattern="^[^=]"),
    example=["team=7"],
)
STATUS = Parameter(name="status", many=True, about="Any of these statuses.", schema=one_of(StackStatus, "A status."))
NODE = Parameter(name="node", about="On this node.", schema=text("A node's name.", minLength=1, maxLength=LONGEST_NAME))
FIELDS = Parameter(
    name="fields",
    about="Only these fields, with commas between them.",
    schema=text("Names of fields.", pattern=f"^{_FIELD}(?:,{_FIELD})*$"),
    example="stack_id,status",
)
LIST_QUERY = (
    LABEL,
    STATUS,
    NODE,
    Parameter(
        name="limit",
        about=f"A page of so many at most ({DEFAULT_PAGE} with a cursor alone); the answer then has `next_cursor`.",
        schema=number("How many.", 1, LARGEST_PAGE),
    ),
    Parameter(
        name="cursor", about="The `next_cursor` of the page before.", schema=text("Opaque.", format="stackd-cursor")
    ),
    FIELDS,
)
DELETE_QUERY = (replace(LABEL, required=True), STATUS, NODE)
WAIT_QUERY = (
    Parameter(name="wait", about="Hold the answer back until this status.", schema=one_of(StackStatus, "A status.")),
    Parameter(
        name="timeout",
        about=f"For how long at most; {DEFAULT_WAIT:g} s if not given, never longer than {LONGEST_WAIT:g} s.",
        schema=duration("How long."),
    ),
)
CAPACITY_QUERY = (
    Parameter(
        name="cpu", about=f"CPU of one stack; {DEFAULT_CPU} if not given.", schema=text("A quantity.", **_QUANTITY)
    ),
    Parameter(
        name="memory",
        about=f"Memory of one stack; {DEFAULT_MEMORY} if not given.",
        schema=text("A quantity.", **_QUANTITY),
    ),
    Parameter(name="ports", about="Ports of one stack.", schema=number("How many.", 1, MAX_TARGET_PORTS)),
)
LAST_EVENT_ID = Parameter(
    name="Last-Event-ID", where="header", about="Go on behind this event.", schema=text("An event's id.")
)
TAIL = Parameter(
    name="tail",
    about=f"So many of the last lines; {DEFAULT_TAIL} if not given.",
    schema=number("Lines.", 1, LONGEST_TAIL),
)
CONTAINER = Parameter(
    name="container", about="Of this container; the first one if not given.", schema=text("A container's name.")
)

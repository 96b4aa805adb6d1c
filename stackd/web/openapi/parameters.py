"""Query parameters and headers, as they are described."""

from __future__ import annotations

from stackd.lifecycle.replay import KEY_LIMIT
from stackd.model import StackStatus
from stackd.web.openapi.operation import Parameter
from stackd.web.openapi.schemas import duration
from stackd.web.openapi.shapes import number, one_of, text

LARGEST_PAGE = 1000
JOB_LINK = {"job": {"operationId": "getBatchDelete", "parameters": {"job_id": "$response.body#/job_id"}}}
IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    where="header",
    about="A value of the client's for one request: repeated with it, the request gets the first answer again.",
    schema=text("Printable ASCII.", pattern="^[!-~](?:[ -~]*[!-~])?$", maxLength=KEY_LIMIT),
)
CREATE_QUERY = (
    Parameter(
        name="dry_run",
        about="`true`: validate here and in the cluster, and write nothing.",
        schema={"type": "boolean"},
    ),
)
LABEL = Parameter(
    name="label",
    many=True,
    about="`key=value`, or `key` for any value; all of them, if repeated.",
    schema=text("A label.", format="stackd-label"),
    example=["team=7"],
)
STATUS = Parameter(name="status", many=True, about="Any of these statuses.", schema=one_of(StackStatus, "A status."))
NODE = Parameter(name="node", about="On this node.", schema=text("A node's name.", minLength=1, maxLength=253))
LIST_QUERY = (
    LABEL,
    STATUS,
    NODE,
    Parameter(
        name="limit",
        about="A page of so many at most; the answer then has `next_cursor`.",
        schema=number("How many.", 1, LARGEST_PAGE),
    ),
    Parameter(
        name="cursor",
        about="The `next_cursor` of the page before.",
        schema=text("Opaque.", format="stackd-cursor"),
    ),
    Parameter(
        name="fields",
        about="Only these fields, with commas between them.",
        schema=text("Names of fields.", format="stackd-fields"),
        example="stack_id,status",
    ),
)
WAIT_QUERY = (
    Parameter(name="wait", about="Hold the answer back until this status.", schema=one_of(StackStatus, "A status.")),
    Parameter(name="timeout", about="For how long at most; 60s is the longest.", schema=duration("How long.")),
)
LAST_EVENT_ID = Parameter(
    name="Last-Event-ID", where="header", about="Resume behind this event.", schema=text("An event's id.")
)
TAIL = Parameter(name="tail", about="Only so many of the last lines.", schema=number("Lines.", 1, 10_000))
CONTAINER = Parameter(name="container", about="Of this container.", schema=text("A name.", minLength=1, maxLength=63))

"""The description of each route, by method and path as in the route table.

Owns: query parameters and headers, and the text, examples and possible responses of each route.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stackd.lifecycle.idempotency import KEY_LIMIT
from stackd.model import StackStatus
from stackd.podspec.request import MAX_TARGET_PORTS
from stackd.units import format_duration
from stackd.web.listing import DEFAULT_PAGE, LARGEST_PAGE
from stackd.web.openapi import examples
from stackd.web.openapi.schemas import duration
from stackd.web.schema import Body, Operation, Parameter, ResponseDoc, number, ref, text
from stackd.web.stack_fields import FIELDS as STACK_FIELDS
from stackd.web.stack_fields import FILTERS
from stackd.web.stacks import DEFAULT_TAIL, DEFAULT_WAIT, DELETED, LONGEST_TAIL, LONGEST_WAIT
from stackd.web.system import DEFAULT_CPU, DEFAULT_MEMORY

JOB_LINK = {"job": {"operationId": "getBatchDelete", "parameters": {"job_id": "$response.body#/job_id"}}}
_FIELD = f"(?:{'|'.join(STACK_FIELDS)})"
_FLAG = text("True or false.", enum=["true", "false", "1", "0", ""])
_QUANTITY = {"format": "stackd-quantity", "minLength": 1, "maxLength": 64}

IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    where="header",
    about="A value that the client chooses for one request. For a day, a repetition with the same value gets the first answer "
    "again, even if limits or policies have changed.",
    schema=text("Printable ASCII.", pattern="^[!-~](?:[ -~]*[!-~])?$", maxLength=KEY_LIMIT),
)
DRY_RUN = Parameter(
    name="dry_run", about="`true` or `1`: validate here and in the cluster, and write nothing.", schema=_FLAG
)
FILTER_QUERY = tuple(
    Parameter(
        name=each.name, about=each.about, schema=each.schema, many=each.repeated is not None, example=each.example
    )
    for each in FILTERS
)
FIELDS = Parameter(
    name="fields",
    about="Only these fields, with commas between them.",
    schema=text("Names of fields.", pattern=f"^{_FIELD}(?:,{_FIELD})*$"),
    example="stack_id,status",
)
HISTORY_FLAG = Parameter(name="history", about="With `history`, which has one sample now.", schema=_FLAG)
LIST_QUERY = (
    *FILTER_QUERY,
    Parameter(
        name="limit",
        about=f"Most stacks on a page ({DEFAULT_PAGE} if only a cursor is given). The answer then has `next_cursor`.",
        schema=number("How many.", 1, LARGEST_PAGE),
    ),
    Parameter(
        name="cursor", about="The `next_cursor` of the previous page.", schema=text("Opaque.", format="stackd-cursor")
    ),
    FIELDS,
)
DELETE_QUERY = tuple(replace(each, required=each.name == "label") for each in FILTER_QUERY)
TIMEOUT = Parameter(
    name="timeout",
    about=f"The longest wait: {format_duration(DEFAULT_WAIT)} if not given, at most {format_duration(LONGEST_WAIT)}.",
    schema=duration("How long."),
)
WAIT_QUERY = (
    Parameter(
        name="wait",
        about="Wait for this status before answering, or until the stack is deleted.",
        schema=text("A status, or `deleted`.", enum=[*map(str, StackStatus), DELETED]),
    ),
    TIMEOUT,
)
DELETE_WAIT_QUERY = (
    Parameter(
        name="wait",
        about="Where the cluster cannot delete it at once: wait for that, instead of answering 503 now.",
        schema=text("Only `deleted`.", enum=[DELETED]),
    ),
    TIMEOUT,
)


def _amount(name: str, about: str) -> Parameter:
    return Parameter(name=name, about=about, schema=text("A quantity.", **_QUANTITY))


CAPACITY_QUERY = (
    _amount("cpu", f"CPU of one stack; {DEFAULT_CPU} if not given."),
    _amount("memory", f"Memory of one stack; {DEFAULT_MEMORY} if not given."),
    _amount(
        "ephemeral_storage",
        "Disk of one stack; if not given, what `policy.max_ephemeral_storage` or the namespace's LimitRange gives.",
    ),
    Parameter(name="ports", about="Ports of one stack.", schema=number("How many.", 1, MAX_TARGET_PORTS)),
)
LAST_EVENT_ID = Parameter(
    name="Last-Event-ID", where="header", about="Continue after this event.", schema=text("An event's id.")
)
TAIL = Parameter(
    name="tail",
    about=f"How many of the last lines; {DEFAULT_TAIL} if not given.",
    schema=number("Lines.", 1, LONGEST_TAIL),
)
CONTAINER = Parameter(
    name="container", about="Of this container; the first one if not given.", schema=text("A container's name.")
)


STACKS, BATCH, HISTORY = "Stacks", "Batch delete", "History"
HEALTH, OPERATOR, PAGES = "Health", "Operator", "Pages"
TAGS = {
    STACKS: "A stack is a hardened pod and a NodePort service with a time to live.",
    BATCH: "Deleting many stacks as one job.",
    HISTORY: "What happened to a stack, and what happens now.",
    HEALTH: "Whether stackd works, and how busy it is.",
    OPERATOR: "For whoever runs stackd.",
    PAGES: "For browsers. They hold no data and need no key.",
}
STREAM = ResponseDoc(
    about="Events until one side closes the connection. A comment every 15 s shows that it is alive.",
    schema="StreamEvent",
    media="text/event-stream",
)
ABOUT_EVENTS = """\
Server-sent events; `data` is JSON.

- `hello`: the stream has begun, and what follows is new. List the stacks now.
- `stack`: a stack is new or has changed; the stack as in a list, with all its fields.
- `deleted`: `{"stack_id": …}`
- `job`: a batch-delete job changed; the data is the job.
- `left`: `{"stack_id": …}`; with a filter: the stack is there, but no longer one of those that you chose.
- `skipped`: after `Last-Event-ID`: of the stacks that follow, only the present state is still known, not each one between.
- `reset`: the event of `Last-Event-ID` is too old. List the stacks again.
- `dropped`: this client read too slowly. The stream ends. Continue with `Last-Event-ID`, or list again.

A browser's EventSource cannot send a header: read the stream with `fetch`, or give the key as `api_key`."""


REFUSED = ResponseDoc(
    about="The request is wrong, and `reasons` says where; or the namespace's LimitRange refuses the pod.",
    schema="Refused",
    examples={"two mistakes": examples.REFUSED},
)


FITS = ResponseDoc(about="How many more fit.", schema="Capacity", examples={"14 more": examples.CAPACITY})


def _detail(about: str, status: str = "creating", *headers: str) -> ResponseDoc:
    shown = {status: {**examples.DETAIL, "status": status}}
    return ResponseDoc(about=about, schema="StackDetail", examples=shown, headers=headers)


CONTRACT: Mapping[tuple[str, str], Operation] = {
    ("POST", "/stacks"): Operation(
        id="createStack",
        tag=STACKS,
        summary="Create a stack",
        about="Answers when the pod is assigned to a node. A repetition with the same "
        "Idempotency-Key gets the first answer again.",
        parameters=(DRY_RUN, IDEMPOTENCY_KEY),
        body=Body(schema="Create", examples=examples.CREATES),
        answers={
            201: ResponseDoc(
                about="The stack.",
                schema="StackCreated",
                examples={"created": examples.CREATED_STACK},
                headers=("Idempotency-Replayed",),
            ),
            200: ResponseDoc(
                about="With `dry_run`: what would be created. With `if_exists=return`: the existing stack.",
                schema={
                    "oneOf": [{"$ref": "#/components/schemas/DryRun"}, {"$ref": "#/components/schemas/StackDetail"}]
                },
                headers=("Idempotency-Replayed",),
            ),
            400: REFUSED,
            409: ResponseDoc(
                about="A label's limit is reached (`limits.stacks_per_label`), or a request with the same "
                "Idempotency-Key is in progress.",
                schema="StackExists",
            ),
        },
        errors=(422,),
    ),
    ("GET", "/stacks"): Operation(
        id="listStacks",
        tag=STACKS,
        summary="List stacks",
        about="Without parameters: all stacks, with the documented fields.",
        parameters=LIST_QUERY,
        answers={
            200: ResponseDoc(about="Stacks.", schema="StackList", examples={"one": {"stacks": [examples.LISTED_STACK]}})
        },
    ),
    ("GET", "/stacks/{stack_id}"): Operation(
        id="getStack",
        tag=STACKS,
        summary="Get a stack",
        about="From what stackd knows: it answers while Kubernetes is away, too.",
        answers={200: ResponseDoc(about="The stack.", schema="StackDetail", examples={"running": examples.DETAIL})},
    ),
    ("GET", "/stacks/{stack_id}/status"): Operation(
        id="getStackStatus",
        tag=STACKS,
        summary="Get a stack's status",
        about="With `wait`, answers as soon as the stack has that status or can no longer reach it. `wait=deleted` answers as "
        "the delete does once the stack is gone.",
        parameters=WAIT_QUERY,
        answers={
            200: ResponseDoc(
                about="The status.",
                schema={"oneOf": [ref("StackStatusAnswer"), ref("Deleted")]},
                examples={"running": examples.STATUS},
            )
        },
    ),
    ("DELETE", "/stacks/{stack_id}"): Operation(
        id="deleteStack",
        tag=STACKS,
        summary="Delete a stack",
        parameters=DELETE_WAIT_QUERY,
        about="Answers when the cluster has confirmed that pod and service are gone.",
        answers={
            200: ResponseDoc(
                about="The stack is gone.",
                schema="Deleted",
                examples={"deleted": {"deleted": True, "stack_id": examples.STACK_ID}},
            )
        },
    ),
    ("POST", "/stacks/batch-delete"): Operation(
        id="batchDelete",
        tag=BATCH,
        summary="Delete many stacks",
        about="Answers at once. Ask for the job's progress with its id.",
        parameters=(IDEMPOTENCY_KEY,),
        body=Body(schema="BatchDelete", examples={"three": {"stack_ids": ["stack-1", "stack-2", "stack-3"]}}),
        answers={
            202: ResponseDoc(
                about="The job.",
                schema="JobAccepted",
                examples={"accepted": {"job_id": examples.JOB_ID}},
                headers=("Idempotency-Replayed",),
                links=JOB_LINK,
            )
        },
        errors=(409, 422),
    ),
    ("GET", "/stacks/batch-delete/{job_id}"): Operation(
        id="getBatchDelete",
        tag=BATCH,
        summary="Get a batch-delete job",
        about="Until `batch_delete.keep_jobs` after its end.",
        answers={200: ResponseDoc(about="The job.", schema="Job", examples={"finished": examples.JOB})},
    ),
}

MORE: Mapping[tuple[str, str], Operation] = {
    ("DELETE", "/stacks"): Operation(
        id="deleteStacks",
        tag=BATCH,
        summary="Delete all stacks with a label",
        about="Starts a batch-delete job for all stacks that match. At least one `label` is required.",
        parameters=DELETE_QUERY,
        answers={
            202: ResponseDoc(
                about="The job.",
                schema="JobOfMany",
                examples={"accepted": {"job_id": examples.JOB_ID, "total": 3}},
                links=JOB_LINK,
            )
        },
    ),
    ("POST", "/stacks/{stack_id}/extend"): Operation(
        id="extendStack",
        tag=STACKS,
        summary="Extend a stack's time to live",
        about="Adds to its end; the whole life may be `stacks.max_ttl` at most.",
        parameters=(IDEMPOTENCY_KEY,),
        body=Body(schema="Extend", examples={"half an hour": {"ttl": "30m"}}),
        answers={200: _detail("The stack.", "running", "Idempotency-Replayed"), 400: REFUSED},
        errors=(409, 422),
    ),
    ("POST", "/stacks/{stack_id}/restart"): Operation(
        id="restartStack",
        tag=STACKS,
        summary="Give a stack a fresh pod",
        about="Node ports and time to live stay the same. The node may change.",
        answers={200: _detail("The stack.")},
        errors=(409,),
    ),
    ("POST", "/stacks/{stack_id}/stop"): Operation(
        id="stopStack",
        tag=STACKS,
        summary="Stop a stack: remove its pod",
        about="Answers when the pod is gone. The stack keeps its node ports until it starts again or ends.",
        answers={200: _detail("The stack.", "stopped")},
        errors=(409,),
    ),
    ("POST", "/stacks/{stack_id}/start"): Operation(
        id="startStack",
        tag=STACKS,
        summary="Give a stopped stack a fresh pod",
        about="Node ports and time to live stay the same.",
        answers={200: _detail("The stack.")},
        errors=(409,),
    ),
    ("GET", "/stacks/{stack_id}/timeline"): Operation(
        id="getTimeline",
        tag=HISTORY,
        summary="What happened to a stack?",
        about="Available until `stacks.keep_history` after the stack is gone.",
        answers={
            200: ResponseDoc(
                about="The timeline.",
                schema="Timeline",
                examples={"failed": {"stack_id": examples.STACK_ID, "events": examples.EVENTS}},
            )
        },
    ),
    ("GET", "/stacks/{stack_id}/logs"): Operation(
        id="getLogs",
        tag=HISTORY,
        summary="What did a stack write?",
        about="From the cluster while the pod exists (no other read asks the cluster). Later, the last lines that stackd kept: "
        "of containers that failed, and of those that ran when their stack was deleted on its own or expired, as far as the "
        "cluster delivered them. Generated values are hidden.",
        parameters=(TAIL, CONTAINER),
        answers={200: ResponseDoc(about="The tenant's own text.", schema=text("Lines."), media="text/plain")},
        errors=(409,),
    ),
    ("GET", "/events"): Operation(
        id="streamEvents",
        tag=HISTORY,
        summary="Follow all stacks",
        about=ABOUT_EVENTS,
        parameters=(*FILTER_QUERY, FIELDS, LAST_EVENT_ID),
        answers={200: STREAM},
    ),
    ("GET", "/stacks/{stack_id}/events"): Operation(
        id="streamStackEvents",
        tag=HISTORY,
        summary="Follow one stack",
        about="As `GET /events`, for one stack: it begins with the stack's present state and ends when the stack is gone.",
        parameters=(FIELDS, LAST_EVENT_ID),
        answers={200: STREAM},
    ),
    ("GET", "/templates"): Operation(
        id="listTemplates",
        tag=STACKS,
        summary="List the templates",
        about="What a create can ask for by name, and how the pool of each is doing. A tenant's key sees those that it may use, "
        "and counts its own stacks.",
        parameters=(HISTORY_FLAG,),
        answers={200: ResponseDoc(about="The templates.", schema="Templates", examples={"one": examples.TEMPLATES})},
    ),
    ("GET", "/capacity"): Operation(
        id="getCapacity",
        tag=STACKS,
        summary="How many more fit?",
        about="Uses the quotas and LimitRanges that stackd read last. All keys share what is free.",
        parameters=CAPACITY_QUERY,
        answers={200: FITS},
    ),
    ("POST", "/capacity"): Operation(
        id="getCapacityFor",
        tag=STACKS,
        summary="How many more of this stack fit?",
        about="Takes the body of a create, and reads quotas and LimitRanges now.",
        body=Body(schema="Create", examples={"a web server": examples.CREATE}),
        answers={200: FITS, 400: REFUSED},
    ),
}

SYSTEM: Mapping[tuple[str, str], Operation] = {
    ("GET", "/healthz"): Operation(
        id="healthz",
        tag=HEALTH,
        summary="Does the process answer?",
        about="It asks neither the file nor the cluster.",
        answers={200: ResponseDoc(about="It does.", schema="Healthy", examples={"ok": {"status": "ok"}})},
    ),
    ("GET", "/readyz"): Operation(
        id="readyz",
        tag=HEALTH,
        summary="Does everything work?",
        about="Tries the file, and tells what is known of the cluster. Reads are answered while something does not work.",
        answers={
            200: ResponseDoc(about="It does.", schema="Ready", examples={"ready": {"status": "ready"}}),
            503: ResponseDoc(
                about="Something does not: Kubernetes is unreachable, silent, uncertain or lacks the node ports, no "
                "NetworkPolicy protects the stacks, the file cannot be written, or a brake is on.",
                schema={"anyOf": [{"$ref": "#/components/schemas/NotReady"}, {"$ref": "#/components/schemas/Error"}]},
                examples={"not ready": examples.NOT_READY},
                headers=("Retry-After",),
            ),
        },
    ),
    ("GET", "/stats"): Operation(
        id="stats",
        tag=HEALTH,
        summary="Counts over all stacks",
        about="Stacks, ports and reservations, from memory. A tenant's key counts its own stacks.",
        answers={200: ResponseDoc(about="Counts.", schema="Stats", examples={"seven": examples.STATS})},
    ),
    ("GET", "/metrics"): Operation(
        id="metrics",
        tag=HEALTH,
        summary="Metrics for Prometheus",
        about="Needs a key unless `metrics.public` is set.",
        answers={200: ResponseDoc(about="Prometheus' text format.", schema={"type": "string"}, media="text/plain")},
    ),
    ("GET", "/owner"): Operation(
        id="owner",
        tag=OPERATOR,
        summary="Who owns the stacks?",
        about="What the Lease says, and what this stackd is: the owner, or a standby that answers everything else with 503. "
        "Load balancers choose the stackd whose `role` is `owner`; a key of scope `metrics` is enough. "
        "For a tenant's key, all but `role` and `may_change` is empty.",
        answers={200: ResponseDoc(about="The owner.", schema="Owner")},
    ),
    ("POST", "/takeover"): Operation(
        id="takeOver",
        tag=OPERATOR,
        summary="Ask the owner to step back",
        about="For a standby. The owner finishes what is under way and hands the stacks over to this stackd; `GET /owner` tells "
        "when. 409 where nobody is there to be asked.",
        answers={
            202: ResponseDoc(about="The owner was asked.", schema="Takeover", examples={"asked": {"asked": "vm1"}})
        },
        errors=(409,),
    ),
    ("GET", "/reconcile"): Operation(
        id="reconcilePlan",
        tag=OPERATOR,
        summary="What would a pass of reconciliation do?",
        about="It changes nothing.",
        answers={200: ResponseDoc(about="The plan.", schema="Plan")},
    ),
    ("POST", "/reconcile/confirm"): Operation(
        id="reconcileConfirm",
        tag=OPERATOR,
        summary="Release a brake, once",
        about="Releases what is held back now, and nothing that comes later; objects that the last pass has listed as "
        "unknown are removed. Where no pass can be made at the moment, "
        "the answer is a 503 with the reason; the release then counts for a minute.",
        answers={200: ResponseDoc(about="What was released.", schema="Released")},
    ),
}


ABOUT_PAGES = "For browsers: it holds no data, and asks the API with a key that a person types in."
UNCHANGED = ResponseDoc(about="The client's copy is current.", media="")


def _page(name: str, summary: str, media: str = "text/html") -> Operation:
    page = ResponseDoc(about="The page.", schema={"type": "string"}, media=media)
    return Operation(
        id=name, tag=PAGES, summary=summary, about=ABOUT_PAGES, answers={200: page, 304: UNCHANGED}, errors=(404,)
    )


def _redirection(name: str, summary: str) -> Operation:
    there = ResponseDoc(about="The page is at `Location`.", media="", headers=("Location",))
    return Operation(id=name, tag=PAGES, summary=summary, about="A redirection for browsers.", answers={302: there})


BROWSER: Mapping[tuple[str, str], Operation] = {
    ("GET", "/"): _redirection("home", "To the dashboard, or to the docs where that is off"),
    ("GET", "/dashboard"): _page("dashboard", "The dashboard"),
    ("GET", "/dashboard/"): _redirection("dashboardBelow", "To the dashboard"),
    ("GET", "/docs"): _page("docs", "This API, to read"),
    ("GET", "/docs/"): _redirection("docsBelow", "To the docs"),
    ("GET", "/docs/{page}"): _page("guide", "A guide: integrate, api-guide or troubleshooting"),
    ("GET", "/favicon.ico"): _page("favicon", "The pages' icon", "image/svg+xml"),
    ("GET", "/static/{folder}/{file}"): Operation(
        id="staticFile",
        tag=PAGES,
        summary="A file of these pages",
        about="JavaScript, styles and the icon of the dashboard and the docs.",
        answers={200: ResponseDoc(about="The file.", media="*/*"), 304: UNCHANGED},
    ),
    ("GET", "/openapi.json"): Operation(
        id="openapi",
        tag=PAGES,
        summary="This API, for programs",
        about="This document, with the settings in force.",
        answers={200: ResponseDoc(about="OpenAPI 3.1.", schema={"type": "object"}), 304: UNCHANGED},
    ),
}

OPERATIONS: Mapping[tuple[str, str], Operation] = {**CONTRACT, **MORE, **SYSTEM, **BROWSER}

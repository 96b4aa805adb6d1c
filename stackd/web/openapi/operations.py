"""The descriptions of the routes: the route table names one for each route of the API.

Owns: query parameters and headers, and the text, examples and possible responses of each route.
"""

from __future__ import annotations

from stackd.lifecycle.idempotency import KEY_LIMIT
from stackd.model import StackStatus
from stackd.podspec.request import MAX_TARGET_PORTS
from stackd.units import format_duration
from stackd.web.activity import ACTIONS
from stackd.web.listing import DEFAULT_PAGE, LARGEST_PAGE
from stackd.web.openapi import examples
from stackd.web.openapi.schemas import duration
from stackd.web.requests import MOST_VALUES
from stackd.web.schema import Operation, Schema, answer, body, number, parameter, ref, text
from stackd.web.stack_fields import FIELDS as STACK_FIELDS
from stackd.web.stack_fields import FILTERS
from stackd.web.stacks import DEFAULT_TAIL, DEFAULT_WAIT, DELETED, LONGEST_TAIL, LONGEST_WAIT
from stackd.web.system import DEFAULT_CPU, DEFAULT_MEMORY

JOB_LINK = {"job": {"operationId": "getBatchDelete", "parameters": {"job_id": "$response.body#/job_id"}}}
BATCH_LINK = {"job": {"operationId": "getBatch", "parameters": {"job_id": "$response.body#/job_id"}}}
_FIELD = f"(?:{'|'.join(STACK_FIELDS)})"
_FLAG = text("True or false.", enum=["true", "false", "1", "0", ""])
_QUANTITY = {"format": "stackd-quantity", "minLength": 1, "maxLength": 64}

IDEMPOTENCY_KEY = parameter(
    "Idempotency-Key",
    "A value that the client chooses for one request. For a day, a repetition with the same value gets the first answer "
    "again, even if limits or policies have changed.",
    text("Printable ASCII.", pattern="^[!-~](?:[ -~]*[!-~])?$", maxLength=KEY_LIMIT),
    where="header",
)
DRY_RUN = parameter("dry_run", "`true` or `1`: validate here and in the cluster, and write nothing.", _FLAG)
FILTER_QUERY = tuple(
    parameter(each.name, each.about, each.schema, most=MOST_VALUES if each.repeated else 1, example=each.example)
    for each in FILTERS
)
FIELDS = parameter(
    "fields",
    "Only these fields, with commas between them.",
    text("Names of fields.", pattern=f"^{_FIELD}(?:,{_FIELD})*$"),
    example="stack_id,status",
)
HISTORY_FLAG = parameter("history", "With `history`, which has one sample now.", _FLAG)
LIST_QUERY = (
    *FILTER_QUERY,
    parameter(
        "limit",
        f"Most stacks on a page ({DEFAULT_PAGE} if only a cursor is given). The answer then has `next_cursor`.",
        number("How many.", 1, LARGEST_PAGE),
    ),
    parameter("cursor", "The `next_cursor` of the previous page.", text("Opaque.", format="stackd-cursor")),
    FIELDS,
)
DELETE_QUERY = tuple(each | ({"required": True} if each["name"] == "label" else {}) for each in FILTER_QUERY)
TIMEOUT = parameter(
    "timeout",
    f"The longest wait: {format_duration(DEFAULT_WAIT)} if not given, at most {format_duration(LONGEST_WAIT)}.",
    duration("How long."),
)
WAIT_QUERY = (
    parameter(
        "wait",
        "Wait for this status before answering, or until the stack is deleted.",
        text("A status, or `deleted`.", enum=[*map(str, StackStatus), DELETED]),
    ),
    TIMEOUT,
)
DELETE_WAIT_QUERY = (
    parameter(
        "wait",
        "Where the cluster cannot delete it at once: wait for that, instead of answering 503 now.",
        text("Only `deleted`.", enum=[DELETED]),
    ),
    TIMEOUT,
)


def _amount(name: str, about: str) -> Schema:
    return parameter(name, about, text("A quantity.", **_QUANTITY))


CAPACITY_QUERY = (
    _amount("cpu", f"CPU of one stack; {DEFAULT_CPU} if not given."),
    _amount("memory", f"Memory of one stack; {DEFAULT_MEMORY} if not given."),
    _amount(
        "ephemeral_storage",
        "Disk of one stack; if not given, what `policy.max_ephemeral_storage` or the namespace's LimitRange gives.",
    ),
    parameter("ports", "Ports of one stack.", number("How many.", 1, MAX_TARGET_PORTS)),
)
LAST_EVENT_ID = parameter("Last-Event-ID", "Continue after this event.", text("An event's id."), where="header")
TAIL = parameter("tail", f"How many of the last lines; {DEFAULT_TAIL} if not given.", number("Lines.", 1, LONGEST_TAIL))
CONTAINER = parameter("container", "Of this container; the first one if not given.", text("A container's name."))


STACKS, BATCH, HISTORY = "Stacks", "Batch jobs", "History"
HEALTH, OPERATOR = "Health", "Operator"
TAGS = {
    STACKS: "A stack is a hardened pod and a NodePort service with a time to live.",
    BATCH: "Extending, restarting, stopping, starting or deleting many stacks as one job.",
    HISTORY: "What happened to a stack, and what happens now.",
    HEALTH: "Whether stackd works, and how busy it is.",
    OPERATOR: "For whoever runs stackd.",
}
STREAM = answer(
    "Events until one side closes the connection. A comment every 15 s shows that it is alive.",
    "StreamEvent",
    media="text/event-stream",
)
ABOUT_EVENTS = """\
Server-sent events; `data` is JSON.

- `hello`: the stream has begun, and what follows is new. List the stacks now.
- `stack`: a stack is new or has changed; the stack as in a list, with all its fields.
- `deleted`: `{"stack_id": …}`
- `job`: a batch job changed; the data is the job, as `GET /stacks/batch-delete/{job_id}` shows one that deletes, and as
  `GET /stacks/batch/{job_id}` shows any other.
- `left`: `{"stack_id": …}`; with a filter: the stack is there, but no longer one of those that you chose.
- `skipped`: after `Last-Event-ID`: of the stacks that follow, only the present state is still known, not each one between.
- `reset`: the event of `Last-Event-ID` is too old. List the stacks again.
- `dropped`: this client read too slowly. The stream ends. Continue with `Last-Event-ID`, or list again.

A browser's EventSource cannot send a header: read the stream with `fetch`, or give the key as `api_key`."""


REFUSED = answer(
    "The request is wrong, and `reasons` says where; or the namespace's LimitRange refuses the pod.",
    "Refused",
    examples={"two mistakes": examples.REFUSED},
)


FITS = answer("How many more fit.", "Capacity", examples={"14 more": examples.CAPACITY})


def _detail(about: str, status: str = "creating", *headers: str) -> Schema:
    shown = {status: {**examples.DETAIL, "status": status}}
    return answer(about, "StackDetail", examples=shown, headers=headers)


CREATE_STACK = Operation(
    id="createStack",
    tag=STACKS,
    summary="Create a stack",
    about="Answers when the pod is assigned to a node. A repetition with the same "
    "Idempotency-Key gets the first answer again.",
    parameters=(DRY_RUN, IDEMPOTENCY_KEY),
    body=body("Create", examples.CREATES),
    answers={
        201: answer(
            "The stack.",
            "StackCreated",
            examples={"created": examples.CREATED_STACK},
            headers=("Idempotency-Replayed",),
        ),
        200: answer(
            "With `dry_run`: what would be created. With `if_exists=return`: the existing stack.",
            {"oneOf": [ref("DryRun"), ref("StackDetail")]},
            headers=("Idempotency-Replayed",),
        ),
        400: REFUSED,
        409: answer(
            "A label's limit is reached (`limits.stacks_per_label`), or a request with the same "
            "Idempotency-Key is in progress.",
            "StackExists",
        ),
    },
    errors=(422,),
)
LIST_STACKS = Operation(
    id="listStacks",
    tag=STACKS,
    summary="List stacks",
    about="Without parameters: all stacks, with the documented fields.",
    parameters=LIST_QUERY,
    answers={200: answer("Stacks.", "StackList", examples={"one": {"stacks": [examples.LISTED_STACK]}})},
)
GET_STACK = Operation(
    id="getStack",
    tag=STACKS,
    summary="Get a stack",
    about="From what stackd knows: it answers while Kubernetes is away, too.",
    answers={200: answer("The stack.", "StackDetail", examples={"running": examples.DETAIL})},
)
GET_STACK_STATUS = Operation(
    id="getStackStatus",
    tag=STACKS,
    summary="Get a stack's status",
    about="With `wait`, answers as soon as the stack has that status or can no longer reach it. `wait=deleted` answers as "
    "the delete does once the stack is gone.",
    parameters=WAIT_QUERY,
    answers={
        200: answer(
            "The status.", {"oneOf": [ref("StackStatusAnswer"), ref("Deleted")]}, examples={"running": examples.STATUS}
        )
    },
)
DELETE_STACK = Operation(
    id="deleteStack",
    tag=STACKS,
    summary="Delete a stack",
    parameters=DELETE_WAIT_QUERY,
    about="Answers when the cluster has confirmed that pod and service are gone.",
    answers={
        200: answer(
            "The stack is gone.", "Deleted", examples={"deleted": {"deleted": True, "stack_id": examples.STACK_ID}}
        )
    },
)
BATCH_DELETE = Operation(
    id="batchDelete",
    tag=BATCH,
    summary="Delete many stacks",
    about="Answers at once. Ask for the job's progress with its id.",
    parameters=(IDEMPOTENCY_KEY,),
    body=body("BatchDelete", {"three": {"stack_ids": ["stack-1", "stack-2", "stack-3"]}}),
    answers={
        202: answer(
            "The job.",
            "JobAccepted",
            examples={"accepted": {"job_id": examples.JOB_ID}},
            headers=("Idempotency-Replayed",),
            links=JOB_LINK,
        )
    },
    errors=(409, 422),
)
GET_BATCH_DELETE = Operation(
    id="getBatchDelete",
    tag=BATCH,
    summary="Get a batch-delete job",
    about="Until `batch_delete.keep_jobs` after its end.",
    answers={200: answer("The job.", "Job", examples={"finished": examples.JOB})},
)
BATCH_JOB = Operation(
    id="batch",
    tag=BATCH,
    summary="Do something with many stacks",
    about="Extends, restarts, stops, starts or deletes them. Answers at once; ask for the job's progress with its id. Labels "
    "choose their stacks in the moment in which the job is accepted: a stack that is created later is not in the job, nor, "
    "unless the job deletes, one that is being created or deleted. Each stack is extended or restarted once, even if stackd "
    "dies in the middle. A job that extends does not wait for other jobs. Restarts and starts of a job do not count for "
    "`limits.creates_per_second` and `limits.creates_per_label`; at most 8 are under way.",
    parameters=(IDEMPOTENCY_KEY,),
    body=body("Batch", examples.BATCHES),
    answers={
        202: answer(
            "The job.",
            "JobOfMany",
            examples={"accepted": {"job_id": examples.JOB_ID, "total": 3}},
            headers=("Idempotency-Replayed",),
            links=BATCH_LINK,
        )
    },
    errors=(409, 422),
)
GET_BATCH = Operation(
    id="getBatch",
    tag=BATCH,
    summary="Get a batch job",
    about="A job of any action, until `batch_delete.keep_jobs` after its end.",
    answers={200: answer("The job.", "BatchJob", examples={"finished": examples.BATCH_JOB})},
)

DELETE_STACKS = Operation(
    id="deleteStacks",
    tag=BATCH,
    summary="Delete all stacks with a label",
    about="Starts a batch-delete job for all stacks that match. At least one `label` is required.",
    parameters=DELETE_QUERY,
    answers={
        202: answer(
            "The job.", "JobOfMany", examples={"accepted": {"job_id": examples.JOB_ID, "total": 3}}, links=JOB_LINK
        )
    },
)
EXTEND_STACK = Operation(
    id="extendStack",
    tag=STACKS,
    summary="Extend a stack's time to live",
    about="Adds to its end; the whole life may be `stacks.max_ttl` at most.",
    parameters=(IDEMPOTENCY_KEY,),
    body=body("Extend", {"half an hour": {"ttl": "30m"}}),
    answers={200: _detail("The stack.", "running", "Idempotency-Replayed"), 400: REFUSED},
    errors=(409, 422),
)
RESTART_STACK = Operation(
    id="restartStack",
    tag=STACKS,
    summary="Give a stack a fresh pod",
    about="Node ports and time to live stay the same. The node may change.",
    answers={200: _detail("The stack.")},
    errors=(409,),
)
STOP_STACK = Operation(
    id="stopStack",
    tag=STACKS,
    summary="Stop a stack: remove its pod",
    about="Answers when the pod is gone. The stack keeps its node ports until it starts again or ends.",
    answers={200: _detail("The stack.", "stopped")},
    errors=(409,),
)
START_STACK = Operation(
    id="startStack",
    tag=STACKS,
    summary="Give a stopped stack a fresh pod",
    about="Node ports and time to live stay the same.",
    answers={200: _detail("The stack.")},
    errors=(409,),
)
GET_TIMELINE = Operation(
    id="getTimeline",
    tag=HISTORY,
    summary="What happened to a stack?",
    about="Available until `stacks.keep_history` after the stack is gone.",
    answers={
        200: answer(
            "The timeline.", "Timeline", examples={"failed": {"stack_id": examples.STACK_ID, "events": examples.EVENTS}}
        )
    },
)
GET_ACTIVITY = Operation(
    id="getActivity",
    tag=HISTORY,
    summary="Who did what?",
    about="What API keys have asked for, the latest first. A batch job is one entry, with its counts, as long as it is kept "
    "(`batch_delete.keep_jobs`); a request about one stack is kept as long as the stack's timeline (`stacks.keep_history`). "
    "What was refused is not in it. A tenant's key sees its own requests.",
    parameters=(
        parameter("key", "Of the API key with this name.", text("A key's name.", minLength=1)),
        parameter("action", "Of this action.", text("An action.", enum=list(ACTIONS))),
        parameter("stack", "About this stack.", text("A stack's id.", minLength=1)),
        parameter(
            "label",
            "About stacks with this label, deleted ones too: `key=value`, or `key` for any value. If repeated, all of them.",
            text("A label.", pattern="^[^=]"),
            most=MOST_VALUES,
            example=["challenge=web-1"],
        ),
        parameter(
            "since",
            "Since this time (RFC 3339, in UTC), or in the last time of this length.",
            text("`2026-02-10T02:02:26Z` or `1h`.", format="stackd-since"),
            example="1h",
        ),
        parameter(
            "limit", f"Most entries on a page; {DEFAULT_PAGE} if not given.", number("How many.", 1, LARGEST_PAGE)
        ),
        parameter("cursor", "The `next_cursor` of the previous page.", text("Opaque.", format="stackd-cursor")),
    ),
    answers={200: answer("Requests.", "Activity", examples={"two": examples.ACTIVITY})},
)
GET_LOGS = Operation(
    id="getLogs",
    tag=HISTORY,
    summary="What did a stack write?",
    about="From the cluster while the pod exists (no other read asks the cluster). Later, the last lines that stackd kept: "
    "of containers that failed, and of those that ran when their stack was deleted on its own or expired, as far as the "
    "cluster delivered them. Generated values are hidden.",
    parameters=(TAIL, CONTAINER),
    answers={200: answer("The tenant's own text.", text("Lines."), media="text/plain")},
    errors=(409,),
)
STREAM_EVENTS = Operation(
    id="streamEvents",
    tag=HISTORY,
    summary="Follow all stacks",
    about=ABOUT_EVENTS,
    parameters=(*FILTER_QUERY, FIELDS, LAST_EVENT_ID),
    answers={200: STREAM},
)
STREAM_STACK_EVENTS = Operation(
    id="streamStackEvents",
    tag=HISTORY,
    summary="Follow one stack",
    about="As `GET /events`, for one stack: it begins with the stack's present state and ends when the stack is gone.",
    parameters=(FIELDS, LAST_EVENT_ID),
    answers={200: STREAM},
)
LIST_TEMPLATES = Operation(
    id="listTemplates",
    tag=STACKS,
    summary="List the templates",
    about="What a create can ask for by name, and how the pool of each is doing. A tenant's key sees those that it may use, "
    "and counts its own stacks.",
    parameters=(HISTORY_FLAG,),
    answers={200: answer("The templates.", "Templates", examples={"one": examples.TEMPLATES})},
)
GET_CAPACITY = Operation(
    id="getCapacity",
    tag=STACKS,
    summary="How many more fit?",
    about="Uses the quotas and LimitRanges that stackd read last. All keys share what is free.",
    parameters=CAPACITY_QUERY,
    answers={200: FITS},
)
GET_CAPACITY_FOR = Operation(
    id="getCapacityFor",
    tag=STACKS,
    summary="How many more of this stack fit?",
    about="Takes the body of a create, and reads quotas and LimitRanges now.",
    body=body("Create", {"a web server": examples.CREATE}),
    answers={200: FITS, 400: REFUSED},
)

HEALTHZ = Operation(
    id="healthz",
    tag=HEALTH,
    summary="Does the process answer?",
    about="It asks neither the file nor the cluster.",
    answers={200: answer("It does.", "Healthy", examples={"ok": {"status": "ok"}})},
)
READYZ = Operation(
    id="readyz",
    tag=HEALTH,
    summary="Does everything work?",
    about="Tries the file, and tells what is known of the cluster. Reads are answered while something does not work.",
    answers={
        200: answer("It does.", "Ready", examples={"ready": {"status": "ready"}}),
        503: answer(
            "Something does not: Kubernetes is unreachable, silent, uncertain or lacks the node ports, no "
            "NetworkPolicy protects the stacks, the file cannot be written, or a brake is on.",
            {"anyOf": [ref("NotReady"), ref("Error")]},
            examples={"not ready": examples.NOT_READY},
            headers=("Retry-After",),
        ),
    },
)
KEY = Operation(
    id="key",
    tag=HEALTH,
    summary="What may this key do?",
    about="The name, the scope and the labels of the key that the request has. A standby answers, too.",
    answers={200: answer("The key.", "Key")},
)
STATS = Operation(
    id="stats",
    tag=HEALTH,
    summary="Counts over all stacks",
    about="Stacks, ports and reservations, from memory. A tenant's key counts its own stacks.",
    answers={200: answer("Counts.", "Stats", examples={"seven": examples.STATS})},
)
METRICS = Operation(
    id="metrics",
    tag=HEALTH,
    summary="Metrics for Prometheus",
    about="Needs a key unless `metrics.public` is set.",
    answers={200: answer("Prometheus' text format.", {"type": "string"}, media="text/plain")},
)
OWNER = Operation(
    id="owner",
    tag=OPERATOR,
    summary="Who owns the stacks?",
    about="What the Lease says, and what this stackd is: the owner, or a standby that answers everything else with 503. "
    "Load balancers choose the stackd whose `role` is `owner`; a key of scope `metrics` is enough. "
    "For a tenant's key, all but `role` and `may_change` is empty.",
    answers={200: answer("The owner.", "Owner")},
)
TAKE_OVER = Operation(
    id="takeOver",
    tag=OPERATOR,
    summary="Ask the owner to step back",
    about="For a standby. The owner finishes what is under way and hands the stacks over to this stackd; `GET /owner` tells "
    "when. 409 where nobody is there to be asked.",
    answers={202: answer("The owner was asked.", "Takeover", examples={"asked": {"asked": "vm1"}})},
    errors=(409,),
)
RECONCILE_PLAN = Operation(
    id="reconcilePlan",
    tag=OPERATOR,
    summary="What would a pass of reconciliation do?",
    about="It changes nothing.",
    answers={200: answer("The plan.", "Plan")},
)
RECONCILE_CONFIRM = Operation(
    id="reconcileConfirm",
    tag=OPERATOR,
    summary="Release a brake, once",
    about="Releases what is held back now, and nothing that comes later; objects that the last pass has listed as "
    "unknown are removed. Where no pass can be made at the moment, "
    "the answer is a 503 with the reason; the release then counts for a minute.",
    answers={200: answer("What was released.", "Released")},
)

"""What is said of the routes beyond the contract."""

from __future__ import annotations

from collections.abc import Mapping

from stackd.web.openapi import examples
from stackd.web.openapi.operation import Answer, Body, Operation
from stackd.web.openapi.parameters import (
    CAPACITY_QUERY,
    CONTAINER,
    DELETE_QUERY,
    FIELDS,
    IDEMPOTENCY_KEY,
    JOB_LINK,
    LAST_EVENT_ID,
    TAIL,
)
from stackd.web.openapi.shapes import text

STACKS, BATCH, HISTORY = "Stacks", "Batch delete", "History"
STREAM = Answer(
    about="Events until one side ends it; a comment every 15 s shows that it is alive.",
    schema="StreamEvent",
    media="text/event-stream",
)
ABOUT_EVENTS = """\
Server-sent events; `data` is JSON.

- `hello`: the stream has begun; what follows is new. List now.
- `stack`: a stack is new or has changed; the stack as in a list, with all its fields.
- `deleted`: `{"stack_id": …}`
- `job`: a batch-delete job has got on; the job.
- `reset`: what `Last-Event-ID` names is too long ago. List again.
- `dropped`: this client read too slowly. The stream ends; go on with `Last-Event-ID`, or list again.

A browser's EventSource cannot send a header: read the stream with `fetch`, or give the key as `api_key`."""


def _detail(about: str, status: str = "creating", *headers: str) -> Answer:
    shown = {status: {**examples.DETAIL, "status": status}}
    return Answer(about=about, schema="StackDetail", examples=shown, headers=headers)


MORE: Mapping[tuple[str, str], Operation] = {
    ("DELETE", "/stacks"): Operation(
        id="deleteStacks",
        tag=BATCH,
        summary="Delete all stacks with a label",
        about="A batch-delete job of all that match; at least one `label` is required.",
        parameters=DELETE_QUERY,
        answers={
            202: Answer(
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
        summary="Let a stack live longer",
        parameters=(IDEMPOTENCY_KEY,),
        body=Body(schema="Extend", examples={"half an hour": {"ttl": "30m"}}),
        answers={200: _detail("The stack.", "running", "Idempotency-Replayed")},
        errors=(409, 422),
    ),
    ("POST", "/stacks/{stack_id}/restart"): Operation(
        id="restartStack",
        tag=STACKS,
        summary="Give a stack a fresh pod",
        about="Behind the same address ports, with the same time to live; the node may be another.",
        answers={200: _detail("The stack.")},
        errors=(409,),
    ),
    ("POST", "/stacks/{stack_id}/stop"): Operation(
        id="stopStack",
        tag=STACKS,
        summary="Take a stack's pod away",
        about="Answers when the pod is gone. The ports are kept until the stack's end, or a start.",
        answers={200: _detail("The stack.", "stopped")},
        errors=(409,),
    ),
    ("POST", "/stacks/{stack_id}/start"): Operation(
        id="startStack",
        tag=STACKS,
        summary="Give a stopped stack a fresh pod",
        about="Behind the ports that it kept, with the same time to live.",
        answers={200: _detail("The stack.")},
        errors=(409,),
    ),
    ("GET", "/stacks/{stack_id}/timeline"): Operation(
        id="getTimeline",
        tag=HISTORY,
        summary="What happened to a stack?",
        about="Answers for `stacks.keep_history` after the stack is gone, too.",
        answers={
            200: Answer(
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
        about="From the cluster while the pod is there (the one read that asks it), else what was kept of the end.",
        parameters=(TAIL, CONTAINER),
        answers={200: Answer(about="The tenant's own text.", schema=text("Lines."), media="text/plain")},
        errors=(409,),
    ),
    ("GET", "/events"): Operation(
        id="streamEvents",
        tag=HISTORY,
        summary="Follow all stacks",
        about=ABOUT_EVENTS,
        parameters=(FIELDS, LAST_EVENT_ID),
        answers={200: STREAM},
    ),
    ("GET", "/stacks/{stack_id}/events"): Operation(
        id="streamStackEvents",
        tag=HISTORY,
        summary="Follow one stack",
        about="As `GET /events`, for one stack: begins with the stack as it is, and ends when it is gone.",
        parameters=(FIELDS, LAST_EVENT_ID),
        answers={200: STREAM},
    ),
    ("GET", "/capacity"): Operation(
        id="getCapacity",
        tag=STACKS,
        summary="How many more fit?",
        about="Quotas are as they were last seen.",
        parameters=CAPACITY_QUERY,
        answers={200: Answer(about="Room.", schema="Capacity", examples={"room for 14": examples.CAPACITY})},
    ),
    ("POST", "/capacity"): Operation(
        id="getCapacityFor",
        tag=STACKS,
        summary="How many more of this stack fit?",
        about="With the body of a create. Quotas are looked at now.",
        body=Body(schema="Create", examples={"a web server": examples.CREATE}),
        answers={200: Answer(about="Room.", schema="Capacity", examples={"room for 14": examples.CAPACITY})},
    ),
}

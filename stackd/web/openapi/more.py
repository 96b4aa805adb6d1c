"""What is said of the routes beyond the contract."""

from __future__ import annotations

from collections.abc import Mapping

from stackd.web.openapi import examples
from stackd.web.openapi.operation import Answer, Body, Operation
from stackd.web.openapi.parameters import CONTAINER, JOB_LINK, LABEL, LAST_EVENT_ID, LIST_QUERY, TAIL
from stackd.web.openapi.shapes import text

STACKS, BATCH, HISTORY = "Stacks", "Batch delete", "History"
STREAM = Answer(
    about="Events until one side ends it; a comment every 15 s shows that it is alive.",
    schema={"type": "string"},
    media="text/event-stream",
    examples={"begin": examples.STREAM},
)
ABOUT_EVENTS = """\
Server-sent events; `data` is JSON.

- `hello`: the stream has begun; what follows is new. List now.
- `stack`: a stack is new or has changed; the stack as in a list, with all its fields.
- `deleted`: `{"stack_id": …}`
- `job`: a batch-delete job has got on; the job.
- `reset`: what `Last-Event-ID` names is too long ago. List again.
- `dropped`: this client read too slowly. The stream ends; list again.

A browser's EventSource cannot send a header: read the stream with `fetch`, or give the key as `api_key`."""


def _detail(about: str, status: str = "creating") -> Answer:
    return Answer(about=about, schema="StackDetail", examples={status: {**examples.DETAIL, "status": status}})


MORE: Mapping[tuple[str, str], Operation] = {
    ("DELETE", "/stacks"): Operation(
        id="deleteStacks",
        tag=BATCH,
        summary="Delete all stacks with a label",
        about="A batch-delete job of all that match; at least one `label` is required.",
        parameters=tuple(p for p in LIST_QUERY if p.name in ("label", "status", "node")),
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
        body=Body(schema="Extend", examples={"half an hour": {"ttl": "30m"}}),
        answers={200: _detail("The stack.", "running")},
        errors=(409,),
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
        parameters=(LAST_EVENT_ID,),
        answers={200: STREAM},
    ),
    ("GET", "/stacks/{stack_id}/events"): Operation(
        id="streamStackEvents",
        tag=HISTORY,
        summary="Follow one stack",
        about="As `GET /events`, for one stack.",
        parameters=(LAST_EVENT_ID,),
        answers={200: STREAM},
    ),
    ("GET", "/capacity"): Operation(
        id="getCapacity",
        tag=STACKS,
        summary="How many more fit?",
        parameters=(LABEL,),
        answers={200: Answer(about="Room.", schema="Capacity")},
    ),
}

"""What is said of each route of the contract and of stackd itself; ``more`` has the others.

Owns: words, examples and possible answers, by method and path as they stand in the route table.
"""

from __future__ import annotations

from collections.abc import Mapping

from stackd.web.openapi import examples
from stackd.web.openapi.more import MORE
from stackd.web.openapi.operation import Answer, Body, Operation
from stackd.web.openapi.parameters import CREATE_QUERY, IDEMPOTENCY_KEY, JOB_LINK, LIST_QUERY, WAIT_QUERY

HEALTH, STACKS, BATCH, OPERATOR, PAGES = "Health", "Stacks", "Batch delete", "Operator", "Pages"
TAGS = {
    STACKS: "A stack is a hardened pod and a NodePort service with a time to live.",
    BATCH: "Deleting many stacks as one job.",
    "History": "What happened to a stack, and what happens now.",
    HEALTH: "Whether stackd works, and how much it has to do.",
    OPERATOR: "For whoever runs stackd.",
    PAGES: "For browsers. They hold no data and need no key.",
}

CONTRACT: Mapping[tuple[str, str], Operation] = {
    ("POST", "/stacks"): Operation(
        id="createStack",
        tag=STACKS,
        summary="Create a stack",
        about="Answers when a node has taken the pod. With an Idempotency-Key, a repetition gets the first answer.",
        parameters=(*CREATE_QUERY, IDEMPOTENCY_KEY),
        body=Body(schema="Create", examples={"a web server": examples.CREATE, "with more": examples.CREATE_WITH_MORE}),
        answers={
            201: Answer(
                about="The stack.",
                schema="Stack",
                examples={"created": examples.CREATED_STACK},
                headers=("Idempotency-Replayed",),
            ),
            200: Answer(
                about="With `dry_run`: what would have been made. With `if_exists=return`: the stack that is there.",
                schema={"oneOf": [{"$ref": "#/components/schemas/DryRun"}, {"$ref": "#/components/schemas/Stack"}]},
                headers=("Idempotency-Replayed",),
            ),
            409: Answer(
                about="A label's limit is reached (`limits.stacks_per_label`), or a request with the same "
                "Idempotency-Key is under way.",
                schema="StackExists",
            ),
        },
        errors=(422,),
    ),
    ("GET", "/stacks"): Operation(
        id="listStacks",
        tag=STACKS,
        summary="List stacks",
        about="Without parameters: all of them, in the documented form.",
        parameters=LIST_QUERY,
        answers={
            200: Answer(about="Stacks.", schema="StackList", examples={"one": {"stacks": [examples.LISTED_STACK]}})
        },
    ),
    ("GET", "/stacks/{stack_id}"): Operation(
        id="getStack",
        tag=STACKS,
        summary="Get a stack",
        answers={200: Answer(about="The stack.", schema="StackDetail", examples={"running": examples.DETAIL})},
    ),
    ("GET", "/stacks/{stack_id}/status"): Operation(
        id="getStackStatus",
        tag=STACKS,
        summary="Get a stack's status",
        about="With `wait`, answers as soon as the stack has that status or cannot come to it any more.",
        parameters=WAIT_QUERY,
        answers={200: Answer(about="The status.", schema="StackStatusAnswer", examples={"running": examples.STATUS})},
    ),
    ("DELETE", "/stacks/{stack_id}"): Operation(
        id="deleteStack",
        tag=STACKS,
        summary="Delete a stack",
        about="Answers when the cluster has confirmed that pod and service are gone.",
        answers={
            200: Answer(
                about="It is gone.",
                schema="Deleted",
                examples={"deleted": {"deleted": True, "stack_id": examples.STACK_ID}},
            )
        },
    ),
    ("POST", "/stacks/batch-delete"): Operation(
        id="batchDelete",
        tag=BATCH,
        summary="Delete many stacks",
        about="Answers at once; the job's progress is asked for with its id.",
        parameters=(IDEMPOTENCY_KEY,),
        body=Body(schema="BatchDelete", examples={"three": {"stack_ids": ["stack-1", "stack-2", "stack-3"]}}),
        answers={
            202: Answer(
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
        answers={200: Answer(about="The job.", schema="Job", examples={"finished": examples.JOB})},
    ),
}

SYSTEM: Mapping[tuple[str, str], Operation] = {
    ("GET", "/healthz"): Operation(
        id="healthz",
        tag=HEALTH,
        summary="Does the process answer?",
        answers={200: Answer(about="It does.", schema="Healthy", examples={"ok": {"status": "ok"}})},
    ),
    ("GET", "/readyz"): Operation(
        id="readyz",
        tag=HEALTH,
        summary="Does everything work?",
        answers={
            200: Answer(about="It does.", schema="Ready", examples={"ready": {"status": "ready"}}),
            503: Answer(
                about="Something does not: Kubernetes is away, the file cannot be written, or a brake is on.",
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
        answers={200: Answer(about="Counts.", schema="Stats", examples={"seven": examples.STATS})},
    ),
    ("GET", "/metrics"): Operation(
        id="metrics",
        tag=HEALTH,
        summary="Numbers for Prometheus",
        about="Needs a key unless `metrics.public` is set.",
        answers={200: Answer(about="Prometheus' text form.", schema={"type": "string"}, media="text/plain")},
        errors=(401, 429),
    ),
    ("GET", "/reconcile"): Operation(
        id="reconcilePlan",
        tag=OPERATOR,
        summary="What would a pass of reconciliation do?",
        answers={200: Answer(about="The plan.", schema="Plan")},
    ),
    ("POST", "/reconcile/confirm"): Operation(
        id="reconcileConfirm",
        tag=OPERATOR,
        summary="Release a brake, once",
        answers={200: Answer(about="What was released.", schema="Released")},
    ),
}


UNCHANGED = Answer(about="What the client has is good.", media="")


def _page(name: str, summary: str, media: str = "text/html") -> Operation:
    page = Answer(about="The page.", schema={"type": "string"}, media=media)
    return Operation(id=name, tag=PAGES, summary=summary, answers={200: page, 304: UNCHANGED}, errors=(404,))


BROWSER: Mapping[tuple[str, str], Operation] = {
    ("GET", "/dashboard"): _page("dashboard", "The dashboard"),
    ("GET", "/docs"): _page("docs", "This API, to read"),
    ("GET", "/static/{folder}/{file}"): Operation(
        id="staticFile",
        tag=PAGES,
        summary="A file of these pages",
        answers={200: Answer(about="The file.", media="*/*"), 304: UNCHANGED},
    ),
    ("GET", "/openapi.json"): Operation(
        id="openapi",
        tag=PAGES,
        summary="This API, for programs",
        answers={200: Answer(about="OpenAPI 3.1.", schema={"type": "object"})},
    ),
}

OPERATIONS: Mapping[tuple[str, str], Operation] = {**CONTRACT, **MORE, **SYSTEM, **BROWSER}

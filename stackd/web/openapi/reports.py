"""Jobs, history, health and errors, as JSON Schema."""

from __future__ import annotations

from typing import Any

from stackd.model import JobStatus, Kind
from stackd.podspec.target_ports import MAX_TARGET_PORTS
from stackd.store.jobs import MAX_ERROR_LENGTH, MAX_ERRORS
from stackd.web.openapi import examples
from stackd.web.openapi.shapes import Schema, many, moment, nullable, number, one_of, record, ref, table, text
from stackd.web.problems import ERROR_LIMIT

STREAM_EVENTS = ("hello", "stack", "deleted", "job", "reset", "dropped")


def jobs() -> dict[str, Schema]:
    """Batch-delete jobs."""
    return {
        "JobAccepted": record("The job has begun.", {"job_id": text("Ask for its progress with this.")}),
        "JobOfMany": record(
            "The job has begun.",
            {"job_id": text("Ask for its progress with this."), "total": number("How many stacks it deletes.")},
        ),
        "JobStatus": one_of(
            JobStatus,
            "`queued`: waits to start. `running`: in progress. `completed`: finished, see the counts. `failed`: "
            "finished, and every delete failed.",
        ),
        "Job": record(
            "A batch-delete job. At its end `total` = `deleted` + `not_found` + `failed`.",
            {
                "job_id": text("The job's id.", examples=[examples.JOB_ID]),
                "status": ref("JobStatus"),
                "total": number("How many ids it has."),
                "deleted": number("Stacks that it deleted."),
                "not_found": number("Ids of no stack."),
                "failed": number("Deletes that failed."),
                "errors": many(ref("JobError"), f"The first {MAX_ERRORS} failures.", minItems=1, maxItems=MAX_ERRORS),
                "created_at": moment("When it was accepted."),
                "updated_at": moment("When it got on last."),
            },
            optional=("errors",),
        ),
        "JobError": record(
            "A failure.",
            {"stack_id": text("Which one."), "error": text("Why.", maxLength=MAX_ERROR_LENGTH)},
        ),
    }


def history() -> dict[str, Schema]:
    """What happened, what happens now, and what could."""
    return {
        "Timeline": record(
            "What happened to a stack.",
            {"stack_id": text("Which one."), "events": many(ref("Happening"), "The oldest first.")},
        ),
        "Happening": record(
            "One thing that happened.",
            {
                "at": moment("When."),
                "kind": one_of(Kind, "What."),
                "reason": text("In one word."),
                "message": text("In a sentence. It may quote the pod: treat it as the tenant's text."),
                "by": text("The name of the API key that asked for it, `stackd`, or `cluster`."),
                "count": number("How often, if more than once.", 2),
            },
            optional=("count",),
        ),
        "StreamEvent": record(
            "One event of a stream, as its lines say.",
            {
                "id": text("What `Last-Event-ID` takes."),
                "event": text("What it is about.", enum=list(STREAM_EVENTS)),
                "data": text("JSON, as the route says.", contentMediaType="application/json"),
            },
            optional=("id",),
        ),
        "Capacity": record(
            "How many more of one kind of stack fit, if the nodes run nothing but stacks.",
            {
                "fits": number("How many more."),
                "limited_by": text("What binds first."),
                "nodes": table(number("How many more."), "By node."),
                "quota": nullable(number("As many as the namespace's quotas allow; null while they are not known.")),
                "quota_limited_by": text("Which of the quotas' resources binds; empty if none."),
                "quota_seen_at": nullable(moment("When the quotas were looked at.")),
                "ports": number("Node ports that are free."),
                "stacks": nullable(number("As many as `limits.max_stacks` allows; null where there is no limit.")),
                "requested_cpu_milli": number("CPU of one, in thousandths of a core.", 1),
                "requested_memory_bytes": number("Memory of one.", 1),
                "requested_ports": number("Ports of one.", 1, MAX_TARGET_PORTS),
                "assumes": text("What this takes for granted."),
            },
        ),
    }


def system() -> dict[str, Schema]:
    """Health, counts, the operator's answers, and errors."""
    sentence = text("What is wrong, in a sentence.", maxLength=ERROR_LIMIT)
    status: dict[str, Any] = {"type": "string"}
    return {
        "Error": record("Every error.", {"error": sentence}),
        "StackExists": record(
            "A contradiction; where a label's limit is reached, with the stack that has it.",
            {"error": sentence, "stack_id": ref("StackId")},
            optional=("stack_id",),
        ),
        "Healthy": record("The process answers.", {"status": status | {"const": "ok"}}),
        "Ready": record("Everything works.", {"status": status | {"const": "ready"}}),
        "NotReady": record(
            "Something does not work; reads still do.",
            {
                "error": sentence,
                "status": status | {"const": "not ready"},
                "reasons": many(text("A sentence."), "One for each thing that is wrong.", minItems=1),
                "held": many(text("A stack's id."), "What a brake holds back."),
            },
            optional=("held",),
        ),
        "Stats": record(
            "Counts.",
            {
                "total_stacks": number("All stacks."),
                "active_stacks": number("Those that are creating or running."),
                "node_distribution": table(number("How many."), "Stacks by node."),
                "used_node_ports": number("Node ports that are held."),
                "reserved_cpu_milli": number("Of the stacks that still hold resources, in thousandths of a core."),
                "reserved_memory_bytes": number("Of the stacks that still hold resources."),
            },
        ),
        "Plan": record(
            "What a pass of reconciliation would do now.",
            {
                "blocked": text("Why it can do nothing now; empty when it can."),
                "held": many(text("A stack's id."), "What a brake holds back."),
                "actions": many(
                    record(
                        "One step.",
                        {"action": text("What."), "name": text("Which object or stack."), "why": text("Why.")},
                    )
                ),
            },
        ),
        "Released": record("What a brake no longer holds.", {"released": number("How many stacks.")}),
    }

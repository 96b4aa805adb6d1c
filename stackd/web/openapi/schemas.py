"""What goes over the wire, as JSON Schema.

Owns: the schemas of bodies and answers. Numbers, words and limits are those that the code checks with; a test holds
every answer's fields to these.
"""

from __future__ import annotations

from typing import Any

from stackd.config import Config
from stackd.model import JobStatus, Kind, StackStatus
from stackd.podspec.target_ports import LARGEST_PORT, MAX_TARGET_PORTS, PROTOCOLS
from stackd.web.bodies import ID_LIMIT
from stackd.web.openapi import examples
from stackd.web.openapi.shapes import (
    Schema,
    flag,
    many,
    moment,
    nullable,
    number,
    one_of,
    record,
    ref,
    table,
    text,
)
from stackd.web.orders import IF_EXISTS, LABEL_KEY, MAX_LABELS
from stackd.web.problems import ERROR_LIMIT

LABEL_NAME = f"^{LABEL_KEY.pattern}$"
LABEL_VALUE = f"^(?:{LABEL_KEY.pattern})?$"
JOB_ERRORS = 100
STREAM_EVENTS = ("hello", "stack", "deleted", "job", "reset", "dropped")
JOB_ERROR_LIMIT = 512
DURATION = r"^(?:0|(?:[0-9]+(?:\.[0-9]+)?(?:d|h|m|s|ms))+)$"


def schemas(config: Config) -> dict[str, Schema]:
    """All schemas by name, for these settings."""
    return {**_stacks(), **_requests(config), **_jobs(), **_history(), **_system()}


def stack_properties() -> dict[str, Schema]:
    """The documented fields of a stack, in the documented order."""
    return {
        "stack_id": ref("StackId"),
        "pod_id": text("The pod's name; the same as `stack_id`."),
        "namespace": text("Where the pod and the service are."),
        "node_id": nullable(text("The node that the pod is on; null while there is none.")),
        "node_public_ip": nullable(text("The node's public address; null where none is known.")),
        "pod_spec": text("What runs: the request's pod spec, sanitized, as YAML.", contentMediaType="application/yaml"),
        "ports": many(ref("Port"), "Where the stack is reached: `node_public_ip:node_port`."),
        "service_name": text("The service's name."),
        "status": ref("StackStatus"),
        "ttl_expires_at": moment("When the stack is deleted by itself."),
        "created_at": moment("When it was created."),
        "updated_at": moment("When something of it that can be seen changed last."),
        "requested_cpu_milli": number("CPU that is reserved for it, in thousandths of a core."),
        "requested_memory_bytes": number("Memory that is reserved for it."),
    }


def reason_properties() -> dict[str, Schema]:
    """What is said beside the documented fields, after them."""
    return {
        "status_reason": text("Why the status is what it is, in one word; empty where there is nothing to say."),
        "status_message": text("The same in a sentence. It may quote the pod: treat it as the tenant's text."),
        "labels": table(text("A value."), "The labels that the create gave."),
        "ended": flag("Whether the pod has ended for good; ports and service are given back, the record stays."),
    }


def _stacks() -> dict[str, Schema]:
    entry = stack_properties()
    more = reason_properties()
    return {
        "StackId": text("A stack's id.", examples=[examples.STACK_ID]),
        "StackStatus": one_of(
            StackStatus,
            "`creating`: the pod may not be running yet. `running`: ready to accept traffic. `stopped`: the pod has "
            "ended or was stopped. `failed`: it failed to start or to run. `node_deleted`: its node is gone.",
        ),
        "Port": record(
            "A published port.",
            {
                "container_port": number("The container's port.", 1, LARGEST_PORT),
                "protocol": text("Its protocol.", enum=list(PROTOCOLS)),
                "node_port": number("The port that leads to it, on the node's address.", 1, LARGEST_PORT),
            },
        ),
        "Stack": record("A stack.", entry),
        "StackDetail": record("A stack, and why its status is what it is.", entry | more),
        "StackEntry": record("A stack in a list; with `fields`, only those.", entry | more, tuple(entry | more)),
        "StackList": record(
            "Stacks by `created_at`, then id.",
            {
                "stacks": many(ref("StackEntry")),
                "next_cursor": nullable(text("With `limit`: where the next page begins; null at the end.")),
            },
            optional=("next_cursor",),
        ),
        "StackStatusAnswer": record(
            "The short form of a stack.",
            {
                "stack_id": ref("StackId"),
                "status": ref("StackStatus"),
                "ttl": moment("When the stack is deleted by itself."),
                "ports": many(ref("Port")),
                "node_public_ip": nullable(text("The node's public address; null where none is known.")),
            },
        ),
        "Deleted": record(
            "The stack is gone.", {"deleted": {"type": "boolean", "const": True}, "stack_id": text("Which one.")}
        ),
    }


def duration(description: str) -> Schema:
    """A length of time such as ``30m``."""
    return text(description, pattern=DURATION, format="stackd-duration", examples=["30m"])


def _requests(config: Config) -> dict[str, Schema]:
    create = {
        "target_port": many(
            ref("TargetPort"),
            "The ports to publish, each once.",
            minItems=1,
            maxItems=MAX_TARGET_PORTS,
            uniqueItems=True,
        ),
        "pod_spec": text(
            "A Pod as YAML (or JSON): one document. What it may use is the operator's policy; everything that it may "
            "not is refused with its path. Each target port must be declared by a container.",
            format="stackd-pod-spec",
            contentMediaType="application/yaml",
        ),
        "ttl": duration(f"How long the stack lives; at most {config.stacks.max_ttl:g} s (`stacks.max_ttl`)."),
        "labels": table(
            text("A value.", pattern=LABEL_VALUE),
            "Labels to find it by; put on the pod as `label.stackd.io/…` too.",
            propertyNames={"pattern": LABEL_NAME},
            maxProperties=MAX_LABELS,
        ),
        "if_exists": text(
            "Where `limits.stacks_per_label` is reached: `error` is a 409 that names the existing stack, `return` is a "
            "200 with that stack.",
            enum=list(IF_EXISTS),
        ),
    }
    return {
        "TargetPort": record(
            "A container port to publish.",
            {
                "container_port": number(
                    "As a container of the pod declares it; written without a fraction.", 1, LARGEST_PORT
                ),
                "protocol": text("TCP or UDP, in any case of letters.", enum=list(PROTOCOLS)),
            },
        ),
        "Create": record("A stack to be.", create, optional=("ttl", "labels", "if_exists")),
        "DryRun": record(
            "What a create would have made.",
            {
                "dry_run": {"type": "boolean", "const": True},
                "pod_spec": stack_properties()["pod_spec"],
                "requested_cpu_milli": number("CPU that it would reserve, in thousandths of a core."),
                "requested_memory_bytes": number("Memory that it would reserve."),
            },
        ),
        "Extend": record(
            "How much longer.",
            {"ttl": duration("Added to `ttl_expires_at`; the whole life may be `stacks.max_ttl` at most.")},
        ),
        "BatchDelete": record(
            "Stacks to delete.",
            {
                "stack_ids": many(
                    text("An id; blanks around it do not count.", minLength=1, maxLength=ID_LIMIT, pattern=r"\S"),
                    "Duplicates count once.",
                    minItems=1,
                    maxItems=config.batch_delete.max_ids,
                )
            },
        ),
    }


def _jobs() -> dict[str, Schema]:
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
                "errors": many(ref("JobError"), f"The first {JOB_ERRORS} failures.", minItems=1, maxItems=JOB_ERRORS),
                "created_at": moment("When it was accepted."),
                "updated_at": moment("When it got on last."),
            },
            optional=("errors",),
        ),
        "JobError": record(
            "A failure.",
            {"stack_id": text("Which one."), "error": text("Why.", maxLength=JOB_ERROR_LIMIT)},
        ),
    }


def _history() -> dict[str, Schema]:
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


def _system() -> dict[str, Schema]:
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

"""What goes over the wire, as JSON Schema.

Owns: the schemas of bodies and answers. Numbers, words and limits are those that the code checks with; a test holds
every answer's fields to these.
"""

from __future__ import annotations

from stackd.config import Config
from stackd.model import StackStatus
from stackd.podspec.target_ports import LARGEST_PORT, MAX_TARGET_PORTS, PROTOCOLS
from stackd.web.bodies import ID_LIMIT
from stackd.web.openapi import examples
from stackd.web.openapi.reports import history, jobs, system
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

LABEL_NAME = f"^{LABEL_KEY.pattern}$"
LABEL_VALUE = f"^(?:{LABEL_KEY.pattern})?$"
DURATION = r"^(?:0|(?:[0-9]+(?:\.[0-9]+)?(?:d|h|m|s|ms))+)$"


def schemas(config: Config) -> dict[str, Schema]:
    """All schemas by name, for these settings."""
    return {**_stacks(), **_requests(config), **jobs(), **history(), **system()}


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

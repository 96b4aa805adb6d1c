"""The bodies of requests and responses, as JSON Schema.

Owns: the schemas. Their enumerations and limits are the constants that the code checks with. A test compares the fields
of every response with the schemas.
"""

from __future__ import annotations

from typing import Any

from stackd.config import Config
from stackd.lifecycle.prepull import PullState
from stackd.model import EventKind, JobAction, JobStatus, StackStatus
from stackd.names import BARE_KEY, LONGEST_SUBDOMAIN
from stackd.podspec.request import LARGEST_PORT, MAX_LABELS, MAX_TARGET_PORTS, PROTOCOLS
from stackd.store.jobs import MAX_ERROR_LENGTH, MAX_ERRORS
from stackd.units import format_duration
from stackd.web.activity import ACTIONS
from stackd.web.openapi import examples
from stackd.web.requests import IF_EXISTS
from stackd.web.responses import ERROR_LIMIT, JSON
from stackd.web.schema import Schema, flag, many, moment, nullable, number, one_of, record, ref, table, text
from stackd.web.stack_fields import FIELDS, OPTIONAL, STATUS_READ, schemas_of
from stackd.web.templates import HISTORY_OF_POOLS, HISTORY_OF_STACKS

LABEL_NAME = f"^{BARE_KEY}$"
LABEL_VALUE = f"^(?:{BARE_KEY})?$"
DURATION = r"^(?:0|(?:[0-9]+(?:\.[0-9]+)?(?:d|h|m|s|ms))+)$"


def schemas(config: Config) -> dict[str, Schema]:
    """All schemas by name, for these settings."""
    return {**_stacks(), **_requests(config), **jobs(), **history(), **system()}


def _values() -> dict[str, Schema]:
    """The fields that only the response to a create has."""
    about = (
        "What was generated for this stack, by the names of variables; left out where nothing was. No other answer tells "
        "it, except a repetition with the same Idempotency-Key."
    )
    return {"values": table(text("A value."), about)}


def _stacks() -> dict[str, Schema]:
    whole = schemas_of(FIELDS)
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
                "node_port": number(
                    "The port that leads to it, on the node's address; left out where it has a name.", 1, LARGEST_PORT
                ),
                "url": text("Where it is reached, if it has `route` http or https; left out otherwise."),
                "host": text(
                    "Name and port at which it is reached with TLS, if it has `route` tls; left out otherwise."
                ),
            },
            optional=("node_port", "url", "host"),
        ),
        "StackDetail": record("A stack, its labels, and why its status is what it is.", whole, OPTIONAL),
        "StackCreated": record("The new stack.", whole | _values(), (*OPTIONAL, *_values())),
        "StackEntry": record("A stack in a list; with `fields`, only those.", whole, tuple(whole)),
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
            {shown: FIELDS[name].schema for shown, name in STATUS_READ.items()},
        ),
        "Deleted": record(
            "The stack is gone.", {"deleted": {"type": "boolean", "const": True}, "stack_id": text("The stack's id.")}
        ),
    }


def duration(description: str) -> Schema:
    """A length of time such as ``30m``."""
    return text(description, pattern=DURATION, format="stackd-duration", examples=["30m"])


def _requests(config: Config) -> dict[str, Schema]:
    required = list(config.limits.required_labels)
    stack_ids = many(
        text(
            "An id; blanks around it are ignored.",
            minLength=1,
            maxLength=LONGEST_SUBDOMAIN,
            pattern=r"[^\s\x1c-\x1f\x85]",
        ),
        "Duplicates count once.",
        minItems=1,
        maxItems=config.batch_delete.max_ids,
    )
    create = {
        "target_port": many(
            ref("TargetPort"),
            "The ports to publish, each once.",
            minItems=1,
            maxItems=MAX_TARGET_PORTS,
            uniqueItems=True,
        ),
        "pod_spec": text(
            "A Pod as YAML (or JSON): one document. What it may use is the operator's policy; everything else is "
            "refused with its path. Each target port must be declared by a container. The text may have "
            f"{config.limits.pod_spec} bytes (`limits.pod_spec`), as it comes and with its aliases written out.",
            format="stackd-pod-spec",
            contentMediaType="application/yaml",
        ),
        "template": text(
            "A template's name (`GET /templates`), instead of `target_port` and `pod_spec`. It has a `ttl` and "
            "`labels` of its own, which those of the request replace.",
            format="stackd-template",
            minLength=1,
        ),
        "ttl": duration(
            f"How long the stack lives; at most {format_duration(config.stacks.max_ttl)} (`stacks.max_ttl`)."
        ),
        "labels": table(
            text("A value.", pattern=LABEL_VALUE),
            "Labels to find it by; put on the pod as `label.stackd.io/…` too. Some may have to be given "
            "(`limits.required_labels`), and some be counted (`limits.stacks_per_label`, `limits.creates_per_label`).",
            propertyNames={"pattern": LABEL_NAME},
            maxProperties=MAX_LABELS,
            **({"required": required} if required else {}),
        ),
        "if_exists": text(
            "Where `limits.stacks_per_label` is reached: `error` is a 409 that names an existing stack, `return` is a "
            "200 with the existing stack that has all labels of the request, or a 409 if there is none.",
            enum=list(IF_EXISTS),
        ),
    }
    offered = config.routes.offered
    route = text(
        "Reach it at a name of its own instead of a node port (TCP only): `http`, `https`, or `tls` for other protocols "
        "in TLS (`routes.domain`).",
        enum=list(offered),
    )
    return {
        "TargetPort": record(
            "A container port to publish.",
            {
                "container_port": number(
                    "As a container of the pod declares it; written without a fraction.", 1, LARGEST_PORT
                ),
                "protocol": text("TCP or UDP, in any case of letters.", enum=list(PROTOCOLS)),
            }
            | ({"route": route} if offered else {}),
            optional=("route",),
        ),
        "Create": record(
            "A stack to create: `target_port` and `pod_spec`, or a `template`.",
            create,
            optional=tuple(name for name in create if name != "labels" or not required),
        )
        | {  # not as oneOf: of its alternatives, generators of clients make classes, or nothing
            "if": {"required": ["template"]},
            "then": {"not": {"anyOf": [{"required": ["target_port"]}, {"required": ["pod_spec"]}]}},
            "else": {"required": ["target_port", "pod_spec"]},
        },
        "DryRun": record(
            "What the create would make.",
            {
                "dry_run": {"type": "boolean", "const": True},
                "pod_spec": FIELDS["pod_spec"].schema,
                "requested_cpu_milli": number("CPU that it would reserve, in thousandths of a core."),
                "requested_memory_bytes": number("Memory that it would reserve."),
            },
        ),
        "Extend": record(
            "How much longer.",
            {"ttl": duration("Added to `ttl_expires_at`; the whole life may be `stacks.max_ttl` at most.")},
        ),
        "BatchDelete": record("Stacks to delete.", {"stack_ids": stack_ids}),
        "Batch": record(
            "What to do, and with which stacks: `stack_ids` or `labels`.",
            {
                "action": one_of(JobAction, "What to do with each stack."),
                "ttl": duration("With `extend`: added to each `ttl_expires_at`, as an extension of one stack does."),
                "stack_ids": stack_ids,
                "labels": table(
                    text("A value.", pattern=LABEL_VALUE),
                    "All stacks that have all of these labels.",
                    propertyNames={"pattern": LABEL_NAME},
                    minProperties=1,
                    maxProperties=MAX_LABELS,
                ),
            },
            optional=("ttl", "stack_ids", "labels"),
        )
        | {
            "if": {"properties": {"action": {"const": str(JobAction.EXTEND)}}},
            "then": {"required": ["ttl"]},
            "else": {"not": {"required": ["ttl"]}},
            "oneOf": [{"required": ["stack_ids"]}, {"required": ["labels"]}],
        },
    }


STREAM_EVENTS = ("hello", "stack", "left", "deleted", "job", "skipped", "reset", "dropped")


def jobs() -> dict[str, Schema]:
    """Batch jobs."""
    what = {
        "action": one_of(JobAction, "What it does with each stack."),
        "ttl": duration("By how much it extends, if it does."),
    }
    created = {"created_at": moment("When it was accepted."), "updated_at": moment("When it last made progress.")}
    errors = many(ref("JobError"), f"The first {MAX_ERRORS} failures.", minItems=1, maxItems=MAX_ERRORS)
    job_id, total = text("The job's id.", examples=[examples.JOB_ID]), number("How many ids it has.")
    return {
        "JobAccepted": record("The job is accepted.", {"job_id": text("Ask for its progress with this.")}),
        "JobOfMany": record(
            "The job is accepted.",
            {"job_id": text("Ask for its progress with this."), "total": number("How many stacks it has.")},
        ),
        "JobStatus": one_of(
            JobStatus,
            "`queued`: waits to start. `running`: in progress. `completed`: finished, see the counts. `failed`: "
            "finished, and every id failed.",
        ),
        "Job": record(
            "A batch-delete job. At its end `total` = `deleted` + `not_found` + `failed`.",
            {
                "job_id": job_id,
                "status": ref("JobStatus"),
                "total": total,
                "deleted": number("Stacks that it deleted."),
                "not_found": number("Ids that belong to no stack."),
                "failed": number("Deletes that failed."),
                "errors": errors,
                **created,
            },
            optional=("errors",),
        ),
        "BatchJob": record(
            "A batch job. At its end `total` = `done` + `not_found` + `failed`.",
            {
                "job_id": job_id,
                **what,
                "status": ref("JobStatus"),
                "total": total,
                "done": number(
                    "Stacks that are as the action wants them. One is extended once its row says so; stackd then writes the "
                    "new end into the cluster."
                ),
                "not_found": number("Ids that belong to no stack."),
                "failed": number("Stacks that the action failed for. stackd keeps trying where the error says so."),
                "errors": errors,
                **created,
            },
            optional=("ttl", "errors"),
        ),
        "JobError": record(
            "A failure.",
            {"stack_id": text("The stack's id."), "error": text("Why.", maxLength=MAX_ERROR_LENGTH)},
        ),
    }


def history() -> dict[str, Schema]:
    """Timeline, event streams and capacity."""
    return {
        "Timeline": record(
            "What happened to a stack.",
            {"stack_id": text("The stack's id."), "events": many(ref("TimelineEvent"), "The oldest first.")},
        ),
        "Activity": record(
            "What API keys have asked for.",
            {
                "activity": many(ref("ActivityEntry"), "The latest first."),
                "next_cursor": nullable(text("Where the next page begins; null at the end.")),
            },
        ),
        "ActivityEntry": record(
            "A request about one stack (`stack_id`), or a batch job (`job_id`).",
            {
                "at": moment("When it was accepted."),
                "by": text("The name of the API key."),
                "action": text("What was asked for.", enum=list(ACTIONS)),
                "ttl": duration("By how much a job extends."),
                "stack_id": text("The stack's id; there is either this or `job_id`."),
                "job_id": text("The job's id."),
                "labels": table(text("A value."), "The stack's labels; of a job: those that chose its stacks."),
                "message": text("More about it, such as `until 2026-02-10T04:02:26Z`."),
                "status": ref("JobStatus"),
                "total": number("How many stacks it is about."),
                "done": number("For how many it is done."),
                "not_found": number("How many ids belong to no stack."),
                "failed": number("For how many it failed."),
                "errors": many(ref("JobError"), f"The first {MAX_ERRORS} failures.", minItems=1, maxItems=MAX_ERRORS),
                "created_at": moment("Of a job: when it was accepted."),
                "updated_at": moment("Of a job: when it last made progress."),
            },
            optional=("ttl", "stack_id", "job_id", "errors", "created_at", "updated_at"),
        ),
        "TimelineEvent": record(
            "One thing that happened.",
            {
                "at": moment("When."),
                "kind": one_of(EventKind, "What."),
                "reason": text("In one word."),
                "message": text("In a sentence. It may quote the pod: treat it as the tenant's text."),
                "by": text("The name of the API key that asked for it, `stackd`, or `cluster`."),
                "count": number("How often, if more than once.", 2),
            },
            optional=("count",),
        ),
        "StreamEvent": record(
            "One event of a stream, by its lines.",
            {
                "id": text("What `Last-Event-ID` takes."),
                "event": text("What it is about.", enum=list(STREAM_EVENTS)),
                "data": text("JSON, as the route says.", contentMediaType=JSON),
            },
            optional=("id",),
        ),
        "Capacity": record(
            "How many more of one kind of stack fit, if the nodes run nothing but stacks.",
            {
                "fits": number("How many more."),
                "limited_by": text(
                    "What runs out first: `cpu`, `memory`, `ephemeral_storage`, `pods`, `nodes`, `ports`, `quota` or "
                    "`max_stacks`."
                ),
                "nodes": table(number("How many more."), "By node."),
                "quota": nullable(number("How many more the namespace's quotas allow; null while they are not known.")),
                "quota_limited_by": text("The resource of the quotas that runs out first; empty if none."),
                "quota_seen_at": nullable(moment("When the quotas were read.")),
                "ports": number("How many more the node ports allow."),
                "free_node_ports": number("Node ports that nobody holds; stacks that wait in pools hold theirs."),
                "stacks": nullable(number("How many more `limits.max_stacks` allows; null if there is no limit.")),
                "unassigned": number(
                    "Stacks that wait in pools. They give way to creates, so what they take counts as free everywhere here."
                ),
                "requested_cpu_milli": number("CPU of one, in thousandths of a core.", 1),
                "requested_memory_bytes": number("Memory of one.", 1),
                "requested_ephemeral_storage_bytes": number("Disk of one, as the scheduler counts it."),
                "requested_ports": number("Ports of one.", 1, MAX_TARGET_PORTS),
                "assumes": text("What the answer assumes."),
            },
        ),
    }


def _template_properties() -> dict[str, Schema]:
    pooled = "Unassigned stacks of its pool that "
    return {
        "name": text("Its name."),
        "target_port": many(ref("TargetPort"), "The ports that its stacks publish."),
        "ttl": text("How long its stacks live unless the create says otherwise."),
        "labels": table(text("A value."), "Labels that its stacks get."),
        "images": many(text("An image."), "The images of its containers."),
        "generates": many(text("A variable's name."), "What is generated for each stack."),
        "requested_cpu_milli": number("CPU of one, in thousandths of a core."),
        "requested_memory_bytes": number("Memory of one."),
        "stacks": table(number("How many."), "Its stacks by status, without those of the pool."),
        "median_seconds_to_running": nullable(
            {
                "type": "number",
                "description": "From create to running, within the last hour; null where none was started.",
            }
        ),
        "pool": number("How many stacks are kept running and unassigned."),
        "ready": number(pooled + "can be given away now."),
        "starting": number(pooled + "are being started."),
        "failing": number(pooled + "do not come up."),
        "held": number("Always 0; older versions of stackd kept stacks back."),
        "hits": number("Creates that got a stack from the pool, since the daemon started."),
        "misses": number("Creates that found the pool empty, since the daemon started."),
        "reason": text("Why the pool is not filled; empty while it is, or is being filled."),
        "prepull": nullable(
            table(
                record(
                    "The image that is least far.",
                    {
                        "state": text("How far it is.", enum=[str(state) for state in PullState]),
                        "reason": text("Why it fails; empty where it does not."),
                    },
                ),
                "How far its images are on each node; null where they are not pulled ahead.",
            )
        ),
        "history": record(
            "With `history`: one sample, the present one. Older versions of stackd kept those of an hour; Prometheus does.",
            {
                "every_seconds": {"type": "number", "description": "Always 30."},
                **{name: many(number("How many."), f"Its stacks that are {name}.") for name in HISTORY_OF_STACKS},
                **{name: many(number("How many."), f"Unassigned ones that are {name}.") for name in HISTORY_OF_POOLS},
            },
        ),
    }


def system() -> dict[str, Schema]:
    """Health, counts, the operator's answers, and errors."""
    sentence = text("What is wrong, in a sentence.", maxLength=ERROR_LIMIT)
    player = {"player_message": text("What a platform can show to a player: where a limit or the room is the reason.")}
    status: dict[str, Any] = {"type": "string"}
    return {
        "Error": record(
            "Every error. `detail`, if there is one, is what Kubernetes or a library said: for whoever runs stackd.",
            {"error": sentence, "detail": text("The technical reason.", maxLength=ERROR_LIMIT), **player},
            optional=("detail", "player_message"),
        ),
        "Refused": record(
            "What is wrong with a request, and if its pod spec, ports, labels or time to live are: each thing by itself.",
            {"error": sentence, "reasons": many(ref("Reason"), "In the order of the lines.", minItems=1)},
            optional=("reasons",),
        ),
        "Reason": record(
            "One thing that is wrong.",
            {
                "path": text(
                    "The field, such as `spec.containers[0].image` or `target_port[0]`; `(root)` is the pod spec as a "
                    "whole, and empty is no field."
                ),
                "line": nullable(
                    number("Where it stands in the pod spec's text, from 1; null where it is not in there.", 1)
                ),
                "text": text("What is wrong."),
            },
        ),
        "StackExists": record(
            "A conflict. If a label's limit is reached, `stack_id` is the existing stack.",
            {"error": sentence, "stack_id": ref("StackId"), **player},
            optional=("stack_id", "player_message"),
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
                "reserved_cpu_milli": number("CPU of the stacks that still hold resources, in thousandths of a core."),
                "reserved_memory_bytes": number("Memory of the stacks that still hold resources."),
            },
        ),
        "Key": record(
            "The key of the request.",
            {
                "name": text("Its name, as timelines and the log have it."),
                "scope": text("`admin`, `read`, `metrics` or `tenant`."),
                "labels": table(text("A value."), "What its creates get, and what it sees; empty: everything."),
            },
        ),
        "Owner": record(
            "Who owns the stacks.",
            {
                "role": text("What this stackd is: `owner`, `standby`, `lost` or `released`."),
                "host": text("Its machine."),
                "may_change": flag("Whether it may change anything now."),
                "trouble": text("Why the Lease could not be read or renewed; empty when it could."),
                "owner": text("The owner's machine; empty when nobody owns the stacks."),
                "lease": text("The Lease's name, in the namespace of the stacks."),
                "holder": text("Who holds it: machine and file."),
                "lease_duration_seconds": number("For how long a renewal is good."),
                "acquired_at": nullable(moment("Since when, by the owner's clock; null where there is no owner.")),
                "renewed_at": nullable(moment("When it was renewed last, by the owner's clock.")),
                "transitions": number("How often the Lease went from one holder to another."),
                "asked_for_by": text("Which machine's stackd wants to take over; empty when none does."),
            },
        ),
        "Takeover": record("Who was asked to hand over.", {"asked": text("The owner's machine.")}),
        "Templates": record(
            "What there is to ask for by name.",
            {"templates": many(record("A template.", _template_properties(), ("history",)))},
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
                "unknown": many(
                    record(
                        "An object with stackd's labels that belongs to no known stack. stackd leaves it alone.",
                        {
                            "kind": text("`pods` or `services`."),
                            "name": text("Which object."),
                            "why": text("Why no stack can be made of it."),
                        },
                    )
                ),
            },
        ),
        "Released": record(
            "What a brake no longer holds.",
            {
                "released": number("How many stacks."),
                "held": many(text("A stack's id."), "What it holds that it did not hold when you released it."),
                "removed": many(text("Kind and name of an object."), "Unknown objects that are removed now."),
            },
            optional=("held", "removed"),
        ),
    }

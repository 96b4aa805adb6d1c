"""Recover rows from what the cluster's objects carry: all of a lost file by command, or those of objects without a row.

Owns: which objects make a stack again, and how far a record is believed: somebody else may have written it, so it gives
no longer life than a create, and a template's policy only to the template's own pod spec. The statuses of living stacks
are observed once the daemon runs. How the others ended is read from their pods here, because an ended stack is not
observed again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from stackd.kube import labels
from stackd.kube.client import Cluster, is_ours
from stackd.kube.objects import pod_state
from stackd.kube.records import NO_PODS, Unrecoverable, parse_record
from stackd.kube.wire import JsonObject
from stackd.lifecycle.context import Context
from stackd.lifecycle.decide import NO_RECORD
from stackd.lifecycle.desired import PODS, SERVICES, stack_of
from stackd.lifecycle.status import PodSnapshot, derive_status
from stackd.logs import stack_log
from stackd.model import SERVICE_PREFIX, Desired, Stack, StackStatus
from stackd.store import STOPPED_BY_USER, STOPPED_MESSAGE, Store
from stackd.templates import TemplateSet

log = logging.getLogger(__name__)


# A stack's id, and the stack that its Service describes.
Records = Mapping[str, Stack | Unrecoverable]


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """The ids of stacks that have rows now, and of those that could not be recovered, with the reasons."""

    recovered: list[str] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordBounds:
    """How far a record is believed: times in nanoseconds, and the templates in force."""

    now: int
    max_ttl: int
    templates: TemplateSet

    def capped(self, record: Stack) -> Stack:
        """The record with an expiry that ``max_ttl`` allows."""
        begin = min(record.created_at, self.now) if record.unassigned else self.now
        return replace(record, ttl_expires_at=min(record.ttl_expires_at, begin + self.max_ttl))

    def adoptable(self, record: Stack) -> Stack:
        """The same, and without a template that its pod spec is not from. A stack of a pool keeps its template, because
        nobody can restart it; but none is given by a false digest."""
        record = self.capped(record)
        template = self.templates.get(record.template or "")
        if record.template is None or (template is not None and template.spec.text == record.pod_spec):
            return record
        kept = (record.unassigned or record.shared) and record.digest is not None
        if kept and (template is None or record.digest != template.digest):
            return record
        stack_log(log, record.stack_id).warning(
            "its pod spec is not the template's: adopted without %s", record.template
        )
        return replace(record, template=None, digest=None)


async def rebuild(store: Store, cluster: Cluster, bounds: RecordBounds) -> Rebuilt:
    """Fill the empty file. Raises ClusterUnavailable if the cluster cannot be read."""
    uid = await cluster.cluster_uid()
    report = await _make_rows(store, await _recorded(cluster), bounds)
    await store.set_cluster(uid)
    return report


async def _make_rows(store: Store, found: Records, bounds: RecordBounds) -> Rebuilt:
    report, stacks = Rebuilt(), []
    for stack_id, stack in found.items():
        if isinstance(stack, Unrecoverable):
            report.lost.append((stack_id, stack.reason))
        else:
            stacks.append(bounds.adoptable(stack))
    for stack_id, reason in (await store.stacks.adopt(stacks)).items():
        if reason:
            report.lost.append((stack_id, reason))
        else:
            report.recovered.append(stack_id)
    return report


async def adopt(context: Context, names: Collection[str]) -> Rebuilt:
    """Make rows for the stacks of these ids from their Services; while the file is incomplete, also for all others: the
    mirror may not show yet what the owner before has written last.

    Raises ClusterUnavailable or ClusterError; StoreUnavailable: then no row was made.
    """
    await context.gate.right_cluster()
    rows, incomplete = context.store.stacks, context.store.incomplete
    records = await _recorded(context.cluster)
    found = {
        stack_id: record
        for stack_id, record in records.items()
        if stack_id in names or (incomplete and stack_id not in rows)
    }
    await context.gate.right_cluster()  # the lists came from this cluster, and not from another that answered meanwhile
    report = await _make_rows(context.store, found, _bounds(context))
    report.lost += [(stack_id, NO_RECORD) for stack_id in set(names) - records.keys()]
    return report


async def update_rows(context: Context) -> None:
    """Bring the rows of a restored file up to date: stacks that were extended, stopped, started or accepted since then.
    Remove those of which the cluster has nothing any more: whoever owned the stacks meanwhile has deleted them.

    Raises ClusterUnavailable or ClusterError; StoreUnavailable: then nothing was changed.
    """
    await context.gate.right_cluster()
    found = await _recorded(context.cluster)
    gone = await _gone(context, found)
    await context.gate.right_cluster()
    for stack_id in gone:
        stack_log(log, stack_id).info("deleted while another stackd owned the stacks")
    await context.store.stacks.remove(gone)  # first: others may have got their ports
    bounds = _bounds(context)
    records = [bounds.capped(stack) for stack in found.values() if not isinstance(stack, Unrecoverable)]
    for stack_id, why in await context.store.stacks.update(records):
        stack_log(log, stack_id).warning("its row cannot be brought up to date: %s", why)


def _bounds(context: Context) -> RecordBounds:
    return RecordBounds(
        now=context.wall_clock.now(), max_ttl=context.longest_life, templates=context.settings.templates
    )


async def _gone(context: Context, there: Collection[str]) -> list[str]:
    """The stacks of which the cluster has neither pod nor Service; it is asked for each of them. Somebody else's object
    of the same name does not count. None of them if there was no Lease: nothing says that another stackd has deleted them.
    """
    cluster = context.cluster
    if context.gate.ownership.predecessor is None:
        return []

    async def is_there(stack: Stack) -> bool:
        for resource, name, uid in (
            ("services", stack.service_name, stack.service_uid),
            ("pods", stack.pod_name, stack.pod_uid),
            *(("pods", stack.member_name(one.name), one.pod_uid) for one in stack.members),
        ):
            raw = await cluster.find(resource, name)
            if raw is not None and is_ours(raw, context.cluster.instance, (uid,)):
                return True
        return False

    missing = [stack for stack in context.store.stacks.ordered() if stack.stack_id not in there]
    answers = await asyncio.gather(*map(is_there, missing))
    return [stack.stack_id for stack, still in zip(missing, answers, strict=True) if not still]


async def _recorded(cluster: Cluster) -> Records:
    """What the Services of stacks say; each exists from the reservation of its stack to the removal."""
    pods, services = await cluster.list_raw(PODS), await cluster.list_raw(SERVICES)
    pods.sort(key=labels.generation_of)
    latest, others = dict[str, JsonObject](), defaultdict[str, dict[str, JsonObject]](dict)
    for raw in pods:
        stack_id, member = stack_of(PODS, raw["metadata"]["name"]), labels.labels_of(raw).get(labels.MEMBER)
        (latest if member is None else others[stack_id])[member or stack_id] = raw  # the latest of a shared stack
    of_stacks = ((raw["metadata"]["name"], raw) for raw in services if labels.SPARE not in labels.labels_of(raw))
    named = {stack_of(SERVICES, name): raw for name, raw in of_stacks if name.startswith(SERVICE_PREFIX)}
    return {
        stack_id: _read(service, latest.get(stack_id), others.get(stack_id, NO_PODS))
        for stack_id, service in named.items()
    }


def _read(service: JsonObject, pod: JsonObject | None, others: Mapping[str, JsonObject]) -> Stack | Unrecoverable:
    """The stack with the status that its record or its pod tells, unless its names contradict each other."""
    stack = parse_record(service, pod, others)
    if isinstance(stack, Unrecoverable):
        return stack
    if (name := service["metadata"]["name"]) != stack.service_name:
        return Unrecoverable(name=name, reason=f"its label {labels.STACK} names another stack: {stack.stack_id!r}")
    if stack.desired is Desired.STOPPED:
        return replace(stack, status_reason=STOPPED_BY_USER, status_message=STOPPED_MESSAGE)
    if not stack.ended or stack.status is not StackStatus.CREATING or pod is None:
        return stack
    snapshot = PodSnapshot(pod=pod_state(pod), node_exists=True, node_public_ip=None, now=stack.created_at)
    end = derive_status(replace(stack, ended=False), snapshot, image_pull_grace=0.0)
    return replace(stack, status=end.status, status_reason=end.reason, status_message=end.message, ended=end.ended)

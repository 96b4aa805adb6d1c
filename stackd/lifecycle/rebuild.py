"""Recover rows from what the cluster's objects carry: all of a lost file by command, or those of objects without a row.

Owns: which objects make a stack again, and how far a record is believed: somebody else may have written it, so it gives
no longer life than a create, and a template's policy only to the template's own pod spec. The statuses of living stacks
are observed once the daemon runs. How the others ended is read from their pods here, because an ended stack is not
observed again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from stackd.crashpoints import crash_point
from stackd.errors import ClusterError, ClusterUnavailable, StoreUnavailable
from stackd.kube import labels
from stackd.kube.client import Cluster, is_ours
from stackd.kube.objects import pod_state
from stackd.kube.records import Unrecoverable, config_map_supersedes, parse_config_map, parse_pod, parse_record
from stackd.kube.wire import CONFIG_MAPS, JsonObject
from stackd.lifecycle.context import Context
from stackd.lifecycle.desired import PODS, SERVICES, stack_of
from stackd.lifecycle.status import PodSnapshot, derive_status
from stackd.logs import stack_log
from stackd.model import Desired, Stack, StackStatus, service_name
from stackd.store import STOPPED_BY_USER, STOPPED_MESSAGE, Store
from stackd.templates import TemplateSet

log = logging.getLogger(__name__)

RETIRE_SECONDS = 10.0  # the pause between two looks for ConfigMaps of the version before


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """The ids of stacks that have rows now, and what could not be recovered (name, reason)."""

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


async def _make_rows(store: Store, found: Iterable[Recorded], bounds: RecordBounds) -> Rebuilt:
    report, stacks = Rebuilt(), []
    for one in found:
        if isinstance(one.stack, Unrecoverable):
            report.lost.append((one.stack.name, one.stack.reason))
        else:
            stacks.append(bounds.adoptable(one.stack))
    for stack_id, reason in (await store.stacks.adopt(stacks)).items():
        if reason:
            report.lost.append((stack_id, reason))
        else:
            report.recovered.append(stack_id)
    return report


async def adopt(context: Context, names: Collection[str]) -> Rebuilt:
    """Make rows for the stacks of these ids. One whose Service is gone or being deleted by now is left out.

    While the file is incomplete, also for all others: the mirror does not show the ConfigMaps of the version before.
    Raises ClusterUnavailable or ClusterError; StoreUnavailable: then no row was made.
    """
    await context.gate.right_cluster()
    rows, incomplete = context.store.stacks, context.store.incomplete
    found = [
        one
        for one in await _recorded(context.cluster)
        if not one.deleting and (one.name in names or (incomplete and one.name not in rows))
    ]
    await context.gate.right_cluster()  # the lists came from this cluster, and not from another that answered meanwhile
    report = await _make_rows(context.store, found, _bounds(context))
    report.lost = [(stack_of(SERVICES, name), why) for name, why in report.lost]
    for name in set(names).difference(report.recovered, dict(report.lost)):
        report.lost.append((name, "neither its Service nor its pod carries a record"))
    return report


async def update_rows(context: Context) -> None:
    """Bring the rows of a restored file up to date: stacks that were extended, stopped, started or accepted since then.
    Remove those of which the cluster has nothing any more: whoever owned the stacks meanwhile has deleted them.

    Raises ClusterUnavailable or ClusterError; StoreUnavailable: then nothing was changed.
    """
    await context.gate.right_cluster()
    found = [one for one in await _recorded(context.cluster) if one.name in context.store.stacks]
    gone = await _gone(context, {one.name for one in found})
    await context.gate.right_cluster()
    for stack_id in gone:
        stack_log(log, stack_id).info("deleted while another stackd owned the stacks")
    await context.store.stacks.remove(gone)  # first: others may have got their ports
    bounds = _bounds(context)
    records = [bounds.capped(one.stack) for one in found if not isinstance(one.stack, Unrecoverable)]
    for stack_id, why in await context.store.stacks.renew(records):
        stack_log(log, stack_id).warning("its row cannot be brought up to date: %s", why)


def _bounds(context: Context) -> RecordBounds:
    return RecordBounds(
        now=context.wall_clock.now(), max_ttl=context.longest_life, templates=context.settings.templates
    )


async def _gone(context: Context, there: Collection[str]) -> list[str]:
    """The stacks of which the cluster has neither pod nor Service; it is asked for each of them. Somebody else's object
    of the same name does not count. None of them if no stackd has held a Lease before: a stackd without a Lease kept no
    records of stopped stacks."""
    cluster = context.cluster
    if context.gate.ownership.predecessor is None:
        return []

    async def is_there(stack: Stack) -> bool:
        for resource, name, uid in (
            ("services", stack.service_name, stack.service_uid),
            ("pods", stack.pod_name, stack.pod_uid),
        ):
            raw = await cluster.find(resource, name)
            if raw is not None and is_ours(raw, context.cluster.instance, (uid,)):
                return True
        return False

    missing = [stack for stack in context.store.stacks.ordered() if stack.stack_id not in there]
    answers = await asyncio.gather(*map(is_there, missing))
    return [stack.stack_id for stack, still in zip(missing, answers, strict=True) if not still]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A stack's object that carries its record, and the stack made from it. ``name`` is the stack's id. ``deleting``:
    the object is being deleted."""

    name: str
    deleting: bool
    stack: Stack | Unrecoverable


async def _recorded(cluster: Cluster) -> list[Recorded]:
    """What the cluster has of each stack; in the version before the record was on the pod, or in a ConfigMap while the
    stack had none."""
    lists = [await cluster.list_raw(kind) for kind in ("pods", "services", CONFIG_MAPS)]
    lists[0].sort(key=labels.generation_of)
    pods = {stack_of(PODS, raw["metadata"]["name"]): raw for raw in lists[0]}  # of a shared stack the latest
    services, config_maps = ({raw["metadata"]["name"]: raw for raw in one} for one in lists[1:])
    found = []
    for name, service in services.items():
        if labels.RECORD in labels.annotations_of(service):
            stack_id = stack_of(SERVICES, name)
            pod = pods.pop(stack_id, None)
            config_maps.pop(stack_id, None)
            found.append(_one(stack_id, service, parse_record(service, pod), pod))
    for name, pod in pods.items():
        config_map = config_maps.get(name)
        if config_map is None or not config_map_supersedes(config_map, pod):
            config_maps.pop(name, None)
            found.append(_one(name, pod, parse_pod(pod, services.get(service_name(name))), pod))
    return found + [_one(name, raw, parse_config_map(raw), None) for name, raw in config_maps.items()]


def _one(stack_id: str, raw: JsonObject, stack: Stack | Unrecoverable, pod: JsonObject | None) -> Recorded:
    """The stack with the status that its record or its pod tells, unless its names contradict each other."""
    metadata = raw["metadata"]
    if not isinstance(stack, Unrecoverable):
        if metadata["name"] not in (stack.stack_id, stack.service_name):
            reason = f"its label {labels.STACK} names another stack: {stack.stack_id!r}"
            stack = Unrecoverable(name=metadata["name"], reason=reason)
        elif stack.desired is Desired.STOPPED:
            stack = replace(stack, status_reason=STOPPED_BY_USER, status_message=STOPPED_MESSAGE)
        elif stack.ended and stack.status is StackStatus.CREATING and pod is not None:
            snapshot = PodSnapshot(pod=pod_state(pod), node_exists=True, node_public_ip=None, now=stack.created_at)
            end = derive_status(replace(stack, ended=False), snapshot, image_pull_grace=0.0)
            stack = replace(
                stack, status=end.status, status_reason=end.reason, status_message=end.message, ended=end.ended
            )
    return Recorded(stack_id, bool(metadata.get("deletionTimestamp")), stack)


async def retire_config_maps(context: Context) -> None:
    """Delete the ConfigMaps of the version before, once the Services of their stacks carry the records instead."""
    while True:
        try:
            found = [raw["metadata"]["name"] for raw in await context.cluster.list_raw(CONFIG_MAPS)]
            if not found:
                return
            await _retire(context, found)
        except (ClusterError, ClusterUnavailable, StoreUnavailable) as error:
            log.info("ConfigMaps of the version before may still be there: %s", error)
        await asyncio.sleep(RETIRE_SECONDS)


async def _retire(context: Context, names: list[str]) -> None:
    rowless = frozenset(names) - context.store.stacks.ids()
    removed = await context.store.stacks.removed_among(rowless)
    if rowless - removed:
        await adopt(context, rowless - removed)
    for stack_id in names:
        stack = context.store.stacks.get(stack_id)
        service = context.mirror.services.get(service_name(stack_id))
        if stack_id in removed if stack is None else (service is not None and service.recorded):
            await context.gate.right_cluster()
            await context.cluster.remove(CONFIG_MAPS, stack_id)
            crash_point("upgrade.config_map_deleted")

"""Recover rows from what the cluster's objects carry: all of a lost file by command, or those of objects without a row.

Owns: which objects make a stack again, and how far a record is believed: somebody else may have written it, so it gives
no longer life than a create, and a template's policy only to the template's own pod spec. The statuses of living stacks
are observed once the daemon runs. How the others ended is read from their pods here, because an ended stack is not
observed again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from stackd.clock import NANOSECONDS
from stackd.errors import StoreError
from stackd.kube import labels
from stackd.kube.client import Cluster
from stackd.kube.objects import pod_state
from stackd.kube.records import (
    Unrecoverable,
    config_map_supersedes,
    parse_config_map,
    parse_pod,
    parse_record,
)
from stackd.kube.wire import CONFIG_MAPS, JsonObject
from stackd.lifecycle.bring_up import CLUSTER_UID
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.next_step import SERVICES, stack_of
from stackd.lifecycle.status import PodSnapshot, derive_status
from stackd.logs import stack_log
from stackd.model import Desired, Stack, StackStatus, service_name
from stackd.store import REMOVED, STOPPED_BY_USER, STOPPED_MESSAGE, Store
from stackd.templates import TemplateSet

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """The ids of recovered stacks, and what could not be recovered (name, reason)."""

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
        """The same, and without a template that its pod spec is not from.

        A stack of a pool keeps its template, because nobody can restart it; but none is given by a false digest.
        """
        record = self.capped(record)
        template = self.templates.get(record.template or "")
        if record.template is None or (template is not None and template.spec.text == record.pod_spec):
            return record
        if record.unassigned and record.digest is not None and (template is None or record.digest != template.digest):
            return record
        stack_log(log, record.stack_id).warning(
            "its pod spec is not the template's: adopted without %s", record.template
        )
        return replace(record, template=None, digest=None)


def require_empty(store: Store) -> None:
    """Raise StoreError if the file has stacks already."""
    if len(store.stacks):
        raise StoreError(f"the file already holds {len(store.stacks)} stacks; rebuild needs an empty one")


async def rebuild(store: Store, cluster: Cluster, bounds: RecordBounds) -> Rebuilt:
    """Fill the empty file. Raises ClusterUnavailable if the cluster cannot be read."""
    uid = await cluster.cluster_uid()
    report, stacks = Rebuilt(), []
    for one in await _found(cluster):
        if isinstance(one.stack, Unrecoverable):
            report.lost.append((one.stack.name, one.stack.reason))
        else:
            stacks.append(bounds.adoptable(one.stack))
    for stack_id, reason in (await store.stacks.adopt(stacks)).items():
        if reason:
            report.lost.append((stack_id, reason))
        else:
            report.recovered.append(stack_id)
    await store.meta.put(CLUSTER_UID, uid)
    return report


@dataclass(slots=True, kw_only=True)
class AdoptionReport:
    """The ids of stacks that have rows now, and those that no row could be made for, with the reason.

    ``contested`` are those that lack something another row has, such as a port: it may give it back.
    """

    stacks: list[str] = field(default_factory=list)
    unadoptable: dict[str, str] = field(default_factory=dict)
    contested: set[str] = field(default_factory=set)


async def adopt(context: Context, names: Collection[str]) -> AdoptionReport:
    """Make rows for the stacks of these ids. One whose Service is gone or being deleted by now is left out.

    While the file is incomplete, also for all others: the mirror does not show the ConfigMaps of the version before.
    Raises ClusterUnavailable or ClusterError; StoreUnavailable: then no row was made.
    """
    await context.gate.right_cluster()
    report, stacks = AdoptionReport(), []
    for one in await _found(context.cluster):
        wanted = one.name in names or (context.store.incomplete and one.name not in context.store.stacks)
        if not wanted or one.deleting:
            continue
        if isinstance(one.stack, Unrecoverable):
            report.unadoptable[one.name] = one.stack.reason
        else:
            stacks.append(_bounds(context).adoptable(one.stack))
    await context.gate.right_cluster()  # the lists came from this cluster, and not from another that answered meanwhile
    for stack_id, reason in (await context.store.stacks.adopt(stacks)).items():
        if not reason:
            report.stacks.append(stack_id)
            continue
        report.unadoptable[stack_id] = reason
        if reason != REMOVED:
            report.contested.add(stack_id)
    for name in set(names).difference(report.stacks, report.unadoptable):
        report.unadoptable[name] = "neither its Service nor its pod carries a record"
    return report


async def renew_rows(context: Context) -> None:
    """Bring the rows of a restored file up to date: stacks that were extended, stopped, started or accepted since then.
    Remove those of which the cluster has nothing any more: whoever owned the stacks meanwhile has deleted them.

    Raises ClusterUnavailable or ClusterError; StoreUnavailable: then nothing was changed.
    """
    await context.gate.right_cluster()
    found = [one for one in await _found(context.cluster) if one.name in context.store.stacks]
    gone = await _gone(context, {one.name for one in found})
    await context.gate.right_cluster()
    for stack_id in gone:
        stack_log(log, stack_id).info("deleted while another stackd owned the stacks")
    await context.store.stacks.remove(gone)  # first: others may have got their ports
    records = [_bounds(context).capped(one.stack) for one in found if not isinstance(one.stack, Unrecoverable)]
    for stack_id, why in await context.store.stacks.renew(records):
        stack_log(log, stack_id).warning("its row cannot be brought up to date: %s", why)


def _bounds(context: Context) -> RecordBounds:
    longest = round(context.config.stacks.max_ttl * NANOSECONDS)
    return RecordBounds(now=context.wall_clock.now(), max_ttl=longest, templates=context.settings.templates)


async def _gone(context: Context, there: Collection[str]) -> list[str]:
    """The stacks of which the cluster has neither pod nor Service; it is asked for each of them.

    None of them if no stackd has held a Lease before: a stackd without a Lease kept no records of stopped stacks.
    """
    succession = context.ownership.succession
    if succession is None or not succession.after_lease:
        return []
    missing = [stack for stack in context.store.stacks.ordered() if stack.stack_id not in there]
    held = await asyncio.gather(*(_is_there(context.cluster, stack) for stack in missing))
    return [stack.stack_id for stack, is_there in zip(missing, held, strict=True) if not is_there]


async def _is_there(cluster: Cluster, stack: Stack) -> bool:
    return (
        await cluster.find("services", stack.service_name) is not None
        or await cluster.get_pod(stack.pod_name) is not None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A stack's object that carries its record, and the stack made from it. ``name`` is the stack's id.

    ``deleting``: the object is being deleted.
    """

    name: str
    uid: str
    deleting: bool
    stack: Stack | Unrecoverable


async def _found(cluster: Cluster) -> list[Found]:
    """What the cluster has of each stack."""
    pods = {raw["metadata"]["name"]: raw for raw in await cluster.list_raw("pods")}
    services = {raw["metadata"]["name"]: raw for raw in await cluster.list_raw("services")}
    config_maps = {raw["metadata"]["name"]: raw for raw in await cluster.list_raw(CONFIG_MAPS)}
    found = []
    for name, service in services.items():
        if labels.RECORD in labels.annotations_of(service):
            stack_id = stack_of(SERVICES, name)
            pod = pods.pop(stack_id, None)
            config_maps.pop(stack_id, None)
            found.append(_one(stack_id, service, _as_it_is(name, parse_record(service, pod), pod)))
    return [*found, *_of_version_before(pods, services, config_maps)]


def _of_version_before(
    pods: Mapping[str, JsonObject], services: Mapping[str, JsonObject], config_maps: dict[str, JsonObject]
) -> Iterator[Found]:
    """The stacks whose record is on the pod, or in a ConfigMap while they have none."""
    for name, pod in pods.items():
        config_map = config_maps.get(name)
        if config_map is None or not config_map_supersedes(config_map, pod):
            config_maps.pop(name, None)
            yield _one(name, pod, _as_it_is(name, parse_pod(pod, services.get(service_name(name))), pod))
    for name, config_map in config_maps.items():
        yield _one(name, config_map, _as_it_is(name, parse_config_map(config_map), None))


def _one(stack_id: str, raw: JsonObject, stack: Stack | Unrecoverable) -> Found:
    metadata = raw["metadata"]
    return Found(name=stack_id, uid=metadata["uid"], deleting=bool(metadata.get("deletionTimestamp")), stack=stack)


def _as_it_is(name: str, found: Stack | Unrecoverable, pod: JsonObject | None) -> Stack | Unrecoverable:
    """The stack with the status that its record or its pod tells, unless its names contradict each other."""
    if isinstance(found, Unrecoverable):
        return found
    if name not in (found.stack_id, found.service_name):
        return Unrecoverable(name=name, reason=f"its label {labels.STACK} names another stack: {found.stack_id!r}")
    if found.desired is Desired.STOPPED:
        return replace(found, status_reason=STOPPED_BY_USER, status_message=STOPPED_MESSAGE)
    if not found.ended or found.status is not StackStatus.CREATING or pod is None:
        return found
    snapshot = PodSnapshot(
        pod=pod_state(pod), node_exists=True, node_public_ip=None, pull_failing_since=None, now=found.created_at
    )
    derived = derive_status(replace(found, ended=False), snapshot, image_pull_grace=0.0)
    return replace(
        found, status=derived.status, status_reason=derived.reason, status_message=derived.message, ended=derived.ended
    )


async def retire_config_maps(context: Context) -> int:
    """Delete the ConfigMaps of the version before, once the Services of their stacks carry the records instead.

    Returns how many there were. Raises ClusterUnavailable, ClusterError, StoreUnavailable.
    """
    found = [raw["metadata"]["name"] for raw in await context.cluster.list_raw(CONFIG_MAPS)]
    rowless = frozenset(found) - context.store.stacks.ids()
    removed = await context.store.stacks.removed_among(rowless)
    if rowless - removed:
        await adopt(context, rowless - removed)
    for stack_id in found:
        stack = context.store.stacks.get(stack_id)
        service = context.mirror.services.get(service_name(stack_id))
        if stack is None and stack_id not in removed:
            continue  # it cannot be adopted
        if stack is None or (service is not None and service.recorded):
            await context.gate.right_cluster()
            await context.cluster.delete(CONFIG_MAPS, stack_id)
            crash_point("upgrade.config_map_deleted")
    return len(found)

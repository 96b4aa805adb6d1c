"""Recover the rows of a lost file from what the cluster's objects carry.

Owns: which objects make a stack again. The statuses of the living are observed once the daemon runs; how the others ended
is read from their pods here, as what has ended is not looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from stackd.errors import StoreError
from stackd.kube import labels
from stackd.kube.client import Cluster
from stackd.kube.objects import PodState, pod_state
from stackd.kube.record import Unrecoverable, parse_record
from stackd.lifecycle.bring_up import CLUSTER_UID
from stackd.lifecycle.status import Sight, judge
from stackd.model import Stack, service_name
from stackd.store import Store


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """The ids of recovered stacks, and what could not be recovered (name, reason)."""

    recovered: list[str] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)


async def rebuild(store: Store, cluster: Cluster) -> Rebuilt:
    """Fill the empty file. Raises StoreError if it is not empty, ClusterUnavailable if the cluster cannot be read."""
    if len(store.stacks):
        raise StoreError(f"the file already holds {len(store.stacks)} stacks; rebuild needs an empty one")
    uid = await cluster.cluster_uid()
    services = {raw["metadata"]["name"]: raw async for raw in cluster.list_raw("services")}
    report, stacks, seen = Rebuilt(), [], set()
    async for pod in cluster.list_raw("pods"):
        stack_id = pod["metadata"]["labels"].get(labels.STACK, "")
        seen.add(service_name(stack_id))
        found = parse_record(pod, services.get(service_name(stack_id)))
        if isinstance(found, Unrecoverable):
            report.lost.append((found.name, found.reason))
        else:
            stacks.append(_as_it_ended(found, pod_state(pod)) if found.ended else found)
    report.lost += [(name, "its pod is gone") for name in services if name not in seen]
    for adopted in await store.adopt(stacks):
        if adopted.stack is None:
            report.lost.append((adopted.stack_id, adopted.reason))
        else:
            report.recovered.append(adopted.stack_id)
    await store.set_meta(CLUSTER_UID, uid)
    return report


def _as_it_ended(stack: Stack, pod: PodState) -> Stack:
    sight = Sight(pod=pod, node_exists=True, node_public_ip=None, pull_failing_since=None, now=stack.created_at)
    verdict = judge(replace(stack, ended=False), sight, image_pull_grace=0.0)
    return replace(
        stack, status=verdict.status, status_reason=verdict.reason, status_message=verdict.message, ended=verdict.ended
    )

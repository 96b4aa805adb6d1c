"""Would this stack be made? Asked of stackd's own limits and of the cluster, without anything being written anywhere."""

from __future__ import annotations

from stackd.errors import ClusterError, ClusterUnavailable
from stackd.lifecycle.create import Order, pod_request
from stackd.lifecycle.room import Room, new_id
from stackd.model import PortMapping, Stack, StackStatus


async def dry_run(room: Room, order: Order) -> None:
    """Let the cluster check the pod (Pod Security, LimitRange, ResourceQuota) and the file the label limits.

    Returns if a create would get past them now; raises what it would raise. Room on the nodes is not part of it.
    """
    room.admit()
    limits = room.config.limits.stacks_per_label
    if limits and order.labels:
        await room.store.check_labels(order.labels, limits)
    manifest = pod_request(room, _imagined(room, order), order.spec)
    try:
        await room.cluster.create_pod(manifest, dry_run=True)
    except ClusterError as error:
        raise ClusterUnavailable(f"the cluster cannot tell now: {error}") from error


def _imagined(room: Room, order: Order) -> Stack:
    now = room.clock.now()
    return Stack(
        stack_id=new_id("stack"),
        namespace=room.config.stacks.namespace,
        pod_spec=order.spec.text,
        ports=tuple(
            PortMapping(container_port=p.container_port, protocol=p.protocol, node_port=0) for p in order.target_ports
        ),
        status=StackStatus.CREATING,
        created_at=now,
        updated_at=now,
        ttl_expires_at=now,
        requested_cpu_milli=order.spec.requested_cpu_milli,
        requested_memory_bytes=order.spec.requested_memory_bytes,
        labels=order.labels,
    )

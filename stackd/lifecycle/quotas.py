"""Look at the namespace's ResourceQuotas, in the background and only while somebody is interested."""

from __future__ import annotations

import logging

from stackd.errors import ClusterError, ClusterUnavailable
from stackd.lifecycle.room import Room

log = logging.getLogger(__name__)


async def refresh_quotas(room: Room, *, asked: bool = False) -> None:
    """Take a fresh look if somebody has asked lately, or now. That the cluster does not tell is kept, not raised."""
    quotas, now = room.quotas, room.clock.monotonic()
    if not asked and not quotas.wanted(now):
        return
    try:
        room.require_cluster()
        quotas.objects = await room.cluster.resource_quotas()
    except (ClusterUnavailable, ClusterError) as error:
        quotas.error = str(error)
        log.debug("quotas: %s", error)
    else:
        quotas.error = ""
        quotas.seen_at = room.clock.now()

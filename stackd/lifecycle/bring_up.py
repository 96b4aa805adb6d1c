"""Get hold of the cluster: is it the right one, is its namespace there, is it protected; tried until it answers.

Owns: the conditions under which stackd works with a cluster at all (invariant 8 and ``require_ingress_network_policy``).
"""

from __future__ import annotations

import asyncio
import logging

from stackd.errors import ClusterError, ClusterRefused, ClusterUnavailable, ConfigError, StoreUnavailable
from stackd.kube import isolation
from stackd.lifecycle.brake import WrongCluster
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.room import Room

log = logging.getLogger(__name__)

CLUSTER_UID = "cluster_uid"
RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 15.0


async def bring_up(room: Room, *, check_policies: bool) -> None:
    """Return when the cluster has been reached and found in order; the brake is on if it is not the file's own.

    Raises ConfigError where the operator has to do something first.
    """
    delay = RETRY_SECONDS
    while True:
        try:
            await _identify(room)
            await room.cluster.ensure_namespace()
            if check_policies:
                await _require_policy(room)
        except (ClusterError, ClusterUnavailable, StoreUnavailable) as error:
            room.waiting_for = str(error)
            log.warning("the cluster is not at hand, next try in %.0f s: %s", delay, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_RETRY_SECONDS)
        else:
            room.waiting_for = ""
            return


async def identify(room: Room) -> None:
    """Ask the cluster who it is, until it answers, and put the brake on if it is not the file's own."""
    while True:
        try:
            await _identify(room)
        except (ClusterError, ClusterUnavailable, StoreUnavailable) as error:
            room.waiting_for = str(error)
            room.refused = isinstance(error, ClusterRefused)
            log.warning("the cluster does not say who it is, next try in %.0f s: %s", RETRY_SECONDS, error)
            await asyncio.sleep(RETRY_SECONDS)
        else:
            room.waiting_for, room.refused = "", False
            return


async def _identify(room: Room) -> None:
    found = await room.cluster.cluster_uid()
    known = await room.store.get_meta(CLUSTER_UID)
    if known is None:
        await room.store.set_meta(CLUSTER_UID, found)
        reached("bring_up.identified")
    elif known != found:
        room.brake.wrong_cluster = WrongCluster(expected=known, found=found)
        room.brake.identity_in_doubt = False
        log.error("brake: %s", room.brake.wrong_cluster)
        return
    room.brake.wrong_cluster = None
    room.brake.identity_in_doubt = False


async def _require_policy(room: Room) -> None:
    namespace, instance = room.config.stacks.namespace, room.config.cluster.instance
    if not isolation.protects(await room.cluster.network_policies(namespace), instance):
        raise ConfigError(
            [
                f"no NetworkPolicy in namespace {namespace} restricts ingress to the stacks: every stack is open to every "
                "other; apply what `stackd manifests` prints, or set stacks.require_ingress_network_policy = false"
            ]
        )

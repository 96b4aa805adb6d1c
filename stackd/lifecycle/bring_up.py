"""Connect to the cluster; check its identity, the namespace and its protection. Retries until the cluster answers.

Owns: the conditions under which stackd works with a cluster and a file at all (invariant 8 and
``require_ingress_network_policy``), and checking the cluster's identity again whenever it may be another cluster. On
the wrong cluster stackd creates nothing. With another namespace or instance all stacks of the file would look gone and
be marked ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from stackd.errors import ClusterError, ClusterRefused, ClusterUnavailable, ConfigError, StoreUnavailable
from stackd.kube import provision
from stackd.kube.caller import Backoff
from stackd.lifecycle.brake import WrongCluster
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.objects import ask_node_ports
from stackd.waiters import set_within

log = logging.getLogger(__name__)

CLUSTER_UID = "cluster_uid"
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 5.0
"""Seconds between two tries; the longest equals that of the watches."""

ASK_AGAIN_SECONDS = 5.0
"""How often the wrong cluster is asked for its identity again: if only every other request was misrouted, nothing else
shows that the right cluster is back."""


async def bring_up(context: Context, *, check_policies: bool) -> None:
    """Return when the cluster was reached and passed the checks; the brake is on if it is not the file's own.

    Raises ConfigError where the operator has to do something first.
    """
    backoff = Backoff(first=FIRST_PAUSE, most=LONGEST_PAUSE)
    began = context.clock.monotonic()
    while True:
        try:
            await _identify(context)
            if context.brake.wrong_cluster is None:
                await _prepare(context, check_policies=check_policies)
        except (ClusterError, ClusterUnavailable, StoreUnavailable) as error:
            if context.waiting_for != str(error):
                log.warning("waiting for the cluster: %s", error)
            context.waiting_for, context.refused = str(error), isinstance(error, ClusterRefused)
            context.contact_tried.set()
            await asyncio.sleep(backoff.pause())
        else:
            if context.waiting_for:
                log.info("the cluster was reached after %.1f s", context.clock.monotonic() - began)
            context.waiting_for, context.refused = "", False
            return


async def follow_identity(context: Context, *, check_policies: bool, known: Callable[[], None]) -> None:
    """The identity service: ask for the cluster's identity whenever it is in doubt, until it answers; for ever.

    ``known`` is called whenever the identity is confirmed. Raises ConfigError as ``bring_up`` does, on a cluster not
    seen before.
    """
    while True:
        await _doubted(context)
        await bring_up(context, check_policies=check_policies)
        if context.foreign_view and context.brake.wrong_cluster is None:
            log.warning("the cluster that the file belongs to answers again; its objects are listed anew")
            await context.mirror.relist()
            context.foreign_view = False  # still in doubt: the loop asks once more whether this cluster was listed
        elif not context.brake.identity_in_doubt:
            known()


async def _doubted(context: Context) -> None:
    """Return when the cluster has to be asked for its identity."""
    wait = None if context.brake.wrong_cluster is None else ASK_AGAIN_SECONDS
    await set_within(context.doubted, wait)


async def _identify(context: Context) -> None:
    """Ask the cluster for its identity, and put the brake on if it is not the file's own cluster."""
    context.doubted.clear()
    found = await context.cluster.cluster_uid()
    known = await context.store.meta.get(CLUSTER_UID)
    if known is None:
        await context.store.meta.put(CLUSTER_UID, found)
        crash_point("bring_up.identified")
    elif known != found:
        wrong = WrongCluster(expected=known, found=found)
        if context.brake.wrong_cluster != wrong:
            log.error("brake: %s", wrong)
        context.brake.wrong_cluster = wrong
        context.brake.identity_in_doubt = False
        context.foreign_view = True
        return
    context.cluster.belongs_to = found
    if context.foreign_view:
        context.doubt()  # the mirror may hold objects of the other cluster
    context.brake.wrong_cluster = None
    # If somebody has doubted during the request, the response may be older than the doubt: the loop asks again.
    context.brake.identity_in_doubt = context.doubted.is_set()


async def _prepare(context: Context, *, check_policies: bool) -> None:
    """Check, or create, what must exist before any stack is created."""
    if not context.prepared:
        await context.cluster.ensure_namespace()
        if check_policies:
            await _require_policy(context)
        context.prepared = True
    if context.fence.open:
        await ask_node_ports(context)


async def _require_policy(context: Context) -> None:
    namespace, instance = context.config.stacks.namespace, context.config.cluster.instance
    if not provision.protects(await context.cluster.network_policies(namespace), instance):
        raise ConfigError(
            [
                f"no NetworkPolicy in namespace {namespace} restricts ingress to the stacks: every stack is open to every "
                "other; apply what `stackd manifests` prints, or set stacks.require_ingress_network_policy = false"
            ]
        )

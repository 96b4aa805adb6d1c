"""Connect to the cluster; check its identity, the namespace and its protection. Retries until the cluster answers.

Owns: the conditions under which stackd creates stacks in a cluster (invariant 8 and
``require_ingress_network_policy``), and checking the cluster's identity again whenever it may be another cluster. On
the wrong cluster stackd creates nothing. With another namespace or instance all stacks of the file would look gone and
be marked ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from stackd.errors import ClusterError, ClusterRefused, ClusterUnavailable, StoreUnavailable
from stackd.kube import provision
from stackd.kube.connection import Backoff
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.gate import WrongCluster
from stackd.lifecycle.objects import ask_node_ports

log = logging.getLogger(__name__)

CLUSTER_UID = "cluster_uid"
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 5.0
"""Seconds between two tries; the longest equals that of the watches."""


async def bring_up(context: Context) -> None:
    """Return when the cluster was reached and checked; the brake is on if it is not the file's own."""
    backoff = Backoff(first=FIRST_PAUSE, most=LONGEST_PAUSE)
    began = context.clock.monotonic()
    while True:
        try:
            await _identify(context)
            if context.gate.wrong_cluster is None:
                await _prepare(context)
        except (ClusterError, ClusterUnavailable, StoreUnavailable) as error:
            if context.gate.waiting_for != str(error):
                log.warning("waiting for the cluster: %s", error)
            context.gate.waiting_for, context.gate.refused = str(error), isinstance(error, ClusterRefused)
            context.gate.contact_tried.set()
            await context.cluster.connection.contact.pause(backoff.pause())
        else:
            if context.gate.waiting_for:
                log.info("the cluster was reached after %.1f s", context.clock.monotonic() - began)
            context.gate.waiting_for, context.gate.refused = "", False
            return


async def follow_identity(context: Context, *, known: Callable[[], None]) -> None:
    """The identity service: ask for the cluster's identity whenever it is in doubt, until it answers; for ever.

    ``known`` is called whenever the identity is confirmed.
    """
    while True:
        await context.gate.doubted.wait()
        await bring_up(context)
        if not context.gate.in_doubt:
            known()


async def _identify(context: Context) -> None:
    """Ask the cluster for its identity, and put the brake on if it is not the file's own cluster."""
    context.gate.doubted.clear()
    found = await context.cluster.cluster_uid()
    known = await context.store.meta.get(CLUSTER_UID)
    if known is None:
        await context.store.meta.put(CLUSTER_UID, found)
        crash_point("bring_up.identified")
    elif known != found:
        wrong = WrongCluster(expected=known, found=found)
        if context.gate.wrong_cluster != wrong:
            log.error("brake: %s", wrong)
        context.gate.found_wrong(wrong)
        return
    context.cluster.belongs_to = found
    if context.gate.wrong_cluster is not None:
        log.warning("the cluster that the file belongs to answers again; its objects are listed again")
        await context.mirror.relist()  # after a new list the identity is asked for once more
    context.gate.found_right()


async def _prepare(context: Context) -> None:
    """Check, or create, what must exist before any stack is created."""
    if not context.gate.prepared:
        await context.cluster.ensure_namespace()
        await _check_policies(context)
        context.gate.prepared = True
    if context.fence.open:
        await ask_node_ports(context)


async def refresh_policies(context: Context) -> None:
    """Check the NetworkPolicies again. If the cluster does not answer, the last result stays."""
    try:
        context.gate.require_cluster()
        await _check_policies(context)
    except (ClusterError, ClusterUnavailable) as error:
        log.debug("policies: %s", error)


async def _check_policies(context: Context) -> None:
    """Find out whether a NetworkPolicy protects the stacks, if one is required."""
    config, before = context.config, context.gate.policy_trouble
    if not config.stacks.require_ingress_network_policy or provision.protects(
        await context.cluster.list_namespaced("networkpolicies"), config.cluster.instance
    ):
        context.gate.policy_trouble = ""
    else:
        context.gate.policy_trouble = (
            f"no stack can be created: no NetworkPolicy in namespace {config.stacks.namespace} restricts ingress to the "
            "stacks, so every stack is open to every other; apply what `stackd manifests` prints, or set "
            "stacks.require_ingress_network_policy = false"
        )
    if context.gate.policy_trouble and not before:
        log.error("%s", context.gate.policy_trouble)
    elif before and not context.gate.policy_trouble:
        log.info("stacks can be created again: a NetworkPolicy protects them, or none is required")

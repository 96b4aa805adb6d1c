"""Reach the cluster, find out whether it is the file's own, and check what must exist in it: the namespace, a NetworkPolicy,
stackd's rights, the range of node ports. Each writes its result into the gate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count

from stackd.errors import ClusterError, ClusterUnavailable, StackdError, StoreUnavailable
from stackd.kube import policies
from stackd.kube.rights import on_stacks
from stackd.kube.routes import kinds_of
from stackd.lifecycle.context import Context
from stackd.model import NODE_PORTS_REMEDY, PortRange
from stackd.timing import CONTACT_RETRIES

log = logging.getLogger(__name__)


async def bring_up(context: Context) -> None:
    """Return when the cluster was reached and checked; the brake is on if it is not the file's own. With another
    namespace or instance all stacks of the file would look gone and be marked ended."""
    gate, began = context.gate, context.clock.monotonic()
    for tries in count(1):
        try:
            await gate.identify()
            while gate.identity.due.is_set():  # another cluster may answer by now, and it lacks the namespace, too
                await gate.identify()
            if not gate.wrong_cluster:
                await _prepare(context)
        except (ClusterError, ClusterUnavailable, StoreUnavailable) as error:
            if str(gate.unreached) != str(error):
                log.warning("waiting for the cluster: %s", error)
            gate.unreached = error
            gate.contact_tried.set()
            await context.cluster.connection.contact.pause(CONTACT_RETRIES.delay(tries))
        else:
            if gate.unreached is not None:
                log.info("the cluster was reached after %.1f s", context.clock.monotonic() - began)
            gate.unreached = None
            return


async def follow_identity(context: Context, *, confirmed: Callable[[], None]) -> None:
    """The identity service: ask for the cluster's identity whenever it is unverified, until it answers; for ever.
    ``confirmed`` is called whenever the identity is confirmed."""
    while True:
        await context.gate.identity.due.wait()
        await bring_up(context)
        if not context.gate.unverified:
            confirmed()


async def _prepare(context: Context) -> None:
    """Check, or create, what must exist before any stack is created. The namespace may have been deleted since; that it
    cannot be made again now stops nothing else."""
    try:
        await context.cluster.ensure_namespace()
    except (ClusterError, ClusterUnavailable) as error:
        if not context.gate.prepared:
            raise
        log.warning("the namespace of the stacks may be missing: %s", error, extra={"same": "namespace"})
    if context.gate.prepared:
        await refresh_policies(context)  # a namespace that was deleted is back without them
    else:
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
    config, before, error = context.config, context.gate.policy_error, ""
    if config.stacks.require_ingress_network_policy and not policies.protects(
        await context.cluster.list_namespaced("networkpolicies"), config.cluster.instance
    ):
        error = (
            f"no stack can be created: no NetworkPolicy in namespace {config.stacks.namespace} restricts ingress to the "
            "stacks, so every stack is open to every other; apply what `stackd manifests` prints, or set "
            "stacks.require_ingress_network_policy = false"
        )
    context.gate.policy_error = error
    if error and not before:
        log.error("%s", error)
    elif before and not error:
        log.info("stacks can be created again: a NetworkPolicy protects them, or none is required")


async def refresh_rights(context: Context) -> None:
    """Ask which rights on the stacks' objects stackd lacks. If the cluster does not answer, the last result stays."""
    gate, connection = context.gate, context.cluster.connection
    namespace = context.config.stacks.namespace
    connection.rights_in_doubt = False
    try:
        gate.require_cluster()
        missing = await context.cluster.refused(on_stacks(namespace, kinds_of(context.config.routes)))
    except (ClusterError, ClusterUnavailable) as error:
        log.debug("rights: %s", error)
        connection.rights_in_doubt = True
        return
    before, why = gate.rights_error, ""
    if missing:
        named = ", ".join(f"{ask.verb} {ask.resource}" for ask in missing)
        why = (
            f"stacks cannot be created and deleted: the cluster does not allow stackd to {named} in namespace {namespace}; "
            "apply what `stackd manifests` prints"
        )
    gate.rights_error, connection.rights_in_doubt = why, bool(why)
    if why and why != before:
        log.error("%s", why)
    elif before and not why:
        log.info("the cluster allows stackd again to create and delete stacks")


async def ask_node_ports(context: Context) -> None:
    """Ask the cluster for its port range, unless it is known and contains all that is configured. If the cluster does
    not tell its range, its first refusal of a port does."""
    wanted = context.config.stacks.node_ports
    if context.facts.node_ports is not None and wanted.common(context.facts.node_ports) == wanted:
        return
    try:
        if (reported := await context.cluster.node_port_range()) is not None:
            await learn_node_ports(context, reported)
    except StackdError as error:
        log.info("the cluster's node port range cannot be learned now: %s", error)


async def learn_node_ports(context: Context, cluster: PortRange) -> None:
    """Read the cluster's node port range and use it. Raises StoreUnavailable."""
    if context.facts.node_ports == cluster:
        return
    wanted = context.config.stacks.node_ports
    usable = wanted.common(cluster)
    if context.facts.node_ports is not None or usable != wanted:
        await context.store.ports.limit(cluster)
    context.facts.node_ports = cluster
    mismatch = wanted.mismatch(cluster)
    context.gate.ports_error = "" if usable else f"no stack can be created: {mismatch}; {NODE_PORTS_REMEDY}"
    if not usable:
        log.error("%s", context.gate.ports_error)
    elif mismatch:
        log.warning("%s", mismatch)

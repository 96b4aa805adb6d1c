"""Connect to the cluster and check it: is it the file's own, does the namespace exist, is it protected. Retries until it answers.

Owns: the conditions under which stackd works with a cluster and a file at all (invariant 8 and
``require_ingress_network_policy``), and that the first of them is asked for again whenever this may be another cluster. On
the wrong one nothing is made. With another namespace or instance all of the file's stacks would look gone, and end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from stackd.config import Config
from stackd.errors import ClusterError, ClusterRefused, ClusterUnavailable, ConfigError, StoreError, StoreUnavailable
from stackd.kube import provision
from stackd.kube.caller import Backoff
from stackd.lifecycle.brake import WrongCluster
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.objects import ask_node_ports
from stackd.store import FileIdentity, read_summary
from stackd.waiters import set_within

log = logging.getLogger(__name__)

CLUSTER_UID = "cluster_uid"
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 5.0
"""Seconds between two tries; at the longest as between those of the watches."""

ASK_AGAIN_SECONDS = 5.0
"""So often the wrong cluster is asked whether it is the right one by now: nothing else may tell, if only one request in two
was led astray."""


async def bring_up(context: Context, *, check_policies: bool) -> None:
    """Return when the cluster has been reached and found in order; the brake is on if it is not the file's own.

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
    """The identity service: ask the cluster who it is whenever that is in doubt, until it answers, for ever.

    ``known`` is called each time that it has. Raises ConfigError as ``bring_up`` does, on a cluster that was not seen before.
    """
    while True:
        await _doubted(context)
        await bring_up(context, check_policies=check_policies)
        if context.foreign_view and context.brake.wrong_cluster is None:
            log.warning("the cluster that the file belongs to answers again; its objects are listed anew")
            await context.mirror.relist()
            context.foreign_view = False  # in doubt as it still is, it is asked once more whether that was here
        elif not context.brake.identity_in_doubt:
            known()


async def _doubted(context: Context) -> None:
    """Return when the cluster has to be asked for its identity."""
    wait = None if context.brake.wrong_cluster is None else ASK_AGAIN_SECONDS
    await set_within(context.doubted, wait)


async def _identify(context: Context) -> None:
    """Ask the cluster for its identity, and put the brake on if it is not the file's own."""
    context.doubted.clear()
    found = await context.cluster.cluster_uid()
    known = await context.store.meta.get(CLUSTER_UID)
    if known is None:
        await context.store.meta.put(CLUSTER_UID, found)
        reached("bring_up.identified")
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
        context.doubt()  # what is in the mirror may be the other one's
    context.brake.wrong_cluster = None
    # Whoever has doubted since it was asked means that the answer may be older than the doubt: it is asked for again.
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


def require_own_stacks(identity: FileIdentity, stacks: int, config: Config) -> None:
    """Raise ConfigError where a file with so many stacks says that they are of another namespace or instance."""
    if stacks and (contradiction := identity.contradiction(config.stacks.namespace, config.cluster.instance)):
        raise ConfigError(
            [
                f"the state file {config.state.path} holds {stacks} stacks for which {contradiction}: "
                "set it back, or choose another state.path"
            ]
        )


def require_own_file(config: Config) -> None:
    """The same for the file as it lies there, whoever has it open. Blocking; a file that cannot be read is not judged."""
    try:
        summary = read_summary(Path(config.state.path))
    except (StoreError, OSError):
        return
    if summary is not None:
        require_own_stacks(summary.identity, summary.stacks, config)

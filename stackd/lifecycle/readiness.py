"""Whether stackd accepts new work, knows the stacks and is ready; and if not, why.

Owns: the sentences for clients, for ``/readyz`` and for the service's status. Reads only what is known: whether the
file accepts a write is tried by the callers.
"""

from __future__ import annotations

from stackd.errors import ClusterUnavailable, Held, ShuttingDown
from stackd.kube.mirror import WITHHELD
from stackd.lifecycle.context import AWAY_SECONDS, CHECKING_IDENTITY, STALE_SECONDS, Context
from stackd.lifecycle.ownership import Role
from stackd.waiters import first_of, set_within

ADOPTING = "stackd is adopting stacks found in the cluster"
NOT_READY = (
    "standby", "cluster", "lease", "wrong_cluster", "brake", "stopping", "clock", "adopting", "node_ports",
    "network_policy", "file",
)  # fmt: skip
"""What keeps stackd from being ready, as the metrics name it."""

FIRST_CONTACT_SECONDS = 5.0
"""How long a create waits for the first contact with the cluster, while no attempt has failed."""


async def owner_known(context: Context, patience: float = FIRST_CONTACT_SECONDS) -> None:
    """Return when it is known who owns the stacks; just after a start, wait up to ``patience`` seconds for that.

    Does not wait once a try to reach the cluster was made, or while a brake is on.
    """
    ownership = context.ownership
    if ownership.role is Role.STANDBY and not (ownership.standby or context.closing or context.brake.on):
        await first_of(ownership.owned, ownership.stands_by, context.contact_tried, timeout=patience)


async def admitted(context: Context) -> None:
    """Return when new work can be accepted; just after a start, wait a moment for contact with the cluster.

    Raises as ``admit`` does. Does not wait once a try to reach the cluster has failed.
    """
    if (not context.mirror.synced or context.store.incomplete) and not (context.closing or context.brake.on):
        await set_within(context.contact_tried, FIRST_CONTACT_SECONDS)  # after a timeout ``admit`` raises
    admit(context)


async def stacks_known(context: Context) -> None:
    """Return when the file has all stacks that the cluster has; just after a start, wait a moment for that.

    Otherwise raises ClusterUnavailable or ShuttingDown: a stack that the file lacks must not be taken for deleted.
    """
    if not (context.contact_tried.is_set() or context.closing or context.brake.on):
        await set_within(context.contact_tried, FIRST_CONTACT_SECONDS)
    if not context.store.incomplete:
        return
    if context.closing:
        raise ShuttingDown("stackd is shutting down")
    if not context.mirror.synced:
        raise ClusterUnavailable(
            "stackd does not know the stacks yet: waiting for the cluster", detail=_why_not_reached(context)
        )
    raise ClusterUnavailable(f"{ADOPTING}; retry soon")


def admit(context: Context) -> None:
    """Raise unless new work can be accepted: not while stackd stops, not without a view of the right cluster, not
    before the file has all stacks that the cluster has, and not without the required NetworkPolicy.
    """
    if context.closing:
        raise ShuttingDown("stackd is shutting down")
    context.brake.admit_creates()
    if not context.mirror.synced:
        raise ClusterUnavailable("no stack can be created: waiting for the cluster", detail=_why_not_reached(context))
    context.require_cluster()
    if context.store.incomplete:
        raise ClusterUnavailable(f"no stack can be created: {ADOPTING}; retry soon")
    if context.policy_trouble:
        raise Held(context.policy_trouble)
    context.fence.require()


def why_not_ready(context: Context) -> dict[str, str]:
    """Why stackd is not ready: a sentence for each of ``NOT_READY`` that applies; empty if it is ready."""
    ownership, brake = context.ownership, context.brake
    if ownership.standby:
        return {"standby": ownership.standby}
    found = {
        "cluster": _why_no_cluster(context),
        "lease": ownership.why_closed(),
        "wrong_cluster": str(brake.wrong_cluster or ""),
        "brake": brake.why_held(),
        "stopping": "stackd is shutting down" if context.closing else "",
        "clock": context.wall_clock.trouble(),
        "adopting": ADOPTING if context.mirror.synced and context.store.incomplete else "",
        "node_ports": context.ports_trouble,
        "network_policy": context.policy_trouble,
        "file": context.file_trouble,
    }
    return {reason: sentence for reason, sentence in found.items() if sentence}


def _why_no_cluster(context: Context) -> str:
    """Why the cluster is not there for changes; empty if it is, or if it was asked who it is only just now."""
    if not context.mirror.synced:
        return f"waiting for the cluster: {_why_not_reached(context)}"
    contact = context.cluster.connection.contact
    if contact.lost:
        return f"{contact.sentence()}; reads return the last known state"
    if (stale := context.mirror.staleness()) > STALE_SECONDS:
        why = f" ({context.mirror.last_error})" if context.mirror.last_error else ""
        return f"Kubernetes has sent nothing for {stale:.0f} s{why}; reads return the last known state"
    if context.watches_lost:
        return f"nothing can be created or deleted: the watches are interrupted: {context.mirror.last_error}"
    if context.mirror.withheld:
        return f"statuses are late: {WITHHELD}"
    doubt = _why_in_doubt(context)
    return f"nothing can be created or deleted: {doubt}" if doubt else ""


def _why_in_doubt(context: Context) -> str:
    """Why the cluster has not confirmed its identity; empty if it has, or if it was asked only just now."""
    if not context.brake.identity_in_doubt:
        return ""
    if context.waiting_for:
        return context.waiting_for
    since = context.doubted_since
    if since is None or context.clock.monotonic() - since <= AWAY_SECONDS:
        return ""
    return CHECKING_IDENTITY


def _why_not_reached(context: Context) -> str:
    """Why the cluster has not been seen since the start, if that is known."""
    why = context.waiting_for or context.ownership.trouble or context.mirror.last_error
    return why or "pods, services and nodes are being listed"

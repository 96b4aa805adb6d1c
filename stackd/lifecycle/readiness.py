"""Whether stackd accepts new work, knows the stacks and is ready; and if not, why.

Owns: the sentences for clients, for ``/readyz`` and for the service's status. Reads only what is known: whether the
file accepts a write is tried by the callers.
"""

from __future__ import annotations

from stackd.errors import ClusterUnavailable, ShuttingDown
from stackd.lifecycle.context import AWAY_SECONDS, CHECKING_IDENTITY, STALE_SECONDS, Context
from stackd.lifecycle.ownership import Role
from stackd.waiters import first_of, set_within

ADOPTING = "stackd is adopting stacks found in the cluster"
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
    """Raise unless new work can be accepted: not while stackd stops, not without a view of the right cluster, and
    not before the file has all stacks that the cluster has.
    """
    if context.closing:
        raise ShuttingDown("stackd is shutting down")
    context.brake.admit_creates()
    if not context.mirror.synced:
        raise ClusterUnavailable("no stack can be created: waiting for the cluster", detail=_why_not_reached(context))
    context.require_cluster()
    if context.store.incomplete:
        raise ClusterUnavailable(f"no stack can be created: {ADOPTING}; retry soon")
    context.fence.require()


def why_not_ready(context: Context) -> list[str]:
    """Why stackd is not ready, in sentences; empty if it is."""
    ownership = context.ownership
    if ownership.standby:
        return [ownership.standby]
    found = [] if context.mirror.synced else [f"waiting for the cluster: {_why_not_reached(context)}"]
    if lapsed := ownership.why_closed():
        found.append(lapsed)
    found += context.brake.reasons()
    if context.closing:
        found.append("stackd is shutting down")
    contact = context.cluster.connection.contact
    if context.mirror.synced and contact.lost:
        found.append(f"{contact.sentence()}; reads return the last known state")
    elif context.mirror.synced and (stale := context.mirror.staleness()) > STALE_SECONDS:
        why = f" ({context.mirror.last_error})" if context.mirror.last_error else ""
        found.append(f"Kubernetes has sent nothing for {stale:.0f} s{why}; reads return the last known state")
    elif context.mirror.synced and (doubt := _why_in_doubt(context)):
        found.append(f"nothing can be created or deleted: {doubt}")
    if trouble := context.wall_clock.trouble():
        found.append(trouble)
    if context.mirror.synced and context.store.incomplete:
        found.append(ADOPTING)
    if context.ports_trouble:
        found.append(context.ports_trouble)
    if context.file_trouble:
        found.append(context.file_trouble)
    return found


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

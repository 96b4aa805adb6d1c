"""Whether stackd is ready, and if not, why: the same answer for /readyz and for the service's status.

Owns: the sentences. Reads only what is known; whether the file accepts a write is tried by the callers.
"""

from __future__ import annotations

from stackd.lifecycle.context import AWAY_SECONDS, STALE_SECONDS, Context


def reasons(context: Context) -> list[str]:
    """Why stackd is not ready, in sentences; empty if it is."""
    ownership = context.ownership
    if ownership.standby:
        return [ownership.standby]
    found = [] if context.mirror.synced else [f"waiting for the cluster: {context.why_not_reached()}"]
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
        found.append("stackd is taking over stacks that the cluster has and the file does not")
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
    return "the cluster has not confirmed its identity yet"

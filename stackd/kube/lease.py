"""The Lease by which one stackd owns the stacks of an instance: its content, and the requests about it.

It has the standard fields (``kubectl get lease`` shows the holder) and, in annotations, the identity and progress of the
holder's file. Each update names the version that it changes, so that one of two concurrent updates is refused.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from msgspec import json

from stackd.clock import NANOSECONDS, Clock, SystemClock, from_nanoseconds, to_nanoseconds
from stackd.kube import labels, wire
from stackd.kube.client import Cluster
from stackd.kube.objects import readable
from stackd.kube.watch import WatchHealth, endless
from stackd.kube.wire import KINDS, LEASES, JsonObject

SEQUENCE = "stackd.io/sequence"
_TEXTS = {
    "file_id": "stackd.io/file-id",
    "lock_id": "stackd.io/lock-id",
    "takeover": "stackd.io/takeover",
    "revoked": "stackd.io/revoked-links",
}
_COUNTS = {"epoch": "stackd.io/epoch", "sequence": SEQUENCE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """``holder``        who holds the Lease; empty: nobody, it was released
    ``duration``      for how many seconds it is the holder's after a renewal; 0 if the Lease does not say
    ``acquired_at``, ``renewed_at``  on the holder's wall clock, in nanoseconds: for people, and to distinguish renewals
    ``transitions``   how often the holder has changed
    ``file_id``, ``lock_id``, ``epoch``, ``sequence``  of the holder's file (``FileIdentity``); empty or None: unknown
    ``takeover``      who asks the holder to step back
    ``revoked``       the links for players that were revoked, for the next owner
    ``version``, ``uid``  of the object that this was read from; empty for a Lease that is yet to be created
    ``raw``           that object
    """

    holder: str
    duration: int = 0
    acquired_at: int | None = None
    renewed_at: int | None = None
    transitions: int = 0
    file_id: str = ""
    lock_id: str = ""
    epoch: int | None = None
    sequence: int | None = None
    takeover: str = ""
    revoked: str = ""
    version: str = ""
    uid: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def read_lease(raw: Mapping[str, Any]) -> Lease:
    """Read a Lease from Kubernetes' JSON. Raises ValueError, KeyError or TypeError if it is not one.

    Anybody with rights on the Lease can edit its annotations. An unreadable number there counts as unknown.
    """
    metadata, spec, notes = raw["metadata"], raw.get("spec") or {}, labels.annotations_of(raw)
    times = (to_nanoseconds(text) if (text := spec.get(key)) else None for key in ("acquireTime", "renewTime"))
    acquired_at, renewed_at = times
    return Lease(
        holder=spec.get("holderIdentity") or "",
        duration=int(spec.get("leaseDurationSeconds") or 0),
        acquired_at=acquired_at,
        renewed_at=renewed_at,
        transitions=int(spec.get("leaseTransitions") or 0),
        epoch=_count(notes.get(_COUNTS["epoch"], "")),
        sequence=_count(notes.get(SEQUENCE, "")),
        version=metadata["resourceVersion"],
        uid=metadata["uid"],
        raw=raw,
        **{name: notes.get(key, "") for name, key in _TEXTS.items()},
    )


def _count(text: str) -> int | None:
    return min(int(text), 2**63) if text.isascii() and text.isdigit() and len(text) < 20 else None


def lease_manifest(lease: Lease, *, namespace: str, instance: str) -> JsonObject:
    """The object to send. It keeps what others have written on the object read, and is valid only for that version."""
    before, spec = lease.raw.get("metadata") or {}, dict(lease.raw.get("spec") or {})
    notes = {key: getattr(lease, name) for name, key in (_TEXTS | _COUNTS).items()}
    annotations = {**(before.get("annotations") or {}), **notes}
    metadata: JsonObject = {key: before[key] for key in ("finalizers", "ownerReferences") if key in before} | {
        "name": labels.lease_name(instance),
        "namespace": namespace,
        "labels": {**(before.get("labels") or {}), labels.MANAGED_BY: labels.MANAGER, labels.INSTANCE: instance},
        "annotations": {key: str(value) for key, value in annotations.items() if value not in (None, "")},
    }
    # The uid as well: a PUT would create a deleted Lease again.
    metadata |= {"resourceVersion": lease.version, "uid": lease.uid} if lease.version else {}
    spec |= {"holderIdentity": lease.holder, "leaseTransitions": lease.transitions}
    spec |= {"leaseDurationSeconds": lease.duration} if lease.duration else {}
    for name, moment in (("acquireTime", lease.acquired_at), ("renewTime", lease.renewed_at)):
        if moment is not None:  # a MicroTime has exactly six fraction digits
            seconds, fraction = divmod(moment, NANOSECONDS)
            spec[name] = f"{from_nanoseconds(seconds * NANOSECONDS)[:-1]}.{fraction // 1000:06d}Z"
    return {**KINDS[LEASES].type_meta, "metadata": metadata, "spec": spec}


def is_older(one: Lease | None, other: Lease | None) -> bool:
    """Whether ``one`` is an earlier version of the same object; False if that is unknown."""
    if one is None or other is None or one.uid != other.uid:
        return False
    return wire.is_older(one.version, other.version)


class Leases:
    """The Lease of the cluster's instance in its namespace.

    Its requests raise ClusterUnavailable; if the response was lost, the change may have been made.
    """

    def __init__(self, cluster: Cluster, clock: Clock | None = None) -> None:
        self._cluster = cluster
        self.name = labels.lease_name(cluster.instance)
        self.health = WatchHealth(LEASES, clock or SystemClock())

    async def find(self, *, timeout: float | None = None) -> Lease | None:
        raw = await self._cluster.find(LEASES, self.name, self._cluster.deadline(timeout))
        return None if raw is None else readable(LEASES, read_lease, raw)

    async def write(self, lease: Lease, *, timeout: float | None = None) -> Lease:
        """Change the Lease, or create one without a ``version``. Raises ObjectExists; PreconditionFailed if it is no longer
        the version that was read, or is gone; both also if an earlier try of this call has written it.
        """
        cluster, verb = self._cluster, "update" if lease.version else "create"
        body = json.encode(lease_manifest(lease, namespace=cluster.namespace_name, instance=cluster.instance))
        call = cluster.on(verb, LEASES, self.name, body=body, uid=lease.uid)
        return readable(LEASES, read_lease, await cluster.answer(call, cluster.deadline(timeout)))

    async def follow(self) -> AsyncGenerator[Lease | None, None]:
        """Yields the Lease now and after each change, without end; None when there is none."""
        call = self._cluster.on("list", LEASES, params={"fieldSelector": f"metadata.name={self.name}"})
        async with aclosing(endless(self._cluster, call, read_lease, self.health)) as news:
            async for event in news:
                leases = event if isinstance(event, list) else [event[0]]
                mine = next((lease for lease in leases if lease.raw["metadata"]["name"] == self.name), None)
                if isinstance(event, list) or mine is not None:
                    yield None if isinstance(event, tuple) and event[1] else mine

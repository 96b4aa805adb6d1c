"""The Lease by which one stackd owns the stacks of an instance: its content, and the requests about it.

Owns: the Lease's form, with the standard fields (``kubectl get lease`` shows the holder) and, in annotations, the
identity and progress of the holder's file. Each update names the version that it changes, so that one of two
concurrent updates is refused. Does not know when a Lease may be taken, nor by whom.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from stackd.clock import Clock, SystemClock, from_nanoseconds, to_nanoseconds
from stackd.errors import ObjectNotFound
from stackd.kube import labels, responses
from stackd.kube.caller import Caller
from stackd.kube.watch import Listed, Source, Timings, WatchHealth, endless
from stackd.kube.wire import KINDS, LEASES, JsonObject

FILE_ID = "stackd.io/file-id"
LOCK_ID = "stackd.io/lock-id"
EPOCH = "stackd.io/epoch"
SEQUENCE = "stackd.io/sequence"
TAKEOVER = "stackd.io/takeover"

_LARGEST = 2**63
# An owner renews the Lease every few seconds. After a longer silence the connection may be dead.
_TIMINGS = Timings(idle_limit=30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """``holder``        who holds the Lease; empty: nobody, it was released
    ``duration``      for how many seconds it is the holder's after a renewal; 0 if the Lease does not say
    ``acquired_at``, ``renewed_at``  on the holder's wall clock, in nanoseconds: for people, and to distinguish renewals
    ``transitions``   how often the holder has changed
    ``file_id``, ``lock_id``, ``epoch``, ``sequence``  of the holder's file (``FileIdentity``); empty or None: unknown
    ``takeover``      who asks the holder to step back
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
    version: str = ""
    uid: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def read_lease(raw: Mapping[str, Any]) -> Lease:
    """Read a Lease from Kubernetes' JSON. Raises ValueError, KeyError or TypeError if it is not one.

    Anybody with rights on the Lease can edit its annotations. An unreadable number there counts as unknown.
    """
    metadata, spec = raw["metadata"], raw.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    return Lease(
        holder=_text(spec, "holderIdentity"),
        duration=_number(spec, "leaseDurationSeconds"),
        acquired_at=_time(spec, "acquireTime"),
        renewed_at=_time(spec, "renewTime"),
        transitions=_number(spec, "leaseTransitions"),
        file_id=annotations.get(FILE_ID, ""),
        lock_id=annotations.get(LOCK_ID, ""),
        epoch=_count(annotations.get(EPOCH)),
        sequence=_count(annotations.get(SEQUENCE)),
        takeover=annotations.get(TAKEOVER, ""),
        version=metadata["resourceVersion"],
        uid=metadata["uid"],
        raw=raw,
    )


def lease_manifest(lease: Lease, *, namespace: str, instance: str) -> JsonObject:
    """The object to send. It keeps what others have written on the object read, and is valid only for that version."""
    before = lease.raw.get("metadata") or {}
    annotations = dict(before.get("annotations") or {}) | {
        FILE_ID: lease.file_id,
        LOCK_ID: lease.lock_id,
        EPOCH: _written(lease.epoch),
        SEQUENCE: _written(lease.sequence),
        TAKEOVER: lease.takeover,
    }
    metadata: JsonObject = {key: before[key] for key in ("finalizers", "ownerReferences") if key in before}
    metadata |= {
        "name": labels.lease_name(instance),
        "namespace": namespace,
        "labels": {**(before.get("labels") or {}), labels.MANAGED_BY: labels.MANAGER, labels.INSTANCE: instance},
        "annotations": {key: value for key, value in annotations.items() if value},
    }
    # The uid as well: a PUT would create a deleted Lease again.
    metadata |= {"resourceVersion": lease.version, "uid": lease.uid} if lease.version else {}
    return {**KINDS[LEASES].type_meta, "metadata": metadata, "spec": _spec(lease)}


def is_older(one: Lease | None, other: Lease | None) -> bool:
    """Whether ``one`` is an earlier version of the same object; False if that is unknown."""
    return (
        one is not None
        and other is not None
        and one.uid == other.uid
        and responses.is_older(one.version, other.version)
    )


class Leases:
    """The Lease of the caller's instance in its namespace.

    Its requests raise ClusterUnavailable; if the response was lost, the change may have been made.
    """

    def __init__(self, caller: Caller, clock: Clock | None = None) -> None:
        self._caller = caller
        self.name = labels.lease_name(caller.instance)
        self.health = WatchHealth(LEASES, clock or SystemClock())

    async def find(self, *, timeout: float | None = None) -> Lease | None:
        """The Lease as the API server has it now; None if there is none."""
        try:
            raw = await self._caller.answer(self._caller.on("get", LEASES, self.name), self._caller.deadline(timeout))
        except ObjectNotFound:
            return None
        return responses.readable(LEASES, read_lease, raw)

    async def create(self, lease: Lease, *, timeout: float | None = None) -> Lease:
        """Create the Lease. Raises ObjectExists, also if an earlier try of this call has created it."""
        return await self._send("create", lease, timeout)

    async def update(self, lease: Lease, *, timeout: float | None = None) -> Lease:
        """Change the Lease. Raises PreconditionFailed if it is no longer the version that was read, or is gone; also
        if an earlier try of this call has changed it.
        """
        return await self._send("update", lease, timeout)

    async def follow(self) -> AsyncGenerator[Lease | None, None]:
        """Yields the Lease now and after each change, without end; None when there is none."""
        call = self._caller.on("list", LEASES, params={"fieldSelector": f"metadata.name={self.name}"})
        source = Source(kind=LEASES, call=call, parse=read_lease)
        async with aclosing(endless(self._caller, source, self.health, _TIMINGS)) as news:
            async for one in news:
                if isinstance(one, Listed):
                    yield next(filter(self._is_mine, one.items), None)
                elif self._is_mine(one.item):
                    yield None if one.gone else one.item

    def _is_mine(self, lease: Lease) -> bool:
        return bool(lease.raw["metadata"]["name"] == self.name)  # whatever was asked for

    async def _send(self, verb: str, lease: Lease, timeout: float | None) -> Lease:
        caller = self._caller
        body = orjson.dumps(lease_manifest(lease, namespace=caller.namespace_name, instance=caller.instance))
        call = caller.on(verb, LEASES, self.name, body=body, uid=lease.uid)
        raw = await caller.answer(call, caller.deadline(timeout))
        return responses.readable(LEASES, read_lease, raw)


def _spec(lease: Lease) -> JsonObject:
    spec: JsonObject = dict(lease.raw.get("spec") or {})
    spec |= {"holderIdentity": lease.holder, "leaseTransitions": lease.transitions}
    if lease.duration:
        spec["leaseDurationSeconds"] = lease.duration
    for name, moment in (("acquireTime", lease.acquired_at), ("renewTime", lease.renewed_at)):
        if moment is not None:
            spec[name] = _micro_time(moment)
    return spec


def _micro_time(nanoseconds: int) -> str:
    """The time as a Kubernetes MicroTime: with exactly six fraction digits."""
    whole = from_nanoseconds(nanoseconds - nanoseconds % 1_000_000_000)
    return f"{whole[:-1]}.{nanoseconds % 1_000_000_000 // 1000:06d}Z"


def _time(spec: Mapping[str, Any], name: str) -> int | None:
    text = spec.get(name)
    return None if text is None else to_nanoseconds(text)


def _text(spec: Mapping[str, Any], name: str) -> str:
    value = spec.get(name) or ""
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def _number(spec: Mapping[str, Any], name: str) -> int:
    value = spec.get(name) or 0
    if not isinstance(value, int):
        raise TypeError(f"{name} is no number")
    return value


def _count(text: str | None) -> int | None:
    known = text is not None and text.isascii() and text.isdigit() and len(text) < 20
    return min(int(text), _LARGEST) if known and text is not None else None


def _written(count: int | None) -> str:
    return "" if count is None else str(count)

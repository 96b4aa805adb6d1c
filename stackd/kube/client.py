"""``Cluster``: what stackd does to a cluster. Each call is safe to repeat, ends by its deadline, touches only ours.

Owns creating and deleting the objects of a stack. Names are fixed by the stack, which makes a create idempotent: one
whose answer was lost is sent again, and finds what the first one made. Does not know when or why to do any of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from stackd.errors import ClusterUnavailable, NodePortTaken, ObjectExists
from stackd.kube import labels
from stackd.kube.answers import error_of, names_missing_namespace
from stackd.kube.backoff import Deadline
from stackd.kube.calls import MERGE_PATCH, Answer, Call
from stackd.kube.connection import Connection, Observer
from stackd.kube.credentials import Access, ClusterTarget
from stackd.kube.objects import JsonObject, PodState, ServiceState, pod_state, service_state
from stackd.kube.questions import Questions
from stackd.kube.removal import find, remove

__all__ = ["Cluster", "ClusterTarget"]


class Cluster(Questions):
    """One cluster, as one instance of stackd, in one namespace."""

    @classmethod
    async def connect(cls, target: ClusterTarget, *, observer: Observer | None = None) -> Cluster:
        """Load the credentials; nothing is sent, so that an absent cluster does not matter here.

        ``observer(verb, resource, code, seconds)`` is called after each request. Raises ConfigError.
        """
        access = await Access.open(target)
        return cls(target, Connection(access, max_in_flight=target.max_in_flight, observer=observer))

    async def close(self) -> None:
        """Close all connections; calls and watches under way fail."""
        await self.connection.close()

    async def create_pod(
        self, manifest: Mapping[str, Any], *, dry_run: bool = False, timeout: float | None = None
    ) -> PodState:
        """Create the pod once, however often that must be asked for; with ``dry_run`` only let the cluster check it.

        Raises LimitRangeViolation, InvalidPodSpec, QuotaExceeded, ClusterUnavailable; ObjectExists if the name is
        taken by an object that this very manifest did not make.
        """
        return pod_state(await self._create("pods", manifest, self.deadline(timeout), dry_run=dry_run))

    async def create_service(
        self, manifest: Mapping[str, Any], *, dry_run: bool = False, timeout: float | None = None
    ) -> ServiceState:
        """Create the service once. Raises as ``create_pod`` does, and NodePortTaken."""
        return service_state(await self._create("services", manifest, self.deadline(timeout), dry_run=dry_run))

    async def get_pod(self, name: str, *, timeout: float | None = None) -> PodState | None:
        """The pod as the API server has it now (not from the mirror), whoever made it; None if there is none."""
        raw = await find(self, "pods", name, self.deadline(timeout))
        return None if raw is None else pod_state(raw)

    async def get_service(self, name: str, *, timeout: float | None = None) -> ServiceState | None:
        """The service as the API server has it now, whoever made it; None if there is none."""
        raw = await find(self, "services", name, self.deadline(timeout))
        return None if raw is None else service_state(raw)

    async def delete_pod(self, name: str, uid: str | None = None, *, timeout: float | None = None) -> None:
        """Delete our pod at once, without a grace period, and return when it is confirmed gone.

        With a uid only that very pod is touched; without one only a pod with our labels and instance. What is not
        ours counts as gone. Raises ClusterUnavailable when it is not known to be gone.
        """
        await remove(self, "pods", name, uid, self.deadline(timeout))

    async def delete_service(self, name: str, uid: str | None = None, *, timeout: float | None = None) -> None:
        """Delete our service and return when it is confirmed gone, so that its node ports are free; as for pods."""
        await remove(self, "services", name, uid, self.deadline(timeout))

    async def patch_pod_annotations(
        self, name: str, uid: str, annotations: Mapping[str, str | None], *, timeout: float | None = None
    ) -> None:
        """Set (or, with None, remove) annotations of the pod of that uid.

        Raises ObjectNotFound; PreconditionFailed if the name belongs to another pod by now.
        """
        patch = orjson.dumps({"metadata": {"uid": uid, "annotations": dict(annotations)}})
        call = self.on("patch", "pods", name, body=patch, content_type=MERGE_PATCH)
        await self.answer(call, self.deadline(timeout))

    async def _create(
        self, resource: str, manifest: Mapping[str, Any], deadline: Deadline, *, dry_run: bool
    ) -> JsonObject:
        params = {"dryRun": "All"} if dry_run else {}
        call = self.on("create", resource, body=orjson.dumps(manifest), params=params)
        backoff = self.backoff()
        namespace_ensured = False
        while True:
            answer = await self.ask(call, deadline)
            if answer.ok:
                return answer.json()
            if names_missing_namespace(call, answer) and not namespace_ensured:
                namespace_ensured = True
                await self.ensure_namespace()
                continue
            made = await self._made_before(call, answer, manifest, deadline)
            if made is not None:
                return made
            pause = backoff.pause()
            if pause >= deadline.left:
                raise ClusterUnavailable(f"{resource} {manifest['metadata']['name']} is still being deleted")
            await asyncio.sleep(pause)

    async def _made_before(
        self, call: Call, answer: Answer, manifest: Mapping[str, Any], deadline: Deadline
    ) -> JsonObject | None:
        """What an earlier try of this create made; None if the name is about to be free. Raises the error otherwise.

        A Service's node ports are allocated before its name is looked at: what an earlier try made is refused for them.
        """
        error = error_of(call, answer)
        if not isinstance(error, ObjectExists | NodePortTaken):
            raise error
        found = await find(self, call.resource, manifest["metadata"]["name"], deadline)
        if found is None:
            if isinstance(error, NodePortTaken):
                raise error
            return None
        if not labels.is_ours(found, self.instance) or not _same(found, manifest):
            raise error
        return None if found["metadata"].get("deletionTimestamp") else found


def _same(found: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether the object was made from this manifest: same stack, same record, same owner, same node ports."""
    return _traits(found) == _traits(manifest)


def _traits(raw: Mapping[str, Any]) -> tuple[object, ...]:
    metadata = raw["metadata"]
    return (
        metadata["labels"].get(labels.STACK),
        (metadata.get("annotations") or {}).get(labels.RECORD),
        [owner["uid"] for owner in metadata.get("ownerReferences") or ()],
        [(port["port"], port.get("protocol"), port.get("nodePort")) for port in raw["spec"].get("ports") or ()],
    )

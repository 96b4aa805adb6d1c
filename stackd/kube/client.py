"""``Cluster``: what stackd does to a cluster. Each request is safe to repeat, ends by its deadline, touches only ours.

Owns creating and deleting the objects of a stack, and knowing that they are gone (invariants 3 and 5). Names are fixed by
the stack, which makes a create idempotent: one whose answer was lost is sent again, and finds what the first one made. Does
not know when or why to do any of it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Mapping
from typing import Any

import orjson

from stackd.errors import (
    ClusterRefused,
    ClusterUnavailable,
    NodePortOutOfRange,
    NodePortTaken,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StillThere,
)
from stackd.kube import labels
from stackd.kube.caller import Caller, Deadline, document_of
from stackd.kube.manifests import FIRST_PORT, LAST_PORT, range_question
from stackd.kube.objects import PodState, ServiceState, pod_state, service_state
from stackd.kube.records import StoppedRecord, stopped_record
from stackd.kube.responses import NOT_FOUND, error_of, is_other_uid, names_missing_namespace, readable
from stackd.kube.wire import CONFIG_MAPS, MERGE_PATCH, JsonObject, KubeRequest, KubeResponse, read_status
from stackd.model import RANGE_PREFIX, PortRange

_CONFLICT = 409


class Cluster(Caller):
    """One cluster, as one instance of stackd, in one namespace."""

    async def create_pod(
        self, manifest: Mapping[str, Any], *, dry_run: bool = False, timeout: float | None = None
    ) -> PodState:
        """Create the pod once, however often that must be asked for; with ``dry_run`` only let the cluster check it.

        Raises LimitRangeViolation, InvalidPodSpec, QuotaExceeded, ClusterUnavailable; ObjectExists if the name is
        taken by an object that this very manifest did not make.
        """
        raw = await self._create("pods", manifest, self.deadline(timeout), dry_run=dry_run)
        return readable("pods", pod_state, raw)

    async def create_service(
        self, manifest: Mapping[str, Any], *, dry_run: bool = False, timeout: float | None = None
    ) -> ServiceState:
        """Create the service once. Raises as ``create_pod`` does, and NodePortTaken or NodePortOutOfRange."""
        raw = await self._create("services", manifest, self.deadline(timeout), dry_run=dry_run)
        return readable("services", service_state, raw)

    async def node_port_range(self) -> PortRange | None:
        """The node ports that the cluster has, as its refusal of two impossible ones says; None where it does not say.

        It is no dry run: Kubernetes 1.36 does not look at the range in one. Where the range is the widest that there can be,
        the Service is made, and deleted again at once.

        Raises QuotaExceeded, ClusterUnavailable and ClusterError where it cannot be asked.
        """
        name = f"{RANGE_PREFIX}{secrets.token_hex(8)}"
        try:
            made = await self.create_service(range_question(self.namespace_name, self.instance, name))
        except NodePortOutOfRange as told:
            return PortRange(*told.cluster)
        except NodePortTaken:
            return None
        await self.delete_service(made.name, made.uid)
        # Where a policy of the cluster has changed what was asked, this says nothing of the range.
        asked = set(made.node_ports) == {FIRST_PORT, LAST_PORT}
        return PortRange(FIRST_PORT, LAST_PORT) if asked else None

    async def get_pod(self, name: str, *, timeout: float | None = None) -> PodState | None:
        """The pod as the API server has it now (not from the mirror), whoever made it; None if there is none."""
        raw = await self.find("pods", name, self.deadline(timeout))
        return None if raw is None else readable("pods", pod_state, raw)

    async def get_service(self, name: str, *, timeout: float | None = None) -> ServiceState | None:
        """The service as the API server has it now, whoever made it; None if there is none."""
        raw = await self.find("services", name, self.deadline(timeout))
        return None if raw is None else readable("services", service_state, raw)

    async def delete_pod(
        self, name: str, uid: str | None = None, *, known: Collection[str | None] = (), timeout: float | None = None
    ) -> None:
        """Delete our pod at once, without a grace period, and return when it is confirmed gone.

        With a uid only that very pod is touched; without one only a pod with our labels and instance, or one of the ``known``
        uids. What is not ours counts as gone. Raises ClusterUnavailable when it is not known to be gone.
        """
        await remove(self, "pods", name, uid, self.deadline(timeout), known)

    async def delete_service(
        self, name: str, uid: str | None = None, *, known: Collection[str | None] = (), timeout: float | None = None
    ) -> None:
        """Delete our service and return when it is confirmed gone, so that its node ports are free; as for pods, and a service
        that belongs to a pod of a ``known`` uid is ours, too.
        """
        await remove(self, "services", name, uid, self.deadline(timeout), known)

    async def patch_pod(
        self,
        name: str,
        uid: str,
        *,
        labels: Mapping[str, str | None] | None = None,
        annotations: Mapping[str, str | None] | None = None,
        timeout: float | None = None,
    ) -> PodState:
        """Set (or, with None, remove) labels and annotations of the pod of that uid; returns the pod as it is then.

        Raises ObjectNotFound; PreconditionFailed if the name belongs to another pod by now.
        """
        wanted = {"labels": labels or {}, "annotations": annotations or {}}
        changes = {part: names for part, names in wanted.items() if names}
        raw = await self._patch("pods", name, uid, self.deadline(timeout), **changes)
        return readable("pods", pod_state, raw)

    async def put_stopped(self, manifest: Mapping[str, Any], *, timeout: float | None = None) -> StoppedRecord:
        """Have the cluster hold this record of a stack without a pod, whatever record of that stack it has. Raises as
        ``create_pod`` does; ObjectExists where a ConfigMap of somebody else has the name.
        """
        deadline = self.deadline(timeout)
        while True:
            try:
                return await self.create_stopped(manifest, timeout=deadline.left)
            except ObjectExists:
                name = manifest["metadata"]["name"]
                found = await self.find(CONFIG_MAPS, name, deadline)
                if found is None:
                    continue
                if not labels.is_ours(found, self.instance):
                    raise
                uid, annotations = found["metadata"]["uid"], manifest["metadata"]["annotations"]
                try:
                    raw = await self._patch(CONFIG_MAPS, name, uid, deadline, annotations=annotations)
                    return readable(CONFIG_MAPS, stopped_record, raw)
                except (ObjectNotFound, PreconditionFailed):
                    continue  # it is gone, or another one by now

    async def has_stopped(self, name: str, *, timeout: float | None = None) -> bool:
        """Whether the API server has a ConfigMap of that name now, whoever made it."""
        return await self.find(CONFIG_MAPS, name, self.deadline(timeout)) is not None

    async def create_stopped(self, manifest: Mapping[str, Any], *, timeout: float | None = None) -> StoppedRecord:
        """Create the record of a stopped stack once. Raises as ``create_pod`` does."""
        raw = await self._create(CONFIG_MAPS, manifest, self.deadline(timeout), dry_run=False)
        return readable(CONFIG_MAPS, stopped_record, raw)

    async def patch_stopped_annotations(
        self, name: str, uid: str, annotations: Mapping[str, str | None], *, timeout: float | None = None
    ) -> None:
        """As ``patch_pod``, of the record of a stopped stack."""
        await self._patch(CONFIG_MAPS, name, uid, self.deadline(timeout), annotations=annotations)

    async def delete_stopped(self, name: str, uid: str | None = None, *, timeout: float | None = None) -> None:
        """Delete the record of a stopped stack and return when it is confirmed gone; as for pods."""
        await remove(self, CONFIG_MAPS, name, uid, self.deadline(timeout))

    async def _patch(
        self, resource: str, name: str, uid: str, deadline: Deadline, **metadata: Mapping[str, str | None]
    ) -> JsonObject:
        patch = orjson.dumps({"metadata": {"uid": uid, **{part: dict(names) for part, names in metadata.items()}}})
        return await self.answer(
            self.on("patch", resource, name, uid=uid, body=patch, content_type=MERGE_PATCH), deadline
        )

    async def _create(
        self, resource: str, manifest: Mapping[str, Any], deadline: Deadline, *, dry_run: bool
    ) -> JsonObject:
        params = {"dryRun": "All"} if dry_run else {}
        name = manifest["metadata"]["name"]
        call = self.on("create", resource, name, body=orjson.dumps(manifest), params=params)
        backoff = self.backoff()
        namespace_ensured = False
        while True:
            answer = await self.ask(call, deadline)
            if answer.ok:
                return await self._as_asked(call, document_of(call, answer), manifest, deadline, dry_run=dry_run)
            if names_missing_namespace(call, answer) and not namespace_ensured and not dry_run:
                namespace_ensured = True
                await self.ensure_namespace()
                continue
            made = await self._made_before(call, answer, manifest, deadline)
            if made is not None:
                return await self._as_asked(call, made, manifest, deadline, dry_run=dry_run)
            pause = backoff.pause()
            if pause >= deadline.left:
                raise ClusterUnavailable(f"{resource} {name} is still being deleted")
            await asyncio.sleep(pause)

    async def _as_asked(
        self, call: KubeRequest, made: JsonObject, manifest: Mapping[str, Any], deadline: Deadline, *, dry_run: bool
    ) -> JsonObject:
        """What was made, if it carries our labels. One that does not would be seen by nobody: it is removed.

        Raises ClusterRefused, and ClusterUnavailable where it could not be removed.
        """
        wanted, given = labels.labels_of(manifest), labels.labels_of(made)
        missing = sorted(key for key, value in wanted.items() if key in labels.OURS and given.get(key) != value)
        if not missing:
            return made
        if not dry_run:
            await remove(self, call.resource, call.name, made["metadata"]["uid"], deadline)
        raise ClusterRefused(
            f"an admission policy of the cluster removes stackd's labels from {call.resource} ({', '.join(missing)}); "
            "it must leave them there"
        )

    async def _made_before(
        self, call: KubeRequest, answer: KubeResponse, manifest: Mapping[str, Any], deadline: Deadline
    ) -> JsonObject | None:
        """What an earlier try of this create made; None if the name is about to be free. Raises the error otherwise.

        A Service's node ports are allocated before its name is looked at: what an earlier try made is refused for them.
        """
        error = error_of(call, answer)
        if not isinstance(error, ObjectExists | NodePortTaken):
            raise error
        found = await self.find(call.resource, call.name, deadline)
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
        labels.labels_of(raw).get(labels.STACK),
        labels.annotations_of(raw).get(labels.RECORD),
        [owner.get("uid") for owner in metadata.get("ownerReferences") or ()],
        [tuple(map(port.get, ("port", "protocol", "nodePort"))) for port in (raw.get("spec") or {}).get("ports") or ()],
    )


async def remove(
    caller: Caller, resource: str, name: str, uid: str | None, deadline: Deadline, known: Collection[str | None] = ()
) -> None:
    """Return once the object is confirmed gone; raise ClusterUnavailable if that is not known at the deadline.

    With a uid, only the object that has it is touched. Without one, only an object that carries our labels and our
    instance, or that is one of the ``known`` uids, or belongs to one, whatever labels it has by now; anything else of that
    name counts as gone and is left alone.
    """
    if uid is None:
        found = await caller.find(resource, name, deadline)
        if found is None or not _is_ours(found, caller.instance, known):
            return
        uid = found["metadata"]["uid"]
    left = await _delete(caller, resource, name, uid, deadline)
    if left is not None:
        await _until_gone(caller, resource, name, uid, left, deadline)


def _is_ours(found: JsonObject, instance: str, known: Collection[str | None]) -> bool:
    """Labels can be taken off, by hand or by an admission policy; a uid cannot, nor does anybody else write our record."""
    if labels.is_ours(found, instance):
        return True
    metadata = found["metadata"]
    owners = [owner.get("uid") for owner in metadata.get("ownerReferences") or ()]
    if any(uid in known for uid in (metadata["uid"], *owners)):
        return True
    return not labels.instance_of(labels.labels_of(found)) and labels.RECORD in labels.annotations_of(found)


async def _delete(caller: Caller, resource: str, name: str, uid: str, deadline: Deadline) -> JsonObject | None:
    """Ask for the deletion; the object if it is still there afterwards."""
    call = caller.on("delete", resource, name, uid=uid, body=orjson.dumps(_options(resource, uid)))
    backoff = caller.backoff()
    while True:
        answer = await caller.ask(call, deadline)
        if answer.status == NOT_FOUND or is_other_uid(answer):
            return None
        if answer.ok:
            left = document_of(call, answer)
            return None if _is_gone(resource, left) else left
        pause = backoff.pause()
        # Any other conflict is between writers of the object, and passes.
        if answer.status != _CONFLICT or pause >= deadline.left:
            raise error_of(call, answer)
        await asyncio.sleep(pause)


async def _until_gone(
    caller: Caller, resource: str, name: str, uid: str, left: JsonObject | None, deadline: Deadline
) -> None:
    backoff = caller.backoff()
    while left is not None and left["metadata"]["uid"] == uid:
        pause = backoff.pause()
        if pause >= deadline.left:
            raise StillThere(f"{resource} {name} is still being deleted{_held_by(left)}")
        await asyncio.sleep(pause)
        left = await caller.find(resource, name, deadline)


def _options(resource: str, uid: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": uid},
        "propagationPolicy": "Background",
    }
    return options | ({"gracePeriodSeconds": 0} if resource == "pods" else {})


def _is_gone(resource: str, answered: Mapping[str, Any]) -> bool:
    """Whether the object that a delete answered with is gone: nothing holds it and no grace period runs.

    A Status instead of the object says that it was removed. A pod that is gone tells when it was to go (Kubernetes 1.36);
    one that does not has not been deleted by this answer, whatever it is, and is looked for.
    """
    if read_status(answered) is not None:
        return True
    metadata = answered["metadata"]
    if resource == "pods" and not metadata.get("deletionTimestamp"):
        return False
    return not metadata.get("finalizers") and not metadata.get("deletionGracePeriodSeconds")


def _held_by(left: Mapping[str, Any]) -> str:
    finalizers = left["metadata"].get("finalizers")
    return f" (finalizers {', '.join(finalizers)})" if finalizers else ""

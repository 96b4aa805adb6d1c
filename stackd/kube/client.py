"""``Cluster``: the changes that stackd makes in a cluster.

Each change is safe to retry, ends by its deadline and touches only our objects.

Owns: creating and deleting the objects of a stack, and confirming that they are gone (invariants 3 and 5). The stack
determines the names, so a create is idempotent: after a lost response it is sent again, and finds the object that the
first try created. Does not know when or why objects are created or deleted.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any, TypeVar

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
from stackd.kube.caller import Again, Caller, Deadline, document_of, poll
from stackd.kube.manifests import FIRST_PORT, LAST_PORT, range_question
from stackd.kube.objects import PodState, ServiceState, pod_state, service_state
from stackd.kube.responses import NOT_FOUND, error_of, is_other_uid, names_missing_namespace, readable
from stackd.kube.routes import RouteState, WantedRoute, route_state
from stackd.kube.wire import CONFIG_MAPS, MERGE_PATCH, JsonObject, KubeRequest, KubeResponse, read_status
from stackd.model import RANGE_PREFIX, PortRange

T = TypeVar("T")
_CONFLICT = 409
_OF_POOLS: Mapping[str, None] = {labels.POOL: None, labels.ASSIGNED: None}
"""What only the Service of a stack that waits in a pool has."""


class Cluster(Caller):
    """One cluster, seen by one instance of stackd in one namespace."""

    async def create_pod(
        self, manifest: Mapping[str, Any], *, dry_run: bool = False, timeout: float | None = None
    ) -> PodState:
        """Create the pod once, with as many tries as needed; with ``dry_run`` only let the cluster check it.

        Raises LimitRangeViolation, InvalidPodSpec, QuotaExceeded, ClusterUnavailable; ObjectExists if an object that
        was not created from this manifest has the name.
        """
        raw = await self._create("pods", manifest, self.deadline(timeout), dry_run=dry_run)
        return readable("pods", pod_state, raw)

    async def create_service(self, manifest: Mapping[str, Any], *, timeout: float | None = None) -> ServiceState:
        """Create the service once. Raises as ``create_pod`` does, and NodePortTaken or NodePortOutOfRange."""
        raw = await self._create("services", manifest, self.deadline(timeout))
        return readable("services", service_state, raw)

    async def node_port_range(self) -> PortRange | None:
        """The cluster's range of node ports; None if the cluster does not say.

        Sends a Service with the node ports 1 and 65535, and reads the range from the refusal.
        This is not a dry run, because Kubernetes 1.36 does not check the range in one. If the range covers both ports,
        the Service is created, and deleted again at once.

        Raises QuotaExceeded, ClusterUnavailable and ClusterError if the request fails.
        """
        name = f"{RANGE_PREFIX}{secrets.token_hex(8)}"
        try:
            made = await self.create_service(range_question(self.namespace_name, self.instance, name))
        except NodePortOutOfRange as told:
            return PortRange(*told.cluster)
        except NodePortTaken:
            return None
        await self.delete_service(made.name, made.uid)
        # If a policy of the cluster has changed the ports, the range remains unknown.
        asked = set(made.node_ports) == {FIRST_PORT, LAST_PORT}
        return PortRange(FIRST_PORT, LAST_PORT) if asked else None

    async def get_pod(self, name: str, *, timeout: float | None = None) -> PodState | None:
        """The pod as the API server has it now (not from the mirror), whoever created it; None if there is none."""
        raw = await self.find("pods", name, self.deadline(timeout))
        return None if raw is None else readable("pods", pod_state, raw)

    async def get_service(self, name: str) -> ServiceState | None:
        """The service as the API server has it now, whoever created it; None if there is none."""
        raw = await self.find("services", name, self.deadline())
        return None if raw is None else readable("services", service_state, raw)

    async def delete_pod(self, name: str, uid: str | None = None, *, known: Collection[str | None] = ()) -> None:
        """Delete our pod at once, without a grace period, and return when it is confirmed gone.

        With ``uid``, deletes only the pod of that uid. Without it, deletes only a pod with our labels and instance, or
        with a ``known`` uid. A pod that is not ours counts as gone. Raises ClusterUnavailable if the pod is not
        confirmed gone.
        """
        await remove(self, "pods", name, uid, self.deadline(), known)

    async def delete_service(self, name: str, uid: str | None = None, *, known: Collection[str | None] = ()) -> None:
        """Delete our service and return when it is confirmed gone, so that its node ports are free.

        Works as ``delete_pod``.
        """
        await remove(self, "services", name, uid, self.deadline(), known)

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

        Raises ObjectNotFound; PreconditionFailed if another pod has the name by now.
        """
        wanted = {"labels": labels or {}, "annotations": annotations or {}}
        changes = {part: names for part, names in wanted.items() if names}
        raw = await self._patch("pods", name, uid, self.deadline(timeout), **changes)
        return readable("pods", pod_state, raw)

    async def put_service(
        self, manifest: Mapping[str, Any], *, known: Collection[str | None] = (), timeout: float | None = None
    ) -> ServiceState:
        """Make the Service be as the manifest says: create it, or change the one that is there, whose ports stay held.

        Raises as ``create_service``; ObjectExists if a Service that is neither ours nor has a ``known`` uid has the
        name.
        """
        deadline, name = self.deadline(timeout), manifest["metadata"]["name"]

        async def put(found: JsonObject | None) -> ServiceState:
            if found is None:
                return await self.create_service(manifest, timeout=deadline.left)
            return await self._change_service(found, manifest, deadline)

        return await self._put("services", name, deadline, known, put)

    async def create_route(self, wanted: WantedRoute, *, timeout: float | None = None) -> RouteState:
        """Create one of the objects that give a stack's ports names. Raises as ``create_service`` does."""
        raw = await self._create(wanted.resource, wanted.manifest, self.deadline(timeout))
        return readable(wanted.resource, partial(route_state, wanted.resource), raw)

    async def put_route(self, wanted: WantedRoute) -> RouteState:
        """Make the object be as it is wanted: create it, or change the one that is there. Raises as ``put_service``."""
        deadline, resource = self.deadline(), wanted.resource

        async def put(found: JsonObject | None) -> RouteState:
            if found is None:
                return await self.create_route(wanted, timeout=deadline.left)
            spec, uid = dict(wanted.manifest["spec"]), found["metadata"]["uid"]
            if resource == "services":  # Kubernetes has filled in its other fields
                old = found["spec"].get("selector") or {}
                spec["selector"] = {**dict.fromkeys(old.keys() - spec["selector"].keys()), **spec["selector"]}
            else:
                spec = {**dict.fromkeys(found["spec"].keys() - spec.keys()), **spec}
            metadata = wanted.manifest["metadata"]
            changes = {part: metadata[part] for part in ("labels", "annotations")}
            raw = await self._patch(resource, wanted.name, uid, deadline, spec, **changes)
            _require_labels(resource, raw, wanted.manifest)
            return readable(resource, partial(route_state, resource), raw)

        return await self._put(resource, wanted.name, deadline, (), put)

    async def delete_route(self, resource: str, name: str, uid: str | None = None) -> None:
        """Delete one of the objects that give a stack's ports names; works as ``delete_pod``.

        ``uid`` saves a request; if another object of ours has the name by now, that is deleted.
        """
        deadline = self.deadline()
        if uid is None or not await remove(self, resource, name, uid, deadline):
            await remove(self, resource, name, None, deadline)

    async def _put(
        self,
        resource: str,
        name: str,
        deadline: Deadline,
        known: Collection[str | None],
        put: Callable[[JsonObject | None], Awaitable[T]],
    ) -> T:
        """What ``put`` makes of our object of that name, or of None; it is called again if the object changes meanwhile."""

        async def once() -> T | Again:
            found = await self.find(resource, name, deadline)
            if found is not None and not _is_ours(found, self.instance, known):
                raise ObjectExists(f"{resource} {name} exists and is not stackd's")
            if found is not None and "deletionTimestamp" in found["metadata"]:
                return Again(error=StillThere(f"{resource} {name} is still being deleted{_held_by(found)}"))
            try:
                return await put(found)
            except (ObjectExists, ObjectNotFound, PreconditionFailed):  # another one has the name by now, or none
                return Again(error=ClusterUnavailable(f"{resource} {name} keeps changing"))

        return await poll(deadline, once)

    async def _change_service(self, found: JsonObject, manifest: Mapping[str, Any], deadline: Deadline) -> ServiceState:
        wanted = manifest["metadata"]["labels"]
        others = dict.fromkeys(
            name
            for name in labels.labels_of(found).keys() - wanted.keys()
            if name == labels.POOL or name.startswith(labels.CLIENT_LABEL_PREFIX)
        )
        unselected = dict.fromkeys((found["spec"].get("selector") or {}).keys() - manifest["spec"]["selector"].keys())
        return await self.patch_service(
            manifest, found["metadata"]["uid"], others=others, unselected=unselected, timeout=deadline.left
        )

    async def patch_service(
        self,
        manifest: Mapping[str, Any],
        uid: str,
        *,
        others: Mapping[str, None] = _OF_POOLS,
        unselected: Mapping[str, None] = _OF_POOLS,
        timeout: float | None = None,
    ) -> ServiceState:
        """Change the Service of that uid to what the manifest says; its node ports stay held.

        ``others`` are labels, and ``unselected`` keys of the selector, to remove unless the manifest has them. Raises
        NodePortTaken, NodePortOutOfRange, ClusterRefused if a policy removes our labels, and as ``patch_pod``.
        """
        metadata, spec = manifest["metadata"], manifest["spec"]
        spec = {**spec, "selector": {**unselected, **spec["selector"]}}
        changes = {"labels": {**others, **metadata["labels"]}, "annotations": metadata["annotations"]}
        deadline = self.deadline(timeout)
        raw = await self._patch("services", metadata["name"], uid, deadline, spec, **changes, ownerReferences=None)
        _require_labels("services", raw, manifest)
        return readable("services", service_state, raw)

    async def annotate_service(
        self, name: str, uid: str, annotations: Mapping[str, str], *, timeout: float | None = None
    ) -> ServiceState:
        """Set annotations of the Service of that uid; returns the Service as it is then. Raises as ``patch_pod``."""
        raw = await self._patch("services", name, uid, self.deadline(timeout), annotations=annotations)
        return readable("services", service_state, raw)

    async def delete_config_map(self, name: str) -> None:
        """Delete our ConfigMap of that name, which the version before this one may have made, as ``delete_pod`` does."""
        await remove(self, CONFIG_MAPS, name, None, self.deadline())

    async def _patch(
        self,
        resource: str,
        name: str,
        uid: str,
        deadline: Deadline,
        spec: Mapping[str, Any] | None = None,
        **metadata: Mapping[str, str | None] | None,
    ) -> JsonObject:
        """Merge into the object of that uid; None removes."""
        patch = {"metadata": {"uid": uid, **metadata}} | ({"spec": spec} if spec is not None else {})
        call = self.on(
            "patch", resource, name, uid=uid, body=orjson.dumps(patch, default=dict), content_type=MERGE_PATCH
        )
        return await self.answer(call, deadline)

    async def _create(
        self, resource: str, manifest: Mapping[str, Any], deadline: Deadline, *, dry_run: bool = False
    ) -> JsonObject:
        params = {"dryRun": "All"} if dry_run else {}
        name = manifest["metadata"]["name"]
        call = self.on("create", resource, name, body=orjson.dumps(manifest), params=params)
        namespace_ensured = dry_run

        async def create() -> JsonObject | Again:
            nonlocal namespace_ensured
            answer = await self.ask(call, deadline)
            if answer.ok:
                return document_of(call, answer)
            if names_missing_namespace(call, answer) and not namespace_ensured:
                namespace_ensured = True
                await self.ensure_namespace()
                return Again(error=error_of(call, answer))
            made = await self._made_before(call, answer, manifest, deadline)
            return made or Again(error=StillThere(f"{resource} {name} is still being deleted"))

        made = await poll(deadline, create)
        await self._require_as_asked(call, made, manifest, deadline, dry_run=dry_run)
        return made

    async def _require_as_asked(
        self, call: KubeRequest, made: JsonObject, manifest: Mapping[str, Any], deadline: Deadline, *, dry_run: bool
    ) -> None:
        """Check that the created object carries our labels, and exists only if it should. Otherwise delete it.

        No watch would see it without labels. Raises ClusterRefused after the delete; ClusterUnavailable if the object
        could not be deleted.
        """
        exists = bool(made["metadata"].get("resourceVersion"))
        try:
            _require_labels(call.resource, made, manifest)
            if dry_run and exists:
                raise ClusterRefused("a dry run was carried out: something before Kubernetes drops the query string")
        except ClusterRefused:
            if exists or not dry_run:
                await remove(self, call.resource, call.name, made["metadata"]["uid"], deadline)
            raise

    async def _made_before(
        self, call: KubeRequest, answer: KubeResponse, manifest: Mapping[str, Any], deadline: Deadline
    ) -> JsonObject | None:
        """The object that an earlier try of this create made; None if its name is about to be free.

        Raises the error of ``answer`` in all other cases. Kubernetes allocates a Service's node ports before it checks
        the name. So if an earlier try has created the Service, the next try fails with NodePortTaken.
        """
        error = error_of(call, answer)
        if not isinstance(error, ObjectExists | NodePortTaken):
            raise error
        found = await self.find(call.resource, call.name, deadline)
        if found is None:
            if isinstance(error, NodePortTaken):
                raise error
            return None
        if not _is_ours(found, self.instance, ()) or not _same(found, manifest):
            raise error
        return None if found["metadata"].get("deletionTimestamp") else found


def _require_labels(resource: str, stored: JsonObject, manifest: Mapping[str, Any]) -> None:
    """Raise ClusterRefused if the object was stored without one of our labels."""
    wanted, given = labels.labels_of(manifest), labels.labels_of(stored)
    missing = sorted(key for key, value in wanted.items() if key in labels.OURS and given.get(key) != value)
    if missing:
        raise ClusterRefused(
            f"an admission policy of the cluster removes stackd's labels from {resource} ({', '.join(missing)}); "
            "it must leave them there"
        )


def _same(found: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether the object was created from this manifest: same stack, record, generation and node ports."""
    return _traits(found) == _traits(manifest)


def _traits(raw: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        # A policy may have removed the labels; the record names the stack, too.
        labels.annotations_of(raw).get(labels.RECORD) or labels.labels_of(raw).get(labels.STACK),
        labels.generation_of(raw),
        [tuple(map(port.get, ("port", "protocol", "nodePort"))) for port in (raw.get("spec") or {}).get("ports") or ()],
    )


async def remove(
    caller: Caller, resource: str, name: str, uid: str | None, deadline: Deadline, known: Collection[str | None] = ()
) -> bool:
    """Delete the object and return once it is confirmed gone. Raises ClusterUnavailable if it is not by the deadline.
    False: an object of another uid has the name.

    With ``uid``, deletes only the object of that uid. Without it, deletes only an object that carries our labels and
    our instance; that has a ``known`` uid; or that, without labels, has our annotations. Any other object of that name
    counts as gone and is left alone.
    """
    if uid is None:
        found = await caller.find(resource, name, deadline)
        if found is None or not _is_ours(found, caller.instance, known):
            return True
        uid = found["metadata"]["uid"]
    call = caller.on("delete", resource, name, uid=uid, body=orjson.dumps(_options(resource, uid)))

    other = False

    async def delete() -> bool | Again:
        """Whether it is gone with the answer."""
        nonlocal other
        answer = await caller.ask(call, deadline)
        other = is_other_uid(answer)
        if answer.status == NOT_FOUND or other:
            return True
        if answer.status == _CONFLICT:  # between concurrent writers of the object
            return Again(error=error_of(call, answer))
        return _is_gone(resource, document_of(call, answer))

    async def is_gone() -> bool | Again:
        left = await caller.find(resource, name, deadline)
        if left is None or left["metadata"]["uid"] != uid:
            return True
        return Again(error=StillThere(f"{resource} {name} is still being deleted{_held_by(left)}"))

    if not await poll(deadline, delete):
        await poll(deadline, is_gone)
    return not other


def _is_ours(found: JsonObject, instance: str, known: Collection[str | None]) -> bool:
    """Whether the object is ours, even if somebody or an admission policy has removed its labels.

    A uid cannot change, and nobody else writes our annotations.
    """
    if labels.is_ours(found, instance) or found["metadata"]["uid"] in known:
        return True
    if labels.instance_of(labels.labels_of(found)):
        return False
    return not labels.OURS_ALONE.isdisjoint(labels.annotations_of(found))


def _options(resource: str, uid: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": uid},
        "propagationPolicy": "Background",
    }
    return options | ({"gracePeriodSeconds": 0} if resource == "pods" else {})


def _is_gone(resource: str, answered: Mapping[str, Any]) -> bool:
    """Whether the object in the response to a delete is gone: it has no finalizers and no grace period is running.

    A Status instead of the object means that it was removed. A removed pod carries its ``deletionTimestamp``
    (Kubernetes 1.36). A pod without one does not count as deleted, and the caller looks for it again.
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

"""``Cluster``: all that stackd asks of a cluster, and the changes that it makes there.

Each request is retried until it is answered or its deadline passes. Each change is safe to retry, and touches only our
objects. The stack determines the names, so a create is idempotent: after a lost response it is sent again, and finds the
object that the first try created. A delete returns when the object is confirmed gone (invariants 3 and 5).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any, Self, TypeVar

from msgspec import json

from stackd.errors import (
    AnswerTooLarge,
    ClusterRefused,
    ClusterUnavailable,
    KindNotServed,
    NodePortOutOfRange,
    NodePortTaken,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    QuotaExceeded,
    StillThere,
    VersionExpired,
)
from stackd.kube import labels, wire
from stackd.kube.connection import LIST_SECONDS, Again, Deadline, KubeConnection, OnDate, OnRequest, poll
from stackd.kube.credentials import Access, ClusterTarget
from stackd.kube.guards import Fence
from stackd.kube.manifests import FIRST_PORT, LAST_PORT, port_question
from stackd.kube.objects import NODES, SERVICES, NodeState, ObjectKind, PodEvent, is_about, pod_event, readable
from stackd.kube.rights import CLUSTER_IDENTITY, AccessReview, allows
from stackd.kube.wire import KINDS, LOG, NAMESPACES, JsonObject, KubeRequest, KubeResponse, error_of
from stackd.model import RANGE_PREFIX, PortRange

log = logging.getLogger(__name__)
S = TypeVar("S")
T = TypeVar("T")
PAGE, SMALL_PAGE = 500, 25
PORTS_OF_A_QUESTION = 50
_VERSION = KubeRequest(verb="get", resource=wire.VERSION)


class Cluster:
    """One cluster, seen by one instance of stackd in one namespace. Each request raises ClusterUnavailable without an
    answer."""

    def __init__(self, target: ClusterTarget, connection: KubeConnection) -> None:
        self.target = target
        self.connection = connection
        self.instance, self.namespace_name = target.instance, target.namespace
        self.counts = connection.counts
        whose = CLUSTER_IDENTITY if target.any_node is None else target.namespace
        self.identity = KubeRequest(verb="get", resource=NAMESPACES, name=whose)

    @classmethod
    async def connect(
        cls,
        target: ClusterTarget,
        *,
        on_request: OnRequest | None = None,
        on_date: OnDate | None = None,
        fence: Fence | None = None,
    ) -> Self:
        """Load the credentials; nothing is sent. The callbacks are those of ``KubeConnection``; without a ``fence`` all is
        allowed. Raises ConfigError."""
        access = await Access.open(target)
        return cls(target, KubeConnection(access, target, on_request=on_request, on_date=on_date, fence=fence))

    async def close(self) -> None:
        await self.connection.close()

    # ---- any request

    def deadline(self, seconds: float | None = None) -> Deadline:
        """The deadline of a call that starts now; by default after the target's ``timeout``."""
        return Deadline(self.target.timeout if seconds is None else seconds)

    def on(self, verb: str, resource: str, name: str = "", **more: Any) -> KubeRequest:
        return KubeRequest(verb=verb, resource=resource, namespace=self.namespace_name, name=name, **more)

    def ours(self) -> dict[str, str]:
        return {"labelSelector": labels.selector(self.instance)}

    async def answer(self, call: KubeRequest, deadline: Deadline | None = None) -> JsonObject:
        """Send the call, retrying it; returns the JSON of a success. Raises the error that a refusal means."""
        return wire.document_of(call, await self.connection.ask(call, deadline or self.deadline()))

    async def find(self, resource: str, name: str, deadline: Deadline | None = None) -> JsonObject | None:
        """The object of that name in the stacks' namespace as JSON, whoever created it; None if there is none."""
        return await self.get_or_none(self.on("get", resource, name), deadline)

    async def get_or_none(self, call: KubeRequest, deadline: Deadline | None = None) -> JsonObject | None:
        """What ``answer`` returns; None if there is no such object."""
        try:
            return await self.answer(call, deadline)
        except ObjectNotFound:
            return None

    async def everything(self, call: KubeRequest, read: Callable[[JsonObject], T]) -> tuple[list[T], str]:
        """All items of a list, each converted by ``read``, and the list's resourceVersion.

        If the pages expire while they are read (410, because etcd was compacted), it is read again without paging; if
        a page is larger than stackd reads, in smaller pages. Raises ClusterUnavailable if that does not help.
        """
        # Each ConfigMap may have a mebibyte.
        limit: int | None = SMALL_PAGE if call.resource == wire.CONFIG_MAPS else PAGE
        while limit is not None:
            items: list[T] = []
            page = {"limit": str(limit)} if limit else {}
            try:
                while True:
                    paged = replace(call, params={**call.params, **page})
                    document = await self.answer(paged, self.deadline(LIST_SECONDS))
                    items.extend(readable(call.resource, read, raw) for raw in document["items"])
                    if not (token := document["metadata"].get("continue")):
                        return items, document["metadata"]["resourceVersion"]
                    page["continue"] = token
            except VersionExpired:
                limit = 0 if limit else None
            except AnswerTooLarge:
                if limit != PAGE:
                    raise
                limit = SMALL_PAGE
        raise ClusterUnavailable(f"the list of {call.resource} expired while it was read")

    # ---- the cluster

    async def version(self) -> str:
        return str((await self.answer(_VERSION))["gitVersion"])

    async def time(self) -> float | None:
        """The API server's clock in whole seconds since the epoch; None if its response has no readable ``Date``."""
        answer = await self.connection.ask(_VERSION, self.deadline())
        try:
            return parsedate_to_datetime(answer.date).timestamp()
        except (ValueError, OverflowError):
            return None

    async def cluster_uid(self) -> str:
        """The identity of the cluster: the uid of its kube-system namespace, or else of the stacks' own."""
        return str((await self.answer(self.identity))["metadata"]["uid"])

    async def probe(self, seconds: float) -> KubeResponse:
        # Unlike /version, this namespace is read from etcd; and stackd has the right to read it.
        return await self.connection.probe(self.identity, seconds)

    async def reload_credentials(self) -> bool:
        """Load the credentials again, and use them if they have changed; returns whether they have.

        Raises ConfigError if they cannot be loaded, Kubernetes refuses them (401), or they do not trust its certificate.
        """

        async def accepted(access: Access) -> None:
            try:
                answer = await KubeConnection(access, self.target).probe(self.identity, self.target.attempt_timeout)
            except ClusterRefused:
                raise
            except ClusterUnavailable as error:
                log.warning("the new credentials for the cluster could not be tried: %s", error)
            else:
                if answer.status == wire.UNAUTHORIZED:
                    raise error_of(self.identity, answer)

        return await self.connection.access.reload_credentials(accepted)

    async def namespace(self) -> JsonObject | None:
        return await self.get_or_none(KubeRequest(verb="get", resource=NAMESPACES, name=self.namespace_name))

    async def ensure_namespace(self) -> None:
        """Create the stacks' namespace if it does not exist. Raises ClusterUnavailable while it is being terminated. To be
        called only once the cluster has confirmed that it is the stacks' own: another one lacks the namespace, too.
        """
        name = self.namespace_name
        if (existing := await self.namespace()) is not None:
            if (existing.get("status") or {}).get("phase") == "Terminating":
                raise ClusterUnavailable(f"the namespace {name} is being terminated")
            return
        metadata = {"name": name, "labels": {labels.MANAGED_BY: labels.MANAGER}}
        body = json.encode({**KINDS[NAMESPACES].type_meta, "metadata": metadata})
        try:
            await self.answer(KubeRequest(verb="create", resource=NAMESPACES, name=name, body=body))
        except ObjectExists:
            return

    async def may(self, ask: AccessReview) -> bool:
        """Whether the cluster allows stackd what ``ask`` describes (SelfSubjectAccessReview)."""
        resource, _, part = ask.resource.partition("/")
        asked = {"verb": ask.verb, "group": KINDS[resource].group, "resource": resource, "subresource": part}
        asked |= {"namespace": ask.namespace, "name": ask.name}
        spec = {"resourceAttributes": {key: value for key, value in asked.items() if value}}
        body = json.encode({**KINDS[wire.REVIEWS].type_meta, "spec": spec})
        document = await self.answer(KubeRequest(verb="create", resource=wire.REVIEWS, body=body))
        return bool(document["status"]["allowed"])

    async def refused(self, wanted: Sequence[AccessReview]) -> list[AccessReview]:
        """Which of these the cluster does not allow stackd in the stacks' namespace. One request, unless it lists too few
        rules: an authorizer that cannot list its own is asked about each."""
        body = json.encode({**KINDS[wire.RULES].type_meta, "spec": {"namespace": self.namespace_name}})
        document = await self.answer(KubeRequest(verb="create", resource=wire.RULES, body=body))
        rules = document["status"]["resourceRules"]
        return [ask for ask in wanted if not any(allows(rule, ask) for rule in rules) and not await self.may(ask)]

    async def gateway(self, namespace: str, name: str) -> JsonObject:
        """A Gateway as JSON. Raises ObjectNotFound."""
        return await self.answer(KubeRequest(verb="get", resource=wire.GATEWAYS, namespace=namespace, name=name))

    async def admission_policy(self) -> tuple[JsonObject | None, JsonObject | None]:
        """The ValidatingAdmissionPolicy that guards what stackd writes, and its binding, as JSON; None where there is none."""
        name = labels.admission_policy_name(self.instance, self.namespace_name)
        kinds = (wire.POLICIES, wire.BINDINGS)
        policy, binding = [await self.get_or_none(KubeRequest(verb="get", resource=kind, name=name)) for kind in kinds]
        return policy, binding

    @property
    def reads_nodes(self) -> bool:
        """Whether stackd has rights in the cluster, and not only in the namespace of the stacks."""
        return self.target.any_node is None

    async def list_nodes(self) -> list[NodeState]:
        if self.target.any_node is not None:
            return [self.target.any_node]
        nodes, _ = await self.everything(KubeRequest(verb="list", resource="nodes"), NODES.read)
        return nodes

    async def list_namespaced(self, resource: str, **params: str) -> list[JsonObject]:
        """All objects of the stacks' namespace, as JSON, whoever created them."""
        items, _ = await self.everything(self.on("list", resource, params=params), lambda raw: raw)
        return items

    async def list_raw(self, resource: str) -> list[JsonObject]:
        listed = await self.list_namespaced(resource, **self.ours())
        # As in the mirror: what counts is what an object says, not what was asked for.
        return [raw for raw in listed if labels.is_ours(raw, self.instance)]

    async def pod_log(self, name: str, *, tail: int, container: str = "") -> str:
        """The last ``tail`` lines of a pod's log, at most 1 MiB. Raises ObjectNotFound; Conflict when there is none yet."""
        params = {"tailLines": str(tail), "limitBytes": str(1 << 20)}
        call = self.on("get", LOG, name, params=params | ({"container": container} if container else {}))
        answer = await self.connection.ask(call, self.deadline())
        if not answer.ok:
            raise error_of(call, answer)
        return answer.body.decode(errors="replace")

    async def pod_events(self, name: str, uid: str = "") -> list[PodEvent]:
        fields = f"involvedObject.name={name}" + (f",involvedObject.uid={uid}" if uid else "")
        listed = await self.list_namespaced("events", fieldSelector=fields)
        # A proxy may drop the query string, and other stacks' events are not for this one's users.
        own = [raw for raw in listed if is_about(raw, name, uid)]
        return sorted((readable("events", pod_event, raw) for raw in own), key=lambda event: event.at)

    # ---- objects of stacks

    async def get(self, kind: ObjectKind[S], name: str, *, timeout: float | None = None) -> S | None:
        """The object as the API server has it now (not from the mirror), whoever created it; None if there is none."""
        raw = await self.find(kind.resource, name, self.deadline(timeout))
        return None if raw is None else kind.state(raw)

    async def create(
        self,
        kind: ObjectKind[S],
        manifest: Mapping[str, Any],
        *,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> S:
        """Create the object once, with as many tries as needed; with ``dry_run`` only let the cluster check it.

        Raises LimitRangeViolation, InvalidPodSpec, QuotaExceeded, NodePortTaken, NodePortOutOfRange, ClusterUnavailable;
        ObjectExists if an object that was not created from this manifest has the name.
        """
        return kind.state(await self._create(kind.resource, manifest, self.deadline(timeout), dry_run=dry_run))

    async def patch(
        self,
        kind: ObjectKind[S],
        name: str,
        uid: str,
        *,
        timeout: float | None = None,
        **metadata: Mapping[str, str | None] | None,
    ) -> S:
        """Set (or, with None, remove) ``labels`` and ``annotations`` of the object of that uid; returns it as it is then.

        Raises ObjectNotFound; PreconditionFailed if another object has the name by now.
        """
        changes = {part: names for part, names in metadata.items() if names}
        return kind.state(await self._patch(kind.resource, name, uid, self.deadline(timeout), changes))

    async def create_or_update(
        self,
        kind: ObjectKind[S],
        manifest: Mapping[str, Any],
        *,
        known: Collection[str | None] = (),
        timeout: float | None = None,
    ) -> S:
        """Create the object, or change ours that is there to what the manifest says; a Service's node ports stay held.

        Again if the object changes meanwhile. One that is not ours is deleted, and a Service also if it is only by its
        annotations: it has a stack's name, and may have been made to pass for the stack's own. Raises as ``create``;
        ObjectExists if another stackd's has the name.
        """
        resource, name, deadline = kind.resource, manifest["metadata"]["name"], self.deadline(timeout)

        async def once() -> JsonObject | Again:
            existing = await self.find(resource, name, deadline)
            # The whole spec of a route is replaced; of a Service, fields would stay that may lead connections elsewhere.
            accepts = is_ours if resource == "services" else _may_be_ours
            if existing is not None and not accepts(existing, self.instance, known):
                if labels.instance_of(labels.labels_of(existing)):
                    raise ObjectExists(f"{resource} {name} exists and is another stackd's")
                await self.delete(resource, name, existing["metadata"]["uid"], deadline=deadline)
                existing = None
            if existing is not None and "deletionTimestamp" in existing["metadata"]:
                return Again(error=_still_there(resource, existing))
            try:
                if existing is None:
                    return await self._create(resource, manifest, deadline)
                return await self._change(resource, manifest, existing["metadata"]["uid"], existing, deadline)
            except (ObjectExists, ObjectNotFound, PreconditionFailed):  # another one has the name by now, or none
                return Again(error=ClusterUnavailable(f"{resource} {name} keeps changing"))

        return kind.state(await poll(deadline, once))

    async def update(
        self,
        kind: ObjectKind[S],
        manifest: Mapping[str, Any],
        uid: str,
        *,
        clients: Iterable[str] = (),
        timeout: float | None = None,
    ) -> S:
        """Change the object of that uid, which has these labels of clients, to what the manifest says; a Service's node ports
        stay held.

        Raises NodePortTaken, NodePortOutOfRange, ClusterRefused if a policy removes our labels, and as ``patch``.
        """
        names = dict.fromkeys((labels.CLIENT_LABEL_PREFIX + name for name in clients), "")
        before: JsonObject = {"metadata": {"labels": names}, "spec": {}}
        return kind.state(await self._change(kind.resource, manifest, uid, before, self.deadline(timeout)))

    async def overwrite(self, kind: ObjectKind[S], manifest: Mapping[str, Any], uid: str, version: str) -> S:
        """Merge labels, annotations and data of the manifest into the object of that uid and resourceVersion.

        Raises ObjectNotFound; PreconditionFailed if the object has changed, or another one has the name.
        """
        metadata = {part: manifest["metadata"][part] for part in ("labels", "annotations")} | {
            "resourceVersion": version
        }
        name, deadline = manifest["metadata"]["name"], self.deadline()
        return kind.state(await self._patch(kind.resource, name, uid, deadline, metadata, data=manifest["data"]))

    async def node_port_range(self) -> PortRange | None:
        """The cluster's range of node ports; None if the cluster does not say.

        Sends a Service with the node ports 1 and 65535, of which every range but 1-65535 excludes one, and reads the range
        from the refusal. Not a dry run, because Kubernetes 1.36 does not check the range in one: if the range covers both,
        the Service is created, and deleted at once. Raises QuotaExceeded, ClusterUnavailable and ClusterError if the request
        fails.
        """
        name = f"{RANGE_PREFIX}{secrets.token_hex(8)}"
        try:
            created = await self.create(
                SERVICES, port_question(self.namespace_name, self.instance, name, (FIRST_PORT, LAST_PORT))
            )
        except NodePortOutOfRange as refusal:
            return PortRange(*refusal.cluster)
        except NodePortTaken:
            return None
        await self.remove("services", created.name, created.uid)
        # If a policy of the cluster has changed the ports, the range remains unknown.
        asked = set(created.node_ports) == {FIRST_PORT, LAST_PORT}
        return PortRange(FIRST_PORT, LAST_PORT) if asked else None

    async def taken_node_ports(self, ports: Iterable[int]) -> AsyncGenerator[int, None]:
        """Yield those of these node ports that Services of any namespace hold, as the cluster tells in dry runs, which need
        no right to see the Services; it names one at a time. Ends where a quota is used up. Raises as ``create``.
        """
        rest, most = [*ports], PORTS_OF_A_QUESTION
        while batch := rest[:most]:
            name = f"{RANGE_PREFIX}{secrets.token_hex(8)}"
            question = port_question(self.namespace_name, self.instance, name, batch)
            try:
                await self.create(SERVICES, question, dry_run=True)
            except NodePortTaken as refused:
                if refused.node_port not in batch:
                    return
                rest.remove(refused.node_port)
                yield refused.node_port
            except QuotaExceeded:
                if (most := most // 2) == 0:
                    return
            else:
                del rest[: len(batch)]

    async def _change(
        self, resource: str, manifest: Mapping[str, Any], uid: str, before: JsonObject, deadline: Deadline
    ) -> JsonObject:
        """Merge the manifest into the object of that uid, and remove what only ``before`` has of what stackd writes; of a
        Service always what it has in a pool.
        """
        metadata, spec, old = manifest["metadata"], manifest["spec"], before["spec"]
        if resource == "services":  # Kubernetes has filled in its other fields
            unset = dict.fromkeys((labels.ASSIGNED, *(old.get("selector") or ())))
            spec = {**spec, "selector": {**unset, **spec["selector"]}}
        else:
            spec = {**dict.fromkeys(old), **spec}
        clients = (name for name in labels.labels_of(before) if name.startswith(labels.CLIENT_LABEL_PREFIX))
        names = {**dict.fromkeys((labels.POOL, labels.ASSIGNED, labels.SPARE, *clients)), **metadata["labels"]}
        changes = {"labels": names, "annotations": metadata["annotations"]}
        raw = await self._patch(resource, metadata["name"], uid, deadline, changes, spec=spec)
        _require_labels(resource, raw, manifest)
        return raw

    async def _patch(
        self, resource: str, name: str, uid: str, deadline: Deadline, metadata: Mapping[str, Any], **parts: Any
    ) -> JsonObject:
        """Merge into the object of that uid; None removes."""
        body = json.encode({"metadata": {"uid": uid, **metadata}, **parts}, enc_hook=dict)
        call = self.on("patch", resource, name, uid=uid, body=body, content_type=wire.MERGE_PATCH)
        return await self.answer(call, deadline)

    async def _create(
        self, resource: str, manifest: Mapping[str, Any], deadline: Deadline, *, dry_run: bool = False
    ) -> JsonObject:
        """Create the object. Deletes it again, and raises ClusterRefused, if it lacks our labels, because no watch would
        see it then, or exists although this was a dry run; raises ClusterUnavailable if it could not be deleted.
        """
        name, params = manifest["metadata"]["name"], {"dryRun": "All"} if dry_run else {}
        call = self.on("create", resource, name, body=json.encode(manifest), params=params)

        async def made(answer: KubeResponse) -> JsonObject | Again:
            if answer.ok and answer.document is not None:
                return answer.document
            error = error_of(call, answer)
            # Did an earlier try make it? Kubernetes allocates a Service's node ports before it checks the name. So then
            # this try fails with NodePortTaken.
            if not isinstance(error, ObjectExists | NodePortTaken):
                raise error
            existing = await self.find(resource, name, deadline)
            if existing is None and isinstance(error, ObjectExists):
                return Again(error=StillThere(f"{resource} {name} is still being deleted"))
            if existing is None or not _may_be_ours(existing, self.instance) or _traits(existing) != _traits(manifest):
                raise error
            going = existing["metadata"].get("deletionTimestamp")
            return Again(error=_still_there(resource, existing)) if going else existing

        created = await self.connection.ask_until(call, deadline, made)
        exists = bool(created["metadata"].get("resourceVersion"))
        try:
            _require_labels(resource, created, manifest)
            if dry_run and exists:
                raise ClusterRefused("a dry run was carried out: something before Kubernetes drops the query string")
        except ClusterRefused:
            if exists or not dry_run:
                await self.remove(resource, name, created["metadata"]["uid"], deadline=deadline)
            raise
        return created

    async def delete(
        self,
        resource: str,
        name: str,
        uid: str | None = None,
        *,
        deadline: Deadline | None = None,
        known: Collection[str | None] = (),
        version: str = "",
    ) -> bool:
        """Delete the object; when this returns, the API server has confirmed that it is gone. False: an object of another
        uid has the name, or it has another ``version`` by now. Raises StillThere if it is being deleted, and something holds
        that up: a finalizer, say.

        With ``uid``, deletes only the object of that uid. Without it, deletes only an object that carries our labels and
        our instance; that has a ``known`` uid; or that, without labels, has our annotations. Since anybody may write
        those, the last kind is not waited for: somebody's finalizer could keep it for ever. Any other object of that
        name counts as gone and is left alone, and so does one of a kind that the API server does not know.
        """
        deadline, waits = deadline or self.deadline(), True
        if uid is None:
            try:
                existing = await self.find(resource, name, deadline)
            except KindNotServed:
                return True
            if existing is None or not _may_be_ours(existing, self.instance, known):
                return True
            uid, waits = existing["metadata"]["uid"], is_ours(existing, self.instance, known)
        options: JsonObject = {
            "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}, "propagationPolicy": "Background",
        }  # fmt: skip
        options["preconditions"] |= {"resourceVersion": version} if version else {}
        options |= {"gracePeriodSeconds": 0} if resource == "pods" else {}
        call = self.on("delete", resource, name, uid=uid, body=json.encode(options))

        async def is_done(answer: KubeResponse) -> bool | Again:
            if answer.status == wire.NOT_FOUND:
                return True
            if wire.is_other_uid(answer) or (version and answer.status == wire.CONFLICT):
                return False
            if answer.status == wire.CONFLICT:  # between concurrent writers of the object
                return Again(error=error_of(call, answer))
            if not _is_gone(resource, document := wire.document_of(call, answer)) and waits:
                raise _still_there(resource, document)
            return True

        try:
            return await self.connection.ask_until(call, deadline, is_done)
        except KindNotServed:
            return True

    async def remove(
        self, resource: str, name: str, uid: str | None = None, *, deadline: Deadline | None = None
    ) -> None:
        """As ``delete``, and wait until the object is gone. Raises StillThere if it is not by the deadline."""
        deadline = deadline or self.deadline()

        async def once() -> Again | None:
            try:
                await self.delete(resource, name, uid, deadline=deadline)
            except StillThere as error:
                return Again(error=error)
            return None

        await poll(deadline, once)


def _require_labels(resource: str, stored: JsonObject, manifest: Mapping[str, Any]) -> None:
    wanted, present = manifest["metadata"]["labels"], stored["metadata"].get("labels") or {}
    missing = sorted(key for key, value in wanted.items() if key in labels.OURS and present.get(key) != value)
    if missing:
        raise ClusterRefused(
            f"an admission policy of the cluster removes stackd's labels from {resource} ({', '.join(missing)}); "
            "it must leave them there"
        )


def _traits(raw: Mapping[str, Any]) -> tuple[object, ...]:
    """What two objects created from one manifest have in common: stack, record, generation and node ports."""
    return (
        # A policy may have removed the labels; the record names the stack, too.
        labels.annotations_of(raw).get(labels.RECORD) or labels.labels_of(raw).get(labels.STACK),
        labels.generation_of(raw),
        [tuple(map(port.get, ("port", "protocol", "nodePort"))) for port in (raw.get("spec") or {}).get("ports") or ()],
    )


def is_ours(existing: JsonObject, instance: str, known: Collection[str | None] = ()) -> bool:
    """Whether the object is ours: by a uid that stackd has got for it, or by our labels, which our admission policy lets
    nobody else write. Annotations prove nothing.
    """
    return labels.is_ours(existing, instance) or existing["metadata"]["uid"] in known


def _may_be_ours(existing: JsonObject, instance: str, known: Collection[str | None] = ()) -> bool:
    """Whether the object is ours, or would be if somebody or an admission policy had removed its labels."""
    if is_ours(existing, instance, known):
        return True
    if labels.instance_of(labels.labels_of(existing)):
        return False
    return not labels.OURS_ALONE.isdisjoint(labels.annotations_of(existing))


def _is_gone(resource: str, answered: Mapping[str, Any]) -> bool:
    """Whether the object in the response to a delete is gone: it has no finalizers and no grace period is running.

    A Status instead of the object means that it was removed. A removed pod carries its ``deletionTimestamp``
    (Kubernetes 1.36). A pod without one does not count as deleted, and the caller looks for it again.
    """
    if wire.read_status(answered) is not None:
        return True
    metadata = answered["metadata"]
    if resource == "pods" and not metadata.get("deletionTimestamp"):
        return False
    return not metadata.get("finalizers") and not metadata.get("deletionGracePeriodSeconds")


def _still_there(resource: str, existing: JsonObject) -> StillThere:
    metadata = existing["metadata"]
    by = f" (finalizers {', '.join(metadata['finalizers'])})" if metadata.get("finalizers") else ""
    return StillThere(f"{resource} {metadata['name']} is still being deleted{by}")

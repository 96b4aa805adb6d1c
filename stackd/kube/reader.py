"""What stackd asks a cluster beside its own stacks: who it is, what it allows, what happened to a pod.

For start-up, ``doctor``, ``rebuild``, and the logs and events of one stack. No read of the API waits for any of these.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from email.utils import parsedate_to_datetime

import orjson

from stackd.errors import ClusterUnavailable, ObjectExists, ObjectNotFound
from stackd.kube import labels
from stackd.kube.caller import Caller
from stackd.kube.objects import NodeState, PodEvent, node_state, pod_event
from stackd.kube.responses import error_of
from stackd.kube.rights import CLUSTER_IDENTITY, AccessReview
from stackd.kube.wire import LOG, REVIEWS, VERSION, JsonObject, KubeRequest, core, grouped

_LOG_BYTES = 1024 * 1024
_VERSION = KubeRequest(verb="get", resource=VERSION, path="/version")


class ClusterReader(Caller):
    """The questions; each raises ClusterUnavailable when the cluster cannot or may not answer."""

    async def version(self) -> str:
        """The API server's version, such as ``v1.36.2``."""
        return str((await self.answer(_VERSION))["gitVersion"])

    async def cluster_uid(self) -> str:
        """What identifies the cluster: the uid of its kube-system namespace."""
        document = await self.answer(_about_namespace("get", CLUSTER_IDENTITY))
        return str(document["metadata"]["uid"])

    async def probe(self) -> None:
        """Return if Kubernetes answers now, over a connection of its own, within the time of one attempt."""
        # A read of etcd, as the version is not; and stackd may ask for it.
        await self.connection.probe(_about_namespace("get", CLUSTER_IDENTITY), self.target.attempt_timeout)

    async def namespace(self) -> JsonObject | None:
        """The stacks' namespace as JSON, None where there is none."""
        try:
            return await self.answer(_about_namespace("get", self.namespace_name))
        except ObjectNotFound:
            return None

    async def ensure_namespace(self) -> None:
        """Make the stacks' namespace if it is not there, and this is the cluster that it is to be in (``belongs_to``).

        Raises ClusterUnavailable while it is being terminated, and on another cluster.
        """
        existing = await self.namespace()
        if existing is None:
            await self._must_be_ours()
            await self._create_namespace()
        elif (existing.get("status") or {}).get("phase") == "Terminating":
            raise ClusterUnavailable(f"the namespace {self.namespace_name} is being terminated")

    async def time(self) -> float | None:
        """The API server's clock, in seconds since the epoch, to the second; None where it does not tell."""
        answer = await self.ask(_VERSION, self.deadline())
        try:
            return parsedate_to_datetime(answer.date).timestamp()
        except ValueError:
            return None

    async def may(self, ask: AccessReview) -> bool:
        """Whether the cluster lets stackd do what is asked about."""
        names = ("verb", "resource", "group", "namespace", "subresource", "name")
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key in names if (value := getattr(ask, key))}},
        }
        path = grouped("authorization.k8s.io/v1", REVIEWS)
        document = await self.answer(KubeRequest(verb="create", resource=REVIEWS, path=path, body=orjson.dumps(review)))
        return bool(document["status"]["allowed"])

    async def network_policies(self, namespace: str = "") -> list[JsonObject]:
        """The NetworkPolicies of a namespace (by default the stacks'), as JSON."""
        where = namespace or self.namespace_name
        path = grouped("networking.k8s.io/v1", "networkpolicies", namespace=where)
        return await self._all(KubeRequest(verb="list", resource="networkpolicies", path=path, namespace=where))

    async def resource_quotas(self) -> list[JsonObject]:
        """The ResourceQuotas of the stacks' namespace, as JSON."""
        return await self._all(self.on("list", "resourcequotas"))

    async def limit_ranges(self) -> list[JsonObject]:
        """The LimitRanges of the stacks' namespace, as JSON."""
        return await self._all(self.on("list", "limitranges"))

    async def list_raw(self, resource: str) -> AsyncGenerator[JsonObject, None]:
        """Our ``pods`` or ``services``, one JSON object at a time, once all of them are there."""
        for item in await self._all(self.on("list", resource, params=self.ours())):
            yield item

    async def list_prepulls(self) -> list[JsonObject]:
        """The pods of this instance that only have images pulled, as JSON."""
        wanted = labels.prepull_labels(self.instance).items()
        params = {"labelSelector": ",".join(f"{key}={value}" for key, value in wanted)}
        return await self._all(self.on("list", "pods", params=params))

    async def list_nodes(self) -> list[NodeState]:
        """All nodes."""
        nodes, _ = await self.everything(KubeRequest(verb="list", resource="nodes", path=core("nodes")), node_state)
        return nodes

    async def pod_json(self, name: str) -> JsonObject | None:
        """The pod as JSON, None where there is none of that name."""
        return await self.find("pods", name, self.deadline())

    async def pod_log(self, name: str, *, tail: int, container: str = "") -> str:
        """The last ``tail`` lines, one MiB at most, of a pod of ours.

        Raises ObjectNotFound; Conflict, with the reason, when there is no log yet.
        """
        params = {"tailLines": str(tail), "limitBytes": str(_LOG_BYTES)}
        path = core("pods", namespace=self.namespace_name, name=name) + "/log"
        call = KubeRequest(
            verb="get", resource=LOG, path=path, namespace=self.namespace_name, name=name,
            params=params | ({"container": container} if container else {}),
        )  # fmt: skip
        answer = await self.ask(call, self.deadline())
        if not answer.ok:
            raise error_of(call, answer)
        return answer.body.decode(errors="replace")

    async def pod_events(self, name: str, uid: str = "") -> list[PodEvent]:
        """What Kubernetes says happened to the pod (of that uid, if given), oldest first."""
        fields = f"involvedObject.name={name}" + (f",involvedObject.uid={uid}" if uid else "")
        items, _ = await self.everything(self.on("list", "events", params={"fieldSelector": fields}), pod_event)
        return sorted(items, key=lambda event: event.at)

    async def _all(self, call: KubeRequest) -> list[JsonObject]:
        items, _ = await self.everything(call, lambda raw: raw)
        return items

    async def _must_be_ours(self) -> None:
        """That the namespace is gone may mean that this is another cluster: nothing is made there."""
        if self.belongs_to and await self.cluster_uid() != self.belongs_to:
            self.connection.on_doubt()
            raise ClusterUnavailable("another cluster answers; nothing is created there")

    async def _create_namespace(self) -> None:
        name = self.namespace_name
        manifest = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {labels.MANAGED_BY: labels.MANAGER}},
        }
        call = KubeRequest(
            verb="create", resource="namespaces", path=core("namespaces"), name=name, body=orjson.dumps(manifest)
        )
        try:
            await self.answer(call)
        except ObjectExists:
            return


def _about_namespace(verb: str, name: str) -> KubeRequest:
    return KubeRequest(verb=verb, resource="namespaces", path=core("namespaces", name=name), name=name)

"""What an administrator does for stackd in a cluster, once: namespaces, rights and policies, a first token, labels on nodes.

For ``stackd setup``, with an administrator's credentials; the daemon has no right to any of this. Owns the comparison of a
manifest with the object that is there: what somebody has added to it by hand is left alone. Each step can be repeated.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from stackd.errors import ClusterUnavailable, ObjectExists, ObjectNotFound
from stackd.kube.access import Access
from stackd.kube.connection import KubeConnection
from stackd.kube.credentials import ClusterTarget
from stackd.kube.objects import NodeState, node_state
from stackd.kube.reader import ClusterReader
from stackd.kube.wire import KINDS, MERGE_PATCH, TOKENS, JsonObject, KubeRequest, core, grouped

PLURALS = {kind.name: plural for plural, kind in KINDS.items()}
SECRET_SECONDS = 10.0
"""How long the cluster may take to put a token into a Secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestChange:
    """What has to be done about one manifest; ``fields`` are those that differ, none of an object that is not there yet."""

    manifest: Mapping[str, Any]
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        metadata = self.manifest["metadata"]
        name = f"{self.manifest['kind']} {metadata['name']}"
        where = f" in {metadata['namespace']}" if "namespace" in metadata else ""
        return f"change {name}{where} ({', '.join(self.fields)})" if self.fields else f"create {name}{where}"


class Administrator(ClusterReader):
    """One cluster, with an administrator's rights."""

    @classmethod
    async def connect(cls, target: ClusterTarget) -> Administrator:
        """Load the credentials; nothing is sent. Raises ConfigError."""
        return cls(target, KubeConnection(await Access.open(target), max_in_flight=target.max_in_flight))

    async def close(self) -> None:
        """Close all connections."""
        await self.connection.close()

    async def change(self, manifest: Mapping[str, Any]) -> ManifestChange | None:
        """What has to be created or changed for the cluster to match it; None if nothing. Raises ClusterUnavailable."""
        try:
            found = await self.answer(_call("get", manifest))
        except ObjectNotFound:
            return ManifestChange(manifest=manifest)
        fields = tuple(differences(manifest, found))
        return ManifestChange(manifest=manifest, fields=fields) if fields else None

    async def apply(self, manifest: Mapping[str, Any]) -> None:
        """Create or change the object. Raises ClusterUnavailable, and what a refusal means."""
        change = await self.change(manifest)
        if change is None:
            return
        if not change.fields:
            try:
                await self.answer(_call("create", manifest, body=orjson.dumps(manifest)))
            except ObjectExists:
                pass  # an earlier try has made it, and its answer was lost
            else:
                return
        await self.answer(_call("patch", manifest, body=orjson.dumps(manifest), content_type=MERGE_PATCH))

    async def token(self, namespace: str, account: str, seconds: int) -> str:
        """A token of that service account that ends. Raises ClusterUnavailable, ObjectNotFound."""
        body = {
            "apiVersion": KINDS[TOKENS].api_version,
            "kind": KINDS[TOKENS].name,
            "spec": {"expirationSeconds": seconds},
        }
        path = core("serviceaccounts", namespace=namespace, name=account) + "/token"
        call = KubeRequest(
            verb="create", resource=TOKENS, path=path, namespace=namespace, name=account, body=orjson.dumps(body)
        )
        return str((await self.answer(call))["status"]["token"])

    async def lasting_token(self, namespace: str, account: str) -> str:
        """The token in the account's Secret, as soon as the cluster has put it there. Raises ClusterUnavailable."""
        name = f"{account}-token"
        path = core("secrets", namespace=namespace, name=name)
        call = KubeRequest(verb="get", resource="secrets", path=path, namespace=namespace, name=name)
        deadline, backoff = self.deadline(SECRET_SECONDS), self.backoff()
        while True:
            data = (await self.answer(call, deadline)).get("data") or {}
            if "token" in data:
                return base64.b64decode(data["token"]).decode()
            pause = backoff.pause()
            if pause >= deadline.left:
                raise ClusterUnavailable(
                    f"the cluster has put no token into the Secret {name} of namespace {namespace}"
                )
            await asyncio.sleep(pause)

    async def label_node(self, name: str, labels: Mapping[str, str]) -> NodeState:
        """The node, with these labels. Raises ObjectNotFound."""
        body = orjson.dumps({"metadata": {"labels": dict(labels)}})
        call = KubeRequest(
            verb="patch",
            resource="nodes",
            path=core("nodes", name=name),
            name=name,
            body=body,
            content_type=MERGE_PATCH,
        )
        return node_state(await self.answer(call))


def differences(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """The fields in which the object is not what the manifest says. Those that the manifest does not name do not count, but
    for those within a list: a list is the manifest's as a whole.
    """
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, value in wanted.items():
            yield from differences(value, found.get(key), f"{path}.{key}" if path else key)
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = [*zip(wanted, found, strict=True), *zip(found, wanted, strict=True)]
        if any(True for pair in pairs for _ in differences(*pair)):
            yield path
    elif wanted != found and (wanted or found):
        yield path


def _call(verb: str, manifest: Mapping[str, Any], **options: Any) -> KubeRequest:
    metadata: JsonObject = manifest["metadata"]
    plural = PLURALS[manifest["kind"]]
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    where = {"namespace": namespace} | ({} if verb == "create" else {"name": name})
    group = str(manifest["apiVersion"])
    path = grouped(group, plural, **where) if "/" in group else core(plural, **where)
    return KubeRequest(verb=verb, resource=plural, path=path, namespace=namespace, name=name, **options)

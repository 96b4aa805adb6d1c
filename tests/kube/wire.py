"""A scripted API server: it keeps the requests, and the test writes down the responses; and the recordings of a real one.

For what the embedded cluster would never send: malformed lines, silence, a response that is lost on the way.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec import json

from stackd.kube.client import Cluster
from stackd.kube.mirror import Changed, Mirror, Relisted
from stackd.kube.objects import PodState
from stackd.kube.wire import KINDS, KubeRequest, KubeResponse
from tests.harness import eventually

NAMESPACE = "rec"
PODS_PATH = f"/api/v1/namespaces/{NAMESPACE}/pods"
SERVICES_PATH = f"/api/v1/namespaces/{NAMESPACE}/services"
NODES_PATH = "/api/v1/nodes"
Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]
Script = Callable[["Stream"], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    token: str
    connection: object


class Stream:
    """The server's end of one watch."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self.raw = response.write

    async def send(self, kind: str, obj: dict[str, Any]) -> None:
        await self.raw(json.encode({"type": kind, "object": obj}) + b"\n")

    async def bookmark(self, version: str) -> None:
        kind = KINDS[self._request.path.rpartition("/")[2]]
        await self.send("BOOKMARK", {**kind.type_meta, "metadata": {"resourceVersion": version}})

    def cut(self) -> None:
        assert self._request.transport is not None
        self._request.transport.abort()


class Wire:
    """The server; without a script, lists are empty and watches are silent."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.token: str | None = None
        self._replies: defaultdict[tuple[str, str], deque[Reply]] = defaultdict(deque)
        self._scripts: defaultdict[str, deque[Script]] = defaultdict(deque)
        self._over = asyncio.Event()
        self._server: TestServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return str(self._server.make_url("")).rstrip("/")

    def on(self, method: str, path: str, *replies: Reply) -> None:
        """Send these replies to the next requests of this kind, in order; ``WATCH``: in place of opening a watch."""
        self._replies[method, path].extend(replies)

    def watch(self, resource: str, *scripts: Script) -> None:
        """Run these scripts for the resource's next watches; when a script returns, the server ends the response."""
        self._scripts[resource].extend(scripts)

    def asked(self, method: str, path: str, *, watch: bool | None = None) -> list[Seen]:
        same = [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]
        return [seen for seen in same if watch in (None, "watch" in seen.query)]

    async def start(self, *, tls: ssl.SSLContext | None = None) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._server = TestServer(app, scheme="https" if tls else "http", shutdown_timeout=0.1)
        await self._server.start_server(ssl=tls)

    async def stop(self) -> None:
        self._over.set()
        if self._server is not None:
            await self._server.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        data, watching = await request.read(), request.query.get("watch") == "true"
        self.seen.append(
            Seen(
                method=request.method,
                path=request.path,
                query=dict(request.query),
                body=json.decode(data) if data else None,
                token=request.headers.get("Authorization", "").removeprefix("Bearer "),
                connection=request.transport,
            )
        )
        if self.token is not None and self.seen[-1].token != self.token:
            return web.json_response(status(401, "Unauthorized", "Unauthorized"), status=401)
        if replies := self._replies["WATCH" if watching else request.method, request.path]:
            return await replies.popleft()(request)
        resource = request.path.rpartition("/")[2]
        if not watching:
            kind = KINDS[resource]
            listed = {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "items": []}
            return web.json_response(listed | {"metadata": {"resourceVersion": "1"}})
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if scripts := self._scripts[resource]:
            await scripts.popleft()(Stream(request, response))
        else:
            await self._over.wait()
        return response


@asynccontextmanager
async def wired() -> AsyncIterator[Wire]:
    wire = Wire()
    await wire.start()
    try:
        yield wire
    finally:
        await wire.stop()


# ---- what it replies


def says(body: Any, code: int = 200, **headers: str) -> Reply:
    async def reply(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=code, headers={key.replace("_", "-"): v for key, v in headers.items()})

    return reply


def held(go: asyncio.Event, reply: Reply) -> Reply:
    """This reply, once ``go`` is set."""

    async def later(request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await reply(request)

    return later


def page(text: str, code: int = 200, kind: str = "text/html") -> Reply:
    """A page of a load balancer."""

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text=text, content_type=kind)

    return reply


def loses() -> Reply:
    """Cut the connection without a response."""

    async def reply(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return reply


def waits(seconds: float) -> Reply:
    """Do not answer for a long time."""

    async def reply(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return web.Response()

    return reply


def status(code: int, reason: str, message: str, **details: Any) -> dict[str, Any]:
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "details": details, "code": code,
    }  # fmt: skip


def missing(resource: str, name: str) -> Reply:
    """There is no such object."""
    return says(status(404, "NotFound", f'{resource} "{name}" not found', kind=resource, name=name), 404)


def pod(name: str, *, version: int = 10, uid: str = "", instance: str = "default", **state: Any) -> dict[str, Any]:
    """A pod of a stackd instance, as the API server would return it."""
    managed = {"app.kubernetes.io/managed-by": "stackd", "stackd.io/instance": instance, "stackd.io/stack": name}
    return {
        **KINDS["pods"].type_meta,
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": uid or f"uid-of-{name}",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-11-24T22:55:59Z",
            "labels": managed,
        },
        "spec": {"containers": []},
        "status": {"phase": "Pending", **state},
    }


def items(*objects: dict[str, Any], version: int = 100, more: str = "", kind: str = "Pod") -> dict[str, Any]:
    """A list of the objects; its kind is that of the first, or ``kind`` if there is none."""
    first = objects[0] if objects else {"kind": kind, "apiVersion": "v1"}
    metadata = {"resourceVersion": str(version), "continue": more}
    return {**first, "kind": f"{first['kind']}List", "metadata": metadata, "items": list(objects)}


def namespace(name: str = NAMESPACE, *, uid: str = "", phase: str = "Active") -> dict[str, Any]:
    metadata = {"name": name, "uid": uid or f"uid-of-{name}", "resourceVersion": "3"}
    return {"kind": "Namespace", "apiVersion": "v1", "metadata": metadata, "status": {"phase": phase}}


def going(obj: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """The object as the response to a DELETE has it."""
    when = {"deletionTimestamp": "2026-11-24T22:56:24Z", "deletionGracePeriodSeconds": 0}
    return {**obj, "metadata": {**obj["metadata"], **when, **metadata}}


# ---- the recordings of a real API server


FOLDER = Path(__file__).parent.parent / "recordings"


def recording(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.decode((FOLDER / f"{name}.json").read_text())
    return document


def all_recordings() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def asked(document: dict[str, Any]) -> KubeRequest:
    """The call that was recorded."""
    method, path = document["request"]["method"], document["request"]["path"].partition("?")[0]
    if path == "/version":
        return KubeRequest(verb="get", resource="version")
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = rest[1] if rest[0] == "namespaces" and len(rest) > 2 else ""
    resource, *more = rest[2:] if namespace else rest
    body = document["request"].get("body") or {}
    reading = "get" if more else "list"
    verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": reading}[method]
    return KubeRequest(
        verb=verb,
        resource="/".join([resource, *more[1:]]),
        namespace=namespace,
        name=more[0] if more else (body.get("metadata") or {}).get("name", ""),
        uid=(body.get("preconditions") or {}).get("uid", "") if verb == "delete" else "",
    )


def answered(document: dict[str, Any]) -> KubeResponse:
    """The answer that was recorded."""
    body, code = document["response"]["body"], document["response"]["status"]
    if isinstance(body, str):
        return KubeResponse(status=code, body=body.encode(), content_type="text/plain")
    return KubeResponse(status=code, body=json.encode(body), content_type="application/json")


# ---- a mirror that follows the scripted server


@asynccontextmanager
async def mirroring(cluster: Cluster) -> AsyncIterator[tuple[Mirror, list[Changed | Relisted]]]:
    mirror = Mirror(cluster)
    changes: list[Changed | Relisted] = []
    mirror.subscribe(changes.append)
    task = asyncio.create_task(mirror.run())
    try:
        await asyncio.wait_for(mirror.wait_synced(), 30)
        yield mirror, changes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def seen(mirror: Mirror, name: str, version: int) -> PodState:
    await eventually(lambda: name in mirror.pods and mirror.pods[name].resource_version == str(version))
    return mirror.pods[name]


def of_pods(changes: list[Changed | Relisted]) -> list[Changed]:
    return [one for one in changes if isinstance(one, Changed) and isinstance(one.state, PodState)]


def changes_of_pods(changes: list[Changed | Relisted]) -> list[tuple[str, str]]:
    """What the mirror reported of pods."""
    return [
        (one.state.name, "came" if one.before is None else "went" if one.after is None else "changed")
        for one in of_pods(changes)
    ]


def then(*events: tuple[str, dict[str, Any]], stay: bool = True) -> Callable[[Stream], Any]:
    """A watch that sends these events, and then stays open (or is ended by the server)."""

    async def script(stream: Stream) -> None:
        for kind, obj in events:
            await stream.send(kind, obj)
        if stay:
            await asyncio.sleep(60)

    return script

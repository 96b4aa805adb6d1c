"""Sockets on loopback for the node ports of services whose pod is ready: a short HTTP answer, or an echo for UDP.

A port whose socket somebody else holds on this machine is left out; the cluster goes on without it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from stackd.embedded.resources import PODS, SERVICES, Json
from stackd.embedded.store import Key, ObjectChange, ObjectStore, Record

_LOG = logging.getLogger(__name__)
_BACKLOG = 64


@dataclass(frozen=True, slots=True)
class NodePortListener:
    """A number and a protocol that must answer, and what stands behind it."""

    number: int
    protocol: str
    target: str


class NodePortListeners:
    """Keeps the open sockets in step with services and pods."""

    def __init__(self, store: ObjectStore, host: str) -> None:
        self._store = store
        self._host = host
        self._open: dict[tuple[int, str], tuple[NodePortListener, asyncio.BaseTransport | asyncio.Server]] = {}
        self._stale: dict[Key, None] = {}
        self._doors: dict[Key, set[tuple[int, str]]] = {}
        self._by_selector: dict[tuple[str, str], dict[Key, None]] = {}
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        store.observe(self._follow)

    def start(self) -> None:
        """Begin to serve, with what the store holds already."""
        for service in self._store.of(SERVICES).records.values():
            self._index(service, None)
            self._mark(service.key)
        self._task = asyncio.create_task(self._work(), name="embedded node ports")

    async def stop(self) -> None:
        """Close every socket."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, handle in self._open.values():
            handle.close()
        self._open.clear()

    @property
    def numbers(self) -> frozenset[int]:
        """The ports that answer now."""
        return frozenset(number for number, _ in self._open)

    def _follow(self, change: ObjectChange) -> None:
        if change.after.resource is SERVICES:
            self._index(None if change.type == "DELETED" else change.after, change.before)
            self._mark(change.after.key)
        elif change.after.resource is PODS and (
            _is_ready(change.after) or (change.before and _is_ready(change.before))
        ):
            namespace = change.after.key[0]
            for label in (change.after.obj["metadata"].get("labels") or {}).items():
                for key in self._by_selector.get(label, ()):
                    if key[0] == namespace:
                        self._mark(key)

    def _index(self, after: Record | None, before: Record | None) -> None:
        if before is not None and (label := _anchor(before.obj)):
            self._by_selector.get(label, {}).pop(before.key, None)
        if after is not None and (label := _anchor(after.obj)):
            self._by_selector.setdefault(label, {})[after.key] = None

    def _mark(self, key: Key) -> None:
        self._stale[key] = None
        self._woken.set()

    async def _work(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._stale:
                key = next(iter(self._stale))
                del self._stale[key]
                await self._reconcile(key)

    async def _reconcile(self, key: Key) -> None:
        wanted = {(listener.number, listener.protocol): listener for listener in self._wanted(key)}
        held = self._doors.get(key, set())
        for place in held - wanted.keys():
            self._open.pop(place)[1].close()
        kept = held & wanted.keys()
        for place in kept:
            self._open[place] = (wanted[place], self._open[place][1])
        for place, listener in wanted.items():
            if place not in kept and place not in self._open and await self._listen(listener):
                kept.add(place)
        self._doors[key] = kept
        if not kept:
            del self._doors[key]

    def _wanted(self, key: Key) -> list[NodePortListener]:
        service = self._store.of(SERVICES).records.get(key)
        if service is None or not (selector := service.obj["spec"].get("selector")):
            return []
        pods = self._store.of(PODS).labelled(key[0], selector.items())
        pod = next((pod for pod in pods if _is_ready(pod)), None)
        if pod is None:
            return []
        return [
            NodePortListener(
                port["nodePort"], port["protocol"], f"{pod.key[1]} (service {key[1]}, port {port['port']})"
            )
            for port in service.obj["spec"].get("ports", ())
            if port.get("nodePort") and port["protocol"] in {"TCP", "UDP"}
        ]

    async def _listen(self, listener: NodePortListener) -> bool:
        loop = asyncio.get_running_loop()
        kind = socket.SOCK_STREAM if listener.protocol == "TCP" else socket.SOCK_DGRAM
        sock = socket.socket(socket.AF_INET, kind)
        try:
            sock.setblocking(False)
            if listener.protocol == "TCP":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self._host, listener.number))
        except OSError as exc:
            sock.close()
            _LOG.warning("node port %d/%s does not answer: %s", listener.number, listener.protocol, exc.strerror)
            return False
        handle: asyncio.BaseTransport | asyncio.Server
        if listener.protocol == "TCP":
            handle = await loop.create_server(
                lambda: _HttpAnswer(lambda: self._open[listener.number, listener.protocol][0]),
                sock=sock,
                backlog=_BACKLOG,
            )
        else:
            handle, _ = await loop.create_datagram_endpoint(_Echo, sock=sock)
        self._open[listener.number, listener.protocol] = (listener, handle)
        return True


class _HttpAnswer(asyncio.Protocol):
    """Answers whatever comes with one page, and closes."""

    def __init__(self, listener: Callable[[], NodePortListener]) -> None:
        self._door = listener
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self._transport is None or b"\n" not in data:
            return
        listener = self._door()
        body = f"This is {listener.target}, answering on node port {listener.number}.\n".encode()
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        self._transport.close()


class _Echo(asyncio.DatagramProtocol):
    """Sends every datagram back."""

    def __init__(self) -> None:
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is no subclass

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None:
            self._transport.sendto(data, addr)


def _is_ready(pod: Record) -> bool:
    conditions = pod.obj["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _anchor(service: Json) -> tuple[str, str] | None:
    """One label that every pod of the service carries; enough to find the service by."""
    selector = service["spec"].get("selector")
    return next(iter(selector.items())) if selector else None

"""Node ports: the allocation of ports (and cluster IPs), and the sockets on loopback that answer on them.

A service whose pod is ready answers with a short page over TCP. If another program on this machine already
uses a port, the cluster does not listen on it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import cast

from stackd.embedded.nodes import is_ready
from stackd.embedded.request import labels_of
from stackd.embedded.resources import PODS, SERVICES, Json
from stackd.embedded.status import StatusCause, StatusError, invalid, wrong
from stackd.embedded.store import Key, ObjectChange, ObjectStore, Record

_OTHERS = "(others)"
_HEADLESS = "None"


class PortAllocator:
    """The node ports and cluster IPs of a cluster. Follows the store's services."""

    def __init__(self, store: ObjectStore, port_range: tuple[int, int], release_delay: float = 0.0) -> None:
        self._release_delay = release_delay
        self._low, self._high = port_range
        self._holders: dict[int, str] = {}
        self._addresses: set[str] = set()
        self._random = random.Random()
        for record in store.of(SERVICES).records.values():
            self._note(record.obj["spec"], record.uid)
        store.observe(self._follow)

    @property
    def free(self) -> int:
        """How many node ports are free."""
        return self._high - self._low + 1 - len(self._holders)

    def is_free(self, port: int) -> bool:
        """Whether nobody holds the port."""
        return port not in self._holders

    def take(self, port: int) -> None:
        """Mark the port as held by an invisible Service."""
        self._holders[port] = _OTHERS

    def give_back(self, port: int) -> None:
        """Undo `take`."""
        if self._holders.get(port) == _OTHERS:
            del self._holders[port]

    def assign(self, service: Json, *, held: frozenset[int] = frozenset(), dry_run: bool = False) -> None:
        """Fill in ports and addresses; they are held only once the service is stored. Raises StatusError 422 or 500.

        `held` are the ports that this service already has. As in Kubernetes 1.36, a dry run does not check the range.
        """
        spec = service["spec"]
        if spec["type"] in {"NodePort", "LoadBalancer"}:
            self._assign_ports(service["metadata"].get("name", ""), spec, held, dry_run=dry_run)
        if spec["type"] != "ExternalName" and not spec.get("clusterIP"):
            address = self._free_address()
            spec |= {"clusterIP": address, "clusterIPs": [address]}
        elif spec.get("clusterIP"):
            spec["clusterIPs"] = [spec["clusterIP"]]

    def _assign_ports(self, name: str, spec: Json, held: frozenset[int], *, dry_run: bool) -> None:
        chosen: set[int] = set()
        by_port: dict[int, int] = {}
        for position, port in enumerate(spec.get("ports", ())):
            number = port.get("nodePort", 0) or by_port.get(port.get("port", 0), 0)
            number = number or _asked_for(port, spec["ports"])
            unchecked = dry_run and not self._low <= number <= self._high
            if number and number != by_port.get(port.get("port", 0)) and not unchecked:
                self._check(name, position, number, chosen, held)
            number = number or self._free_port(chosen)
            port["nodePort"] = by_port[port.get("port", 0)] = number
            chosen.add(number)

    def _check(self, name: str, position: int, number: int, chosen: set[int], held: frozenset[int]) -> None:
        problem = None
        if not self._low <= number <= self._high:
            span = f"{self._low}-{self._high}"
            problem = f"provided port is not in the valid range. The range of valid ports is {span}"
        elif number in chosen or (number in self._holders and number not in held):
            problem = "provided port is already allocated"
        if problem:
            cause: StatusCause = wrong(f"spec.ports[{position}].nodePort", number, problem)
            raise invalid(SERVICES, name, [cause])

    def _free_port(self, chosen: set[int]) -> int:
        if self.free <= len(chosen):
            message = "Internal error occurred: failed to allocate a nodePort: range is full"
            raise StatusError(500, "InternalError", message)
        while True:
            port = self._random.randint(self._low, self._high)
            if port not in self._holders and port not in chosen:
                return port

    def _free_address(self) -> str:
        while True:
            address = f"10.96.{self._random.randint(1, 255)}.{self._random.randint(1, 254)}"
            if address not in self._addresses:
                return address

    def _follow(self, change: ObjectChange) -> None:
        if change.after.resource is SERVICES:
            if change.type == "DELETED" and self._release_delay:
                deleted = change.after
                loop = asyncio.get_running_loop()
                loop.call_later(self._release_delay, self._release, deleted.obj["spec"], deleted.uid)
            elif change.before is not None:
                self._release(change.before.obj["spec"], change.before.uid)
            if change.type != "DELETED":
                self._note(change.after.obj["spec"], change.after.uid)

    def _note(self, spec: Json, uid: str) -> None:
        for number in node_ports(spec):
            self._holders[number] = uid
        if spec.get("clusterIP", _HEADLESS) != _HEADLESS:
            self._addresses.add(spec["clusterIP"])

    def _release(self, spec: Json, uid: str) -> None:
        for number in node_ports(spec):
            if self._holders.get(number) == uid:
                del self._holders[number]
        self._addresses.discard(spec.get("clusterIP", _HEADLESS))


def node_ports(spec: Json) -> frozenset[int]:
    """The node ports of a service's spec."""
    return frozenset(port["nodePort"] for port in spec.get("ports", ()) if port.get("nodePort"))


def _asked_for(port: Json, ports: list[Json]) -> int:
    same = (other.get("nodePort", 0) for other in ports if other.get("port") == port.get("port"))
    return next((number for number in same if number), 0)


_LOG = logging.getLogger(__name__)
_BACKLOG = 64


class NodePortListeners:
    """Opens and closes sockets as services and pods change."""

    def __init__(self, store: ObjectStore, host: str) -> None:
        self._store = store
        self._host = host
        self._open: dict[int, asyncio.Server] = {}
        self._texts: dict[int, str] = {}
        self._stale: dict[Key, None] = {}
        self._held: dict[Key, set[int]] = {}
        self._by_selector: dict[tuple[str, str], dict[Key, None]] = {}
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        store.observe(self._follow)

    def start(self) -> None:
        """Start to listen, beginning with the services that the store already holds."""
        for service in self._store.of(SERVICES).records.values():
            self._index(service, None)
            self._mark(service.key)
        self._task = asyncio.create_task(self._work(), name="embedded node ports")

    async def stop(self) -> None:
        """Close every socket."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for server in self._open.values():
            server.close()
        self._open.clear()

    def _follow(self, change: ObjectChange) -> None:
        after, before = change.after, change.before
        if after.resource is SERVICES:
            self._index(None if change.type == "DELETED" else after, before)
            self._mark(after.key)
        elif after.resource is PODS and (is_ready(after.obj) or (before and is_ready(before.obj))):
            labels = {label for pod in (after, before) if pod for label in labels_of(pod.obj).items()}
            for key in [key for label in labels for key in self._by_selector.get(label, ())]:
                if key[0] == after.key[0]:
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
        wanted = self._wanted(key)
        held = self._held.pop(key, set())
        for port in held - wanted.keys():
            self._open.pop(port).close()
        self._texts |= wanted
        kept = {port for port in wanted if port in held or (port not in self._open and await self._listen(port))}
        if kept:
            self._held[key] = kept

    def _wanted(self, key: Key) -> dict[int, str]:
        """The ports on which the service answers, and its text."""
        service = self._store.of(SERVICES).records.get(key)
        if service is None or (pod := ready_pod(self._store, service)) is None:
            return {}
        ports = [port for port in service.obj["spec"].get("ports", ()) if port["protocol"] == "TCP"]
        texts = {port.get("nodePort"): f"{pod.key[1]} (service {key[1]}, port {port['port']})" for port in ports}
        return {number: f"{text}, answering on node port {number}" for number, text in texts.items() if number}

    async def _listen(self, port: int) -> bool:
        loop = asyncio.get_running_loop()
        try:
            self._open[port] = await loop.create_server(
                lambda: HttpAnswer(lambda _: ("200 OK", f"This is {self._texts[port]}.\n")),
                self._host,
                port,
                backlog=_BACKLOG,
            )
        except OSError as exc:
            _LOG.warning("node port %d/TCP does not answer: %s", port, exc.strerror)
            return False
        return True


def ready_pod(store: ObjectStore, service: Record) -> Record | None:
    """A ready pod that the service selects; None if there is none."""
    selector = service.obj["spec"].get("selector")
    pods = store.of(PODS).labelled(service.key[0], selector.items()) if selector else ()
    return next((pod for pod in pods if is_ready(pod.obj)), None)


class HttpAnswer(asyncio.Protocol):
    """Answers one request, to the host that it names, with a status line and a page, and closes."""

    def __init__(self, answer: Callable[[str], tuple[str, str]]) -> None:
        self._answer = answer
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's class is not a subclass

    def data_received(self, data: bytes) -> None:
        """Answer once the head of the request is complete."""
        self._received += data
        head, end, _ = self._received.partition(b"\r\n\r\n")
        if self._transport is None or not end:
            return
        lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n"))
        host = next((value.strip().lower() for name, _, value in lines if name.lower() == "host"), "")
        status, page = self._answer(host.partition(":")[0])
        fields = f"Content-Type: text/plain\r\nContent-Length: {len(page)}\r\nConnection: close"
        self._transport.write(f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n{page}".encode())
        self._transport.close()


def _anchor(service: Json) -> tuple[str, str] | None:
    """One label of the service's selector, under which the service is indexed; None without a selector."""
    selector = service["spec"].get("selector")
    return next(iter(selector.items())) if selector else None

"""What goes wrong, and how it ends: with the process, the cluster, the network, the disk and the clock.

Owns: that everything it has begun can be ended at once (``lift``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Any

from stackd.embedded.resources import NODES, PODS
from stackd.embedded.status import StatusError
from tests.faults.wire import VERBS as OF_THE_WIRE
from tests.faults.wire import Wire
from tests.faults.world import World

NODE_NAMES = ("embedded-worker", "embedded-worker2")


class Troubles:
    """The troubles of one world, by their names in a plan."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._faults = world.cluster.faults
        self._random = Random(seed)
        self._taken: set[int] = set()
        self._late = 0.0
        self.ever_taken: set[int] = set()
        self._wire = Wire(world, self._faults)
        self._faults.seed(seed)

    async def do(self, what: str, how: dict[str, Any]) -> None:
        """Begin a trouble, and end it when its time is over."""
        self._world.counts["faults"] += 1
        self._world.counts[f"fault {what}"] += 1
        self._world.note(f"trouble: {what} {how}")
        await self._verbs()[what](**how)

    @staticmethod
    def names() -> frozenset[str]:
        """The names of all troubles."""
        return frozenset(_VERBS) | frozenset(OF_THE_WIRE)

    async def lift(self) -> None:
        """End all troubles."""
        world = self._world
        self._wire.lift()
        self._faults.clear()
        await self._faults.listen()
        await asyncio.sleep(self._late)  # calls that were given up may still take effect
        self._late = 0.0
        self.give_back()
        for name in NODE_NAMES:
            self._bring_back(name)
            self._faults.cordon(name, on=False)
        world.disk.unlock()
        world.disk.empty()
        for machine in world.machines:
            if machine.processes:
                machine.disk.mend(machine.process.pid)

    def _verbs(self) -> dict[str, Callable[..., Awaitable[None]]]:
        return {what: getattr(self, name) for what, name in _VERBS.items()} | {
            what: getattr(self._wire, what) for what in OF_THE_WIRE
        }

    def is_others(self, port: int) -> bool:
        """Whether somebody else has ever held the port."""
        return port in self.ever_taken or port in self._wire.ever_taken

    # ---- the process

    async def kill(self, pause: float) -> None:
        """``kill -9``."""
        self._world.kill(pause)

    async def terminate(self, pause: float) -> None:
        """SIGTERM."""
        if self._world.up.is_set() and not self._world.expect_stop:
            self._world.stop(pause)

    # ---- single requests

    async def status(self, verb: str, resource: str, count: int, code: int, seconds: float = 0.0) -> None:
        """Answer with an error instead of doing the work."""
        self._faults.add_fault(action="status", verb=verb, resource=resource, count=count, code=code, seconds=seconds)

    async def lost_reply(self, verb: str, resource: str, count: int) -> None:
        """Do the work and lose the response."""
        self._faults.add_fault(action="lost_reply", verb=verb, resource=resource, count=count)

    async def cut(self, verb: str, resource: str, count: int) -> None:
        """Cut the connection before the work."""
        self._faults.add_fault(action="cut", verb=verb, resource=resource, count=count)

    async def hang(self, verb: str, resource: str, count: int) -> None:
        """Never respond."""
        self._faults.add_fault(action="hang", verb=verb, resource=resource, count=count)

    async def late(self, verb: str, resource: str, count: int, seconds: float) -> None:
        """Cut the connection, and do the work some time later."""
        self._late = max(self._late, seconds)
        self._faults.add_fault(action="late", verb=verb, resource=resource, count=count, seconds=seconds)

    async def page(self, verb: str, resource: str, count: int, code: int, done: bool) -> None:
        """A load balancer sends a page instead of doing the work, or after it."""
        fault = {"action": "page", "verb": verb, "resource": resource, "count": count, "code": code, "done": done}
        self._faults.add_fault(**fault)

    async def spoil(self, verb: str, resource: str, count: int, how: str) -> None:
        """Do the work; the response is cut in half, empty, or lacks its most important fields."""
        fields = ("metadata", "items", "kind") if how == "strip" else ()
        self._faults.add_fault(action=how, verb=verb, resource=resource, count=count, fields=fields)

    async def latency(self, verb: str, resource: str, count: int, seconds: float) -> None:
        """Respond slowly."""
        self._faults.add_fault(action="latency", verb=verb, resource=resource, count=count, seconds=seconds)

    # ---- the whole API server

    async def refuse(self, seconds: float) -> None:
        """The API server is down."""
        await self._faults.refuse()
        await asyncio.sleep(seconds)
        await self._faults.listen()

    async def pause(self, seconds: float) -> None:
        """The API server accepts connections and answers nothing."""
        self._faults.pause()
        await asyncio.sleep(seconds)
        self._faults.resume()

    async def drop_watches(self) -> None:
        """All watches end."""
        self._faults.drop_watches()

    async def compact(self) -> None:
        """All watches end, and cannot be resumed: 410."""
        self._faults.compact()
        self._faults.drop_watches()

    async def malformed(self) -> None:
        """Send a line that is no event."""
        self._faults.malformed()

    async def freeze_watches(self, seconds: float) -> None:
        """Watches stay connected and send nothing; then they are cut."""
        self._faults.freeze_watches()
        await asyncio.sleep(seconds)
        self._faults.drop_watches()

    # ---- what is in the cluster

    async def take_ports(self, share: float, seconds: float) -> None:
        """Others take node ports of stackd's range that are free in the cluster now."""
        settings = self._world.settings
        low, high = int(settings["STACKD_STACKS__NODE_PORT_MIN"]), int(settings["STACKD_STACKS__NODE_PORT_MAX"])
        ports = [port for port in range(low, high + 1) if self._random.random() < share]
        self.take_these(port for port in ports if self._world.cluster.ports.is_free(port))
        await asyncio.sleep(seconds)
        self.give_back()

    def take_these(self, ports: Iterable[int]) -> None:
        """Others take these ports."""
        for port in ports:
            self._faults.take_port(port)
            self._taken.add(port)
        self.ever_taken |= self._taken

    def give_back(self) -> None:
        """Others release all their ports."""
        for port in self._taken:
            self._faults.give_back_port(port)
        self._taken.clear()

    async def remove_node(self, node: int, seconds: float) -> None:
        """A node is deleted, and returns under its name."""
        name = NODE_NAMES[node]
        try:
            self._faults.remove_node(name)
        except StatusError:
            return
        for pod in self._world.cluster.store.of(PODS).records.values():
            if pod.obj["spec"].get("nodeName") == name:
                self._world.ledger.touched.add(pod.key[1])
        await asyncio.sleep(seconds)
        self._bring_back(name)

    async def cordon(self, node: int, seconds: float) -> None:
        """A node takes no new pods for a while."""
        name = NODE_NAMES[node]
        try:
            self._faults.cordon(name)
        except StatusError:
            return
        await asyncio.sleep(seconds)
        if ("", name) in self._world.cluster.store.of(NODES).records:
            self._faults.cordon(name, on=False)

    def _bring_back(self, name: str) -> None:
        if ("", name) not in self._world.cluster.store.of(NODES).records:
            self._faults.add_node(name=name)

    # ---- the machine

    async def full_disk(self, seconds: float) -> None:
        """Fill the disk to its last byte."""
        if not self._world.disk.small:
            return
        self._world.disk.fill()
        await asyncio.sleep(seconds)
        self._world.disk.empty()

    async def write_error(self, seconds: float) -> None:
        """The daemon cannot write to any file."""
        pid = self._world.process.pid
        self._world.disk.fail_writes(pid)
        await asyncio.sleep(seconds)
        self._world.disk.mend(pid)

    async def lock(self, seconds: float) -> None:
        """Somebody else has a transaction open on the file."""
        self._world.disk.lock(self._world.file.path)
        await asyncio.sleep(seconds)
        self._world.disk.unlock()

    async def clock(self, seconds: float) -> None:
        """The time changes at once, for everybody."""
        self._world.skew.jump(seconds)
        if seconds < 0:
            self._world.ledger.set_back(self._world.skew.now())


_VERBS = {
    "kill": "kill",
    "terminate": "terminate",
    "status": "status",
    "overload": "status",
    "conflict": "status",
    "forbid": "status",
    "lost_reply": "lost_reply",
    "cut": "cut",
    "hang": "hang",
    "late": "late",
    "latency": "latency",
    "page": "page",
    "spoil": "spoil",
    "refuse": "refuse",
    "pause": "pause",
    "drop_watches": "drop_watches",
    "compact": "compact",
    "malformed": "malformed",
    "freeze_watches": "freeze_watches",
    "take_ports": "take_ports",
    "remove_node": "remove_node",
    "cordon": "cordon",
    "full_disk": "full_disk",
    "write_error": "write_error",
    "lock": "lock",
    "clock": "clock",
}

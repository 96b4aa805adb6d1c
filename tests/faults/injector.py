"""What goes wrong, and how it ends: with the process, the cluster and the network.

Owns: that everything it has begun can be ended at once (``lift``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random
from typing import Any

from stackd.embedded.resources import NODES, PODS, StatusError
from tests.faults.plan import FAULTS_OF_REQUESTS
from tests.faults.world import NAMESPACE, RESOURCES, World

NODE_NAMES = ("embedded-worker", "embedded-worker2")
WAITS, WAIT_SECONDS = 50, 0.02


class Injector:
    """The faults of one world, by their names in a plan; ``ever_taken``: the ports that others have had."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._faults = world.cluster.faults
        self._random = Random(seed)
        self._taken: set[int] = set()
        self.ever_taken: set[int] = set()
        self._faults.seed(seed)

    async def do(self, what: str, how: dict[str, Any]) -> None:
        """Begin a fault, and end it when its time is over."""
        self._world.counts["faults"] += 1
        self._world.counts[f"fault {what}"] += 1
        self._world.note(f"fault: {what} {how}")
        if what in FAULTS_OF_REQUESTS:
            self.request(**how)
        else:
            await getattr(self, what)(**how)

    def request(self, **fault: Any) -> None:
        if fault["action"] == "strip":
            fault["fields"] = ("metadata", "items", "kind")
        self._faults.add_fault(**fault)

    async def lift(self) -> None:
        self._faults.clear()
        await self._faults.listen()
        self._give_back()
        for name in NODE_NAMES:
            self._bring_back(name)
            self._faults.cordon(name, on=False)

    # ---- the process

    async def kill(self, pause: float) -> None:
        self._world.machine.kill(pause)

    async def terminate(self) -> None:
        if self._world.machine.up.is_set() and not self._world.machine.expect_stop:
            self._world.machine.stop()

    # ---- the entire API server

    async def refuse(self, seconds: float) -> None:
        await self._faults.refuse()
        await asyncio.sleep(seconds)
        await self._faults.listen()

    async def pause(self, seconds: float) -> None:
        """It accepts connections and answers nothing."""
        self._faults.pause()
        await asyncio.sleep(seconds)
        self._faults.resume()

    async def drop_watches(self) -> None:
        self._faults.drop_watches()

    async def compact(self) -> None:
        """All watches end, and cannot be resumed: 410."""
        self._faults.compact()
        self._faults.drop_watches()

    async def malformed(self) -> None:
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
        self.take_these(filter(self._world.cluster.ports.is_free, ports))
        await asyncio.sleep(seconds)
        self._give_back()

    def take_these(self, ports: Iterable[int]) -> None:
        for port in ports:
            self._faults.take_port(port)
            self._taken.add(port)
        self.ever_taken |= self._taken

    def _give_back(self) -> None:
        while self._taken:
            self._faults.give_back_port(self._taken.pop())

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
        name = NODE_NAMES[node]
        if self._exists(name):
            self._faults.cordon(name)
            await asyncio.sleep(seconds)
            if self._exists(name):
                self._faults.cordon(name, on=False)

    def _exists(self, node: str) -> bool:
        return ("", node) in self._world.cluster.store.of(NODES).records

    def _bring_back(self, node: str) -> None:
        if not self._exists(node):
            self._faults.add_node(name=node)

    # ---- connections

    async def silence(self) -> None:
        """A NAT silently forgets all open connections; new ones work."""
        self._faults.silence()

    async def mute(self, resource: str, seconds: float) -> None:
        """Watches, open and new ones, send nothing."""
        self._faults.add_fault(action="mute", verb="watch", resource=resource)
        self._faults.freeze_watches()
        await asyncio.sleep(seconds)
        self._faults.end("mute")

    # ---- old answers

    async def old_list(self, resource: str, seconds: float) -> None:
        """The next lists are ``seconds`` old."""
        self._faults.remember()
        await asyncio.sleep(seconds)
        self._faults.add_fault(action="stale", verb="list", resource=resource, count=2)
        await self.compact()

    async def old_deletion(self, pick: float, kind: str, seconds: float, *, old: bool) -> None:
        """Watches report an existing object as deleted: as it was ``seconds`` ago, or as it is."""
        name = await self._name(pick, kind)
        record = self._world.cluster.store.of(RESOURCES[kind]).records.get((NAMESPACE, name))
        if old and record is not None:
            obj = {"kind": record.resource.kind, "apiVersion": "v1"} | record.obj
            await asyncio.sleep(seconds)
            self._faults.replay(kind, "DELETED", obj)
        else:
            self._faults.replay_deletion(kind, name)

    async def _name(self, pick: float, kind: str) -> str:
        """An object of a stack, as soon as there is one; "" if there is none."""
        for _ in range(WAITS):
            there = self._world.ours(kind)
            ids = self._world.ledger.by_id()
            names = [name for each in ids if (name := each if kind == "pods" else f"svc-{each}") in there]
            if names:
                return names[min(int(pick * len(names)), len(names) - 1)]
            await asyncio.sleep(WAIT_SECONDS)
        return ""

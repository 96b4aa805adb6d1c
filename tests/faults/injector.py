"""What goes wrong, and how it ends: with the process, the cluster, the network, the disk and the clock.

Owns: that everything it has begun can be ended at once (``lift``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from random import Random
from typing import Any

from stackd.embedded.nodeports import node_ports
from stackd.embedded.resources import NODES, PODS, SERVICES, StatusError
from tests.faults.plan import FAULTS_OF_REQUESTS
from tests.faults.world import NAMESPACE, OURS, RESOURCES, World

NODE_NAMES = ("embedded-worker", "embedded-worker2")
NO_LABELS = {"metadata": {"labels": dict.fromkeys([*OURS, "stackd.io/stack"])}}
NO_ANNOTATIONS = {"metadata": {"annotations": None}}
WAITS, WAIT_SECONDS = 50, 0.02
FREE_PORTS = range(32011, 32400)
"""Node ports that no stack has; Services are moved to them."""


class Injector:
    """The faults of one world, by their names in a plan; ``ever_taken``: the ports that others have had."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._faults = world.cluster.faults
        self._random = Random(seed)
        self._taken: set[int] = set()
        self._delay = 0.0
        self.ever_taken: set[int] = set()
        self._wrong = 0
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
        if fault["action"] == "late":
            self._delay = max(self._delay, fault["seconds"])
        if fault["action"] == "strip":
            fault["fields"] = ("metadata", "items", "kind")
        self._faults.add_fault(**fault)

    async def lift(self) -> None:
        world = self._world
        world.skew.set_wrong(0.0)
        if world.front is not None:
            world.front.share = 0.0
        self._faults.clear()
        await self._faults.listen()
        await asyncio.sleep(self._delay)  # calls that were given up may still take effect
        self._delay = 0.0
        self._give_back()
        for name in NODE_NAMES:
            self._bring_back(name)
            self._faults.cordon(name, on=False)
        world.machine.disk.unlock()
        world.machine.disk.empty()
        for machine in world.machines:
            if machine.processes:
                machine.disk.limit_writes(machine.process.pid, fail=False)

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

    # ---- the machine

    async def full_disk(self, seconds: float) -> None:
        disk = self._world.machine.disk
        if disk.small:
            disk.fill()
            await asyncio.sleep(seconds)
            disk.empty()

    async def write_error(self, seconds: float) -> None:
        """The daemon cannot write to any file."""
        disk, pid = self._world.machine.disk, self._world.machine.process.pid
        disk.limit_writes(pid, fail=True)
        await asyncio.sleep(seconds)
        disk.limit_writes(pid, fail=False)

    async def lock(self, seconds: float) -> None:
        """Somebody else has a transaction open on the file."""
        disk = self._world.machine.disk
        disk.lock(self._world.file.path)
        await asyncio.sleep(seconds)
        disk.unlock()

    async def clock(self, seconds: float) -> None:
        """The time changes at once, for everybody."""
        self._world.skew.jump(seconds)
        if seconds < 0:
            self._world.ledger.set_back(self._world.skew.now())

    async def wrong_clock(self, by: float, seconds: float) -> None:
        """The machine's clock is wrong for a while; the API server's is right."""
        mine = self._wrong = self._wrong + 1
        self._world.skew.set_wrong(by)
        await asyncio.sleep(seconds)
        if mine == self._wrong:
            self._world.skew.set_wrong(0.0)

    async def wrong_start(self, by: float, seconds: float) -> None:
        """A daemon dies, and the next one starts with a wrong clock."""
        self._world.machine.kill()
        await self.wrong_clock(by, 1.0 + seconds)

    async def clock_step(self, by: float) -> None:
        """The machine's clock is set by less than the tolerated difference from the API server's."""
        self._world.skew.set_wrong(by)

    # ---- connections

    async def silence(self) -> None:
        """A NAT silently forgets all open connections; new ones work."""
        self._faults.silence()

    async def reset_all(self) -> None:
        """A load balancer resets all connections: idle ones, those of watches, and those of running requests."""
        if self._world.front is not None:
            self._world.front.reset_all()

    async def resets(self, share: float, seconds: float) -> None:
        """This share of what is sent in either direction is lost, and its connection reset."""
        if self._world.front is not None:
            self._world.front.share = share
            await asyncio.sleep(seconds)
            self._world.front.share = 0.0

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

    # ---- other hands

    async def strip(self, pick: float, kind: str, *, annotations: bool) -> None:
        """Somebody removes stackd's labels or annotations from an object."""
        self._change(kind, await self._name(pick, kind), NO_ANNOTATIONS if annotations else NO_LABELS)

    async def strip_policy(self, verb: str, kind: str, seconds: float) -> None:
        """An admission policy removes stackd's labels from what is created or changed."""
        await self._admit(verb, kind, NO_LABELS, seconds)

    async def drift(self, pick: float, change: str) -> None:
        name = await self._name(pick, "services")
        record = self._world.cluster.store.of(SERVICES).records.get((NAMESPACE, name))
        if record is not None and self._world.made_by_us(record.obj):
            self._world.drifted.add(record.uid)
            self._change("services", name, {"spec": self._changed(record.obj["spec"]["ports"], change)})

    async def drift_policy(self, change: str, seconds: float) -> None:
        """An admission policy changes the Services that are created."""
        self._world.drifting = True
        ports = [{"name": "p-80-tcp", "protocol": "TCP", "port": 80, "targetPort": 80}]
        await self._admit("create", "services", {"spec": self._changed(ports, change)}, seconds)

    async def _admit(self, verb: str, kind: str, patch: dict[str, Any], seconds: float) -> None:
        self._faults.add_fault(action="admit", verb=verb, resource=kind, body=json.dumps(patch))
        await asyncio.sleep(seconds)
        self._faults.end("admit")

    def _changed(self, ports: list[dict[str, Any]], change: str) -> dict[str, Any]:
        if change == "selector":
            return {"selector": {"stackd.io/stack": "nobody"}}
        if change == "type":
            bare = [{key: value for key, value in port.items() if key != "nodePort"} for port in ports]
            return {"type": "ClusterIP", "ports": bare}
        free = filter(self._world.cluster.ports.is_free, FREE_PORTS)
        moved = [port | {"nodePort": next(free)} for port in ports]
        self.ever_taken |= node_ports({"ports": moved})
        return {"ports": moved}

    def _change(self, kind: str, name: str, patch: dict[str, Any]) -> None:
        try:
            self._faults.change(f"/api/v1/namespaces/{NAMESPACE}/{kind}/{name}", patch)
        except StatusError:
            return
        self._world.note(f"{name} was changed: {patch}")

    async def _name(self, pick: float, kind: str) -> str:
        """An object of a stack, as soon as there is one, not one whose name somebody else's pod has; "" if there is none."""
        ledger = self._world.ledger
        for _ in range(WAITS):
            there = self._world.ours(kind)
            ids = (stack_id for stack_id in ledger.by_id() if stack_id not in ledger.usurped)
            names = [name for each in ids if (name := each if kind == "pods" else f"svc-{each}") in there]
            if names:
                return names[min(int(pick * len(names)), len(names) - 1)]
            await asyncio.sleep(WAIT_SECONDS)
        return ""

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
from tests.faults.world import NAMESPACE, World

ALIASES = {"overload": "status", "conflict": "status", "forbid": "status"}
NODE_NAMES = ("embedded-worker", "embedded-worker2")


OURS = ("app.kubernetes.io/managed-by", "stackd.io/instance", "stackd.io/stack")
NO_LABELS = {"metadata": {"labels": dict.fromkeys(OURS)}}
NO_ANNOTATIONS = {"metadata": {"annotations": None}}
RETRY_AFTER = 90.0
WAITS, WAIT_SECONDS = 50, 0.02
FIRST_PORT, LAST_PORT = 32011, 32400
"""Node ports that no stack has; Services are moved to them."""


class Troubles:
    """The troubles of one world, by their names in a plan."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._faults = world.cluster.faults
        self._random = Random(seed)
        self._taken: set[int] = set()
        self._late = 0.0
        self.ever_taken: set[int] = set()
        self._wrong = 0
        self._faults.seed(seed)

    async def do(self, what: str, how: dict[str, Any]) -> None:
        """Begin a trouble, and end it when its time is over."""
        self._world.counts["faults"] += 1
        self._world.counts[f"fault {what}"] += 1
        self._world.note(f"trouble: {what} {how}")
        await getattr(self, ALIASES.get(what, what))(**how)

    async def lift(self) -> None:
        """End all troubles."""
        world = self._world
        world.skew.set_wrong(0.0)
        if world.front is not None:
            world.front.share = 0.0
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

    def is_others(self, port: int) -> bool:
        """Whether somebody else has ever held the port."""
        return port in self.ever_taken

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

    async def trickle(self, verb: str, resource: str, count: int, seconds: float) -> None:
        """Responses, or the events of a watch, arrive a few bytes at a time."""
        self._faults.add_fault(action="trickle", verb=verb, resource=resource, count=count, seconds=seconds)

    async def retry_after(self, verb: str, resource: str, count: int, code: int) -> None:
        """The API server answers "come back in a minute and a half"."""
        fault = {"verb": verb, "resource": resource, "count": count, "code": code, "seconds": RETRY_AFTER}
        self._faults.add_fault(action="status", **fault)

    async def gone_page(self, verb: str, resource: str, count: int, code: int) -> None:
        """A load balancer without API servers answers, mostly to deletes."""
        self._faults.add_fault(action="page", verb=verb, resource=resource, count=count, code=code)

    # ---- old answers

    async def old_list(self, resource: str, count: int, seconds: float) -> None:
        """The next lists are ``seconds`` old."""
        self._faults.remember()
        await asyncio.sleep(seconds)
        self._faults.add_fault(action="stale", verb="list", resource=resource, count=count)
        self._faults.compact()
        self._faults.drop_watches()

    async def old_deletion(self, pick: float, kind: str, seconds: float, *, old: bool) -> None:
        """Watches report an existing object as deleted: as it was ``seconds`` ago, or as it is."""
        name = await self._name(pick, kind)
        if name is None:
            return
        record = self._world.cluster.store.of(PODS if kind == "pods" else SERVICES).records.get((NAMESPACE, name))
        if old and record is not None:
            obj = {"kind": record.resource.kind, "apiVersion": "v1"} | record.obj
            await asyncio.sleep(seconds)
            self._faults.replay(kind, "DELETED", obj)
        else:
            self._faults.replay_deletion(kind, name)

    # ---- other hands

    async def strip(self, pick: float, kind: str, *, annotations: bool) -> None:
        """Somebody removes stackd's labels or annotations from an object."""
        name = await self._name(pick, kind)
        if name is not None and self._change(kind, name, NO_ANNOTATIONS if annotations else NO_LABELS):
            self._world.note(f"the {'annotations' if annotations else 'labels'} of {name} were taken off")

    async def strip_policy(self, verb: str, kind: str, seconds: float) -> None:
        """An admission policy removes stackd's labels from what is created or changed."""
        self._faults.add_fault(action="admit", verb=verb, resource=kind, body=json.dumps(NO_LABELS))
        await asyncio.sleep(seconds)
        self._faults.end("admit")

    async def drift(self, pick: float, change: str) -> None:
        """Somebody changes a Service."""
        name = await self._name(pick, "services")
        if name is None:
            return
        record = self._world.cluster.store.of(SERVICES).records.get((NAMESPACE, name))
        if record is None or self._world.foreign.is_theirs(record.obj):
            return
        self._world.drifted.add(record.uid)
        if self._change("services", name, {"spec": self._changed(record.obj["spec"]["ports"], change)}):
            self._world.note(f"{name} was changed: {change}")

    async def drift_policy(self, change: str, seconds: float) -> None:
        """An admission policy changes the Services that are created."""
        ports = [{"name": "p-80-tcp", "protocol": "TCP", "port": 80, "targetPort": 80}]
        body = json.dumps({"spec": self._changed(ports, change)})
        self._world.drifting = True
        self._faults.add_fault(action="admit", verb="create", resource="services", body=body)
        await asyncio.sleep(seconds)
        self._faults.end("admit")

    def _changed(self, ports: list[dict[str, Any]], change: str) -> dict[str, Any]:
        """The parts of a Service's spec that the change replaces."""
        if change == "selector":
            return {"selector": {"stackd.io/stack": "nobody"}}
        if change == "type":
            bare = [{key: value for key, value in port.items() if key != "nodePort"} for port in ports]
            return {"type": "ClusterIP", "ports": bare}
        free = filter(self._world.cluster.ports.is_free, range(FIRST_PORT, LAST_PORT))
        moved = [port | {"nodePort": next(free)} for port in ports]
        self.ever_taken |= node_ports({"ports": moved})
        return {"ports": moved}

    def _change(self, kind: str, name: str, patch: dict[str, Any]) -> bool:
        try:
            self._faults.change(f"/api/v1/namespaces/{NAMESPACE}/{kind}/{name}", patch)
        except StatusError:
            return False
        return True

    async def _name(self, pick: float, kind: str) -> str | None:
        """An object of a known stack, as soon as there is one; not one whose name somebody else's pod has."""
        for _ in range(WAITS):
            there, usurped = self._world.ours(kind), self._world.ledger.usurped
            names = {known: known if kind == "pods" else f"svc-{known}" for known in self._world.ledger.known()}
            found = [name for known, name in names.items() if name in there and known not in usurped]
            if found:
                return found[min(int(pick * len(found)), len(found) - 1)]
            await asyncio.sleep(WAIT_SECONDS)
        return None

    # ---- the clock

    async def wrong_clock(self, by: float, seconds: float) -> None:
        """The machine's clock is wrong for a while; the API server's is right."""
        mine = self._wrong = self._wrong + 1
        self._world.skew.set_wrong(by)
        await asyncio.sleep(seconds)
        if mine == self._wrong:
            self._world.skew.set_wrong(0.0)

    async def wrong_start(self, by: float, seconds: float) -> None:
        """A daemon dies, and the next one starts with a wrong clock."""
        self._world.kill()
        await self.wrong_clock(by, 1.0 + seconds)

    async def clock_step(self, by: float) -> None:
        """The machine's clock is set by less than the tolerated difference from the API server's."""
        self._world.skew.set_wrong(by)

"""Troubles between stackd and Kubernetes, by other users of the cluster, and of the machine's clock.

Owns: what the oracle has to know of them: which Services have ports that no row holds, and which ports others have.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from stackd.embedded.control import Faults
from stackd.embedded.nodeports import node_ports
from stackd.embedded.resources import PODS, SERVICES
from stackd.embedded.status import StatusError
from tests.faults.world import NAMESPACE, World

OURS = ("app.kubernetes.io/managed-by", "stackd.io/instance", "stackd.io/stack")
NO_LABELS = {"metadata": {"labels": dict.fromkeys(OURS)}}
NO_ANNOTATIONS = {"metadata": {"annotations": None}}
RETRY_AFTER = 90.0
WAITS, WAIT_SECONDS = 50, 0.02
FIRST_PORT, LAST_PORT = 32011, 32400
"""Node ports that no stack has; Services are moved to them."""


class Wire:
    """These troubles of one world, by their names in a plan; ``ever_taken``: the ports that Services were moved to."""

    def __init__(self, world: World, faults: Faults) -> None:
        self._world = world
        self._faults = faults
        self._wrong = 0
        self.ever_taken: set[int] = set()

    def lift(self) -> None:
        """Correct the clock, and end resets. All else are faults of the cluster, which end with the cluster's faults."""
        self._world.skew.set_wrong(0.0)
        if self._world.front is not None:
            self._world.front.share = 0.0

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


VERBS = (
    "silence",
    "reset_all",
    "resets",
    "mute",
    "trickle",
    "retry_after",
    "gone_page",
    "old_list",
    "old_deletion",
    "strip",
    "strip_policy",
    "drift",
    "drift_policy",
    "wrong_clock",
    "wrong_start",
    "clock_step",
)

"""Who holds which node port, and which cluster addresses are given out. Knows no sockets."""

from __future__ import annotations

import random

from stackd.embedded.resources import SERVICES, Json
from stackd.embedded.status import StatusCause, StatusError, invalid, wrong
from stackd.embedded.store import ObjectChange, ObjectStore

_OTHERS = "(others)"
_HEADLESS = "None"


class PortLedger:
    """The node ports and cluster IPs of a cluster. Follows the store's services."""

    def __init__(self, store: ObjectStore, port_range: tuple[int, int]) -> None:
        self._low, self._high = port_range
        self._holders: dict[int, str] = {}
        self._addresses: set[str] = set()
        self._random = random.Random()
        for record in store.of(SERVICES).records.values():
            self._note(record.obj["spec"], record.uid)
        store.observe(self._follow)

    @property
    def free(self) -> int:
        """How many node ports nobody holds."""
        return self._high - self._low + 1 - len(self._holders)

    def is_free(self, port: int) -> bool:
        """Whether nobody holds the port."""
        return port not in self._holders

    def take(self, port: int) -> None:
        """Let somebody unseen hold the port."""
        self._holders[port] = _OTHERS

    def give_back(self, port: int) -> None:
        """End what `take` began."""
        if self._holders.get(port) == _OTHERS:
            del self._holders[port]

    def assign(self, service: Json, *, held: frozenset[int] = frozenset(), dry_run: bool = False) -> None:
        """Fill in ports and addresses; nothing is held until the service is stored. Raises ApiError 422 or 500.

        `held` are the ports that this service has already. A dry run does not look at the range, nor does Kubernetes 1.36.
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
            if change.before is not None:
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

"""Controls a running cluster in tests and benchmarks: faults, ports, nodes; in process, or over `/__faults__`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from stackd.embedded.faults import Fault, FaultRules
from stackd.embedded.options import NodeSpec
from stackd.embedded.resources import JSON, NODES, PODS, SERVICES, Json
from stackd.embedded.status import StatusError
from stackd.embedded.store import stamped, watch_line

if TYPE_CHECKING:
    from stackd.embedded.cluster import EmbeddedCluster


class Faults(FaultRules):
    """The operations on a cluster outside its Kubernetes API; `cluster.faults`."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        super().__init__()
        self._cluster = cluster
        self._refusal: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Cancel the timer of a temporary `refuse`."""
        if self._refusal is not None:
            self._refusal.cancel()
            await asyncio.gather(self._refusal, return_exceptions=True)

    def add_fault(self, **fault: Any) -> None:
        """As `add`; the arguments are the fields of `Fault`."""
        self.add(Fault(**fault))

    def clear(self) -> None:
        """End all faults, pauses, held starts, expired tokens and half-open watches."""
        super().clear()
        self._cluster.kubelet.let_start()
        self._let_watches_speak()

    def end(self, action: str) -> None:
        """End the faults of this action; for `mute`, also end half-open watches."""
        super().end(action)
        if action == "mute":
            self._let_watches_speak()

    def _let_watches_speak(self) -> None:
        for watch in self._cluster.server.watches:
            watch.thaw()

    async def refuse(self, seconds: float | None = None) -> None:
        """Close all connections and accept none, until `listen` or for ``seconds``."""
        await self._cluster.server.refuse()
        if seconds is not None:
            self._refusal = asyncio.create_task(self._listen_after(seconds), name="embedded refusal")

    async def _listen_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.listen()

    async def listen(self) -> None:
        """Accept connections again."""
        await self._cluster.server.listen()

    def drop_watches(self) -> None:
        """Cut the connections of all open watches."""
        self._cluster.server.drop_watches()

    def set_back(self, revision: int) -> None:
        """Set all resourceVersions back, as after restoring a backup of etcd, and cut all watches."""
        self._cluster.store.set_back(revision)
        self.drop_watches()

    def freeze_watches(self) -> None:
        """Make all open watches half-open: connected, but silent."""
        for watch in self._cluster.server.watches:
            watch.frozen = True

    def silence(self) -> None:
        """Make all existing connections silent, for requests and watches; new ones work."""
        self._cluster.server.silence()

    def replay(self, resource: str, kind: str, obj: Json) -> None:
        """Send an event of that kind with an earlier state of an object to the watches of the resource."""
        for watch in self._cluster.server.watches:
            if watch.collection.resource.qualified == resource:
                watch.inject(watch_line(kind, orjson.dumps(obj)))

    def replay_deletion(self, resource: str, name: str) -> None:
        """Send a DELETED event for an existing object to the watches of the resource."""
        now = self._cluster.store.revision
        for watch in self._cluster.server.watches:
            collection = watch.collection
            if collection.resource.qualified == resource:
                for record in collection.records.values():
                    if record.key[1] == name:
                        obj = {"kind": record.resource.kind, "apiVersion": record.resource.api_version}
                        watch.inject(watch_line("DELETED", orjson.dumps(obj | stamped(record.obj, now))))

    def remember(self) -> None:
        """Keep a copy of all lists as they are now; the fault `stale` answers with them."""
        self._cluster.remember()

    def change(self, path: str, patch: Json) -> None:
        """Apply a merge patch to the object at that path, bypassing all faults. Raises StatusError."""
        self._cluster.change(path, patch)

    def malformed(self, line: str = '{"type":"MODIFIED","object":{"kind":\n') -> None:
        """Send a line that is not an event to all open watches."""
        for watch in self._cluster.server.watches:
            watch.inject(line.encode())

    def compact(self) -> None:
        """Forget history: resuming a watch or a list from before now fails with 410."""
        self._cluster.store.forget_history()

    def take_port(self, port: int) -> None:
        """Mark a node port as held by an invisible Service of somebody else."""
        self._cluster.ports.take(port)

    def give_back_port(self, port: int) -> None:
        """Undo `take_port`."""
        self._cluster.ports.give_back(port)

    def add_node(self, **node: Any) -> None:
        """Add a node with a kubelet; the arguments are the fields of `NodeSpec`."""
        self._cluster.nodes.add(NodeSpec(**node))

    def remove_node(self, name: str) -> None:
        """Delete the Node object. Raises StatusError 404."""
        store = self._cluster.store
        store.remove(store.of(NODES).get("", name))

    def cordon(self, name: str, *, on: bool = True) -> None:
        """Mark the node unschedulable, or schedulable again. Raises StatusError 404."""
        self._cluster.nodes.cordon(name, on=on)

    def hold_starts(self) -> None:
        """Keep pods that are not running yet from starting, until `let_start`."""
        self._cluster.kubelet.hold_starts()

    def let_start(self) -> None:
        """Start the pods that `hold_starts` has kept."""
        self._cluster.kubelet.let_start()

    def reset_counts(self) -> None:
        """Reset all counts to zero."""
        self._cluster.counts.clear()

    def stats(self) -> Json:
        """The counts, as JSON."""
        counts, store = self._cluster.counts, self._cluster.store
        requests = [
            {"verb": verb, "resource": resource, "code": code, "count": count}
            for (verb, resource, code), count in sorted(counts.requests.items())
        ]
        return {
            "requests": requests,
            "in_flight": counts.in_flight,
            "peak_in_flight": counts.peak_in_flight,
            "watches": len(self._cluster.server.watches),
            "pods": len(store.of(PODS).records),
            "services": len(store.of(SERVICES).records),
            "resource_version": store.revision,
        }

    async def call(self, body: bytes) -> tuple[int, bytes, str]:
        """Call the method in `{"do": method, …arguments}`; returns the stats as a response."""
        try:
            order: Json = orjson.loads(body)
            name = order.pop("do")
            if name not in _ORDERS:
                raise KeyError(name)
            result = getattr(self, name)(**order)
            if asyncio.iscoroutine(result):
                await result
        except StatusError as exc:
            return exc.code, exc.body(), JSON
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as exc:
            return 400, orjson.dumps({"error": f"not an order: {exc!r}"}), JSON
        return 200, orjson.dumps(self.stats()), JSON


_INHERITED = {"pause", "resume", "expire_token", "renew_token", "seed"}
_ORDERS = {name for name in vars(Faults) if not name.startswith("_")} - {"call", "stop"} | _INHERITED
"""The methods that can be called over HTTP: those whose arguments are JSON."""

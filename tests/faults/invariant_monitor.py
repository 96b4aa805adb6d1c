"""Checks invariants at run time: reads the state file whenever the cluster creates or removes an object of stackd.

Owns: invariants 1 and 2 at every moment, and not only at the end. When an object of stackd appears, its row is
committed and holds its ports; this remains true until the instant at which the object is removed.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from stackd.embedded.nodeports import node_ports
from stackd.embedded.resources import HTTP_ROUTES, PODS, SERVICES
from stackd.embedded.store import ObjectChange
from stackd.model import RANGE_PREFIX
from tests.faults.world import NAMESPACE, OUR_NAME, World

STACK = "stackd.io/stack"


class InvariantMonitor:
    """Sees every change of pods and Services.

    With ``late``, a call may take effect while its row is being deleted, or after that.
    """

    def __init__(self, world: World, *, late: bool) -> None:
        self._world = world
        self._late = late
        self._strays: set[str] = set()
        world.cluster.store.observe(self._see)

    def excuse(self, uid: str) -> None:
        """Accept that this object has no row, for example since an earlier daemon left it behind."""
        self._strays.add(uid)

    def forget(self) -> None:
        """The owner's file is another one, which may lack what the cluster has: accept all objects that exist."""
        for kind in ("pods", "services", "routes"):
            self._strays |= {obj["metadata"]["uid"] for obj in self._world.ours(kind).values()}

    def settle(self) -> None:
        """Expect rows again for all objects whose stack the owner's file has by now."""
        rows = self._world.file.rows()
        for kind in ("pods", "services", "routes"):
            for obj in self._world.ours(kind).values():
                if obj["metadata"]["labels"][STACK] in rows and not obj["metadata"].get("deletionTimestamp"):
                    self._strays.discard(obj["metadata"]["uid"])

    def _see(self, change: ObjectChange) -> None:
        obj = change.after.obj
        if (
            change.after.resource not in (PODS, SERVICES, HTTP_ROUTES)
            or change.after.key[0] != NAMESPACE
            or not self._world.made_by_us(obj)
        ):
            return
        if change.type == "MODIFIED":
            return
        stack_id = _stack_of(obj)
        if stack_id.startswith(RANGE_PREFIX):
            return  # a probe for the port range belongs to no stack
        try:
            self._check(change, stack_id, obj)
        except sqlite3.Error as error:
            self._world.violated("1 intent first", f"{stack_id}: the file cannot be read: {error}")

    def _check(self, change: ObjectChange, stack_id: str, obj: dict[str, Any]) -> None:
        world, uid, kind = self._world, obj["metadata"]["uid"], change.after.resource.kind
        row = world.file.row(stack_id)
        born = change.type == "ADDED"
        if born and self._late and (row.deleting if row is not None else self._was_known(stack_id)):
            self._strays.add(uid)
        if row is None and uid in self._strays:
            return
        when = "comes" if born else "goes"
        invariant = "1 intent first" if born else "3 rows outlive objects"
        if not world.checked(invariant, row is not None, f"{kind} of {stack_id} {when} and has no row"):
            return
        assert row is not None
        if change.after.resource is SERVICES and uid not in self._strays:
            ports = node_ports(obj["spec"])
            text = (
                f"Service of {stack_id} {when} with ports {sorted(ports)}, and the file holds {sorted(row.held)} for it"
            )
            if self._late and not row.held:  # its ports were released before the call took effect
                self._strays.add(uid)
                return
            if uid in world.drifted or (born and world.drifting):
                world.drifted.add(uid)
                return
            world.checked("2 one holder per port", ports <= row.held, text)

    def _was_known(self, stack_id: str) -> bool:
        return any(stack_id in line for process in self._world.processes for line in process.lines)


def _stack_of(obj: dict[str, Any]) -> str:
    named = OUR_NAME.fullmatch(obj["metadata"]["name"])
    return named[1] if named is not None else str(obj["metadata"]["labels"][STACK])

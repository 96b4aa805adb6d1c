"""Stands inside the cluster: at each birth and death of one of our objects it looks into the state file, at that instant.

Owns invariants 1 and 2 as they are meant, at every moment and not only in the end: when an object of ours comes to be, its
row is committed and holds its ports; and while the object is there, until the instant of its end, so it is still.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from stackd.embedded.ports import node_ports
from stackd.embedded.resources import PODS, SERVICES
from stackd.embedded.store import Change
from tests.faults.world import NAMESPACE, World, is_ours

STACK = "stackd.io/stack"


class Witness:
    """Sees every change of pods and services. With ``late``, a call may take effect after its row was removed."""

    def __init__(self, world: World, *, late: bool) -> None:
        self._world = world
        self._late = late
        self._strays: set[str] = set()
        world.cluster.store.observe(self._see)

    def excuse(self, uid: str) -> None:
        """This object has no row, and is not to have one: it was left behind by an earlier daemon, say."""
        self._strays.add(uid)

    def _see(self, change: Change) -> None:
        obj = change.after.obj
        if change.after.resource not in (PODS, SERVICES) or change.after.key[0] != NAMESPACE or not is_ours(obj):
            return
        if change.type == "MODIFIED":
            return
        stack_id = obj["metadata"]["labels"][STACK]
        try:
            self._check(change, stack_id, obj)
        except sqlite3.Error as error:
            self._world.violated("1 intent first", f"{stack_id}: the file cannot be read: {error}")

    def _check(self, change: Change, stack_id: str, obj: dict[str, Any]) -> None:
        world, uid, kind = self._world, obj["metadata"]["uid"], change.after.resource.kind
        row = world.file.row(stack_id)
        born = change.type == "ADDED"
        if row is None and born and self._late and self._was_known(stack_id):
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
            if self._late and not row.held:  # its ports were given back before the call took effect
                self._strays.add(uid)
                return
            world.checked("2 one holder per port", ports <= row.held, text)

    def _was_known(self, stack_id: str) -> bool:
        return any(stack_id in line for process in self._world.processes for line in process.lines)

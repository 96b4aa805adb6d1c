"""Spare Services: NodePort Services that are there before a create asks for one, and which of them is taken.

A NodePort Service costs the API server several writes one after another (cluster IP, node port, the Service); changing one that
exists costs one. So stackd keeps some ready. Each is a row with the id of a stack that does not exist yet, and is desired,
created and removed as all that rows intend; a create that fits takes its id and its node port in the transaction that reserves
its row. Spares belong to nobody, and make way for creates (``assign.preempt``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from stackd.kube.mirror import Mirror
from stackd.model import Desired, RoutedTarget, Stack, StackStatus, TargetPort, bare_stack

PORT = 1  # the port of a Service that nobody has taken


class Spares:
    """The spares of one daemon, by id; those that a create is taking are not among them.

    ``not_before``: when others may be made (monotonic seconds): not while creates come, nor after some made way.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Stack] = {}
        self.not_before = 0.0

    def load(self, rows: Iterable[Stack]) -> None:
        for row in rows:
            self.row_changed(None, row)

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Subscriber of the store."""
        if after is not None and after.spare and after.deleting_since is None:
            self.rows[after.stack_id] = after
        elif before is not None and before.spare:
            self.rows.pop(before.stack_id, None)

    def take(self, ports: Sequence[TargetPort], mirror: Mirror) -> Stack | None:
        """A spare that fits a stack with these ports, which nobody else gets until it is put back; None if there is none."""
        if len(ports) != 1 or ports[0].protocol != "TCP" or isinstance(ports[0], RoutedTarget):
            return None
        ready = next((row for row in self.rows.values() if _is_ready(row, mirror)), None)
        return None if ready is None else self.rows.pop(ready.stack_id)

    def ready(self, mirror: Mirror) -> int:
        """How many have their Service."""
        return sum(_is_ready(row, mirror) for row in self.rows.values())

    def pause(self, until: float) -> None:
        """Make none before that time (monotonic seconds)."""
        self.not_before = max(self.not_before, until)

    def put_back(self, row: Stack | None) -> None:
        """A create has not taken this one after all; ``row`` is as the file has it now."""
        self.row_changed(None, row)


def _is_ready(row: Stack, mirror: Mirror) -> bool:
    service = mirror.services.get(row.service_name)
    return service is not None and service.spare and not service.deleting


def new_spare(stack_id: str, namespace: str, now: int) -> Stack:
    """The row of a spare: of a stack that is not to run, and has nothing but a node port."""
    row = bare_stack(stack_id, namespace, PORT, now)
    return replace(row, status=StackStatus.STOPPED, accepted=True, desired=Desired.STOPPED, unassigned=True, spare=True)

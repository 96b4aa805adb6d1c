"""All stacks: in memory for reads on the event loop, and the operations on them.

Reads of the view never wait and see only committed data. The view leaves out long pod specs, to limit its memory.
Owns: the order of the list (``created_at``, then id), the version that tells whether anything changed, and the
subscribers. Only ``publish`` changes the view, on the loop, once per committed group.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, KeysView, Sequence
from dataclasses import replace

from stackd.errors import StackNotFound
from stackd.model import Observation, Stack, list_key
from stackd.store import adoption, changes, reservations, rows
from stackd.store.transaction import Submit, Table, operation

Subscriber = Callable[[Stack | None, Stack | None], None]


class StacksView:
    """All stacks as committed. ``version`` grows by one with each published group that changed a stack."""

    def __init__(self, stacks: Iterable[Stack] = ()) -> None:
        ordered = sorted(map(_kept, stacks), key=list_key)
        self._by_id = {stack.stack_id: stack for stack in ordered}
        self._keys = [list_key(stack) for stack in ordered]
        self._records = ordered
        self._ordered: tuple[Stack, ...] | None = None
        self._subscribers: list[Subscriber] = []
        self.version = 0

    def get(self, stack_id: str) -> Stack | None:
        """The stack, or None."""
        return self._by_id.get(stack_id)

    def ids(self) -> KeysView[str]:
        """The ids of all stacks, as a live set."""
        return self._by_id.keys()

    def ordered(self) -> tuple[Stack, ...]:
        """All stacks by ``created_at``, then id; the same tuple until a stack changes."""
        if self._ordered is None:
            self._ordered = tuple(self._records)
        return self._ordered

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Stack]:
        return iter(self.ordered())

    def __contains__(self, stack_id: object) -> bool:
        return stack_id in self._by_id

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call ``callback(before, after)`` on the loop after each change. Returns a function that unsubscribes.

        ``callback`` must not raise.
        """
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    def publish(self, changes: Iterable[tuple[str, Stack | None]]) -> None:
        """Apply a committed group, then call the subscribers with each change, in order."""
        news: list[tuple[Stack | None, Stack | None]] = []
        for stack_id, changed in changes:
            before, after = self._by_id.get(stack_id), changed and _kept(changed)
            if before is not None or after is not None:
                self._place(before, after)
                news.append((before, after))
        if not news:
            return
        self._ordered = None
        self.version += 1
        for before, after in news:
            for callback in tuple(self._subscribers):
                callback(before, after)

    def _place(self, before: Stack | None, after: Stack | None) -> None:
        if before is not None and (after is None or list_key(before) != list_key(after)):
            index = bisect_left(self._keys, list_key(before))
            del self._keys[index], self._records[index], self._by_id[before.stack_id]
            before = None
        if after is None:
            return
        index = bisect_left(self._keys, list_key(after))
        if before is None:
            self._keys.insert(index, list_key(after))
            self._records.insert(index, after)
        else:
            self._records[index] = after
        self._by_id[after.stack_id] = after


class Stacks(StacksView, Table):
    """The view, and the operations. Each is one transaction; its result is durable and visible in the view."""

    def __init__(self, stacks: Iterable[Stack], submit: Submit, pending: Callable[[], int]) -> None:
        StacksView.__init__(self, stacks)
        Table.__init__(self, submit)
        self._pending = pending

    reserve = operation(reservations.reserve, grows=True)
    accept = operation(changes.accept)
    check = operation(reservations.check, writes=False)

    async def observe(self, seen: Sequence[Observation]) -> list[Stack]:
        """As ``changes.observe``. Without news it needs no transaction.

        Observations do not wait for the disk: those lost in a power failure are read from the cluster again.
        """
        if not self._pending():  # no operation is pending, so the view is what the file holds
            seen = [one for one in seen if self._is_news(one)]
        return await self._observe(seen) if seen else []

    def _is_news(self, seen: Observation) -> bool:
        stack = self.get(seen.stack_id)
        return stack is not None and changes.differs(stack, seen)

    _observe = operation(changes.observe, relaxed=True)

    assign = operation(reservations.assign, grows=True)

    def waits_in_pool(self, stack_id: str) -> bool:
        """Whether this stack waits in a pool. It does not exist for any client then."""
        stack = self.get(stack_id)
        return stack is not None and stack.unassigned

    extend = operation(changes.extend)
    stop = operation(changes.stop)
    stopped = operation(changes.stopped)
    start = operation(changes.start)
    started = operation(changes.started)
    set_service = operation(changes.set_service)

    mark_deleting = operation(rows.mark_deleting)
    mark_expired = operation(changes.mark_expired)
    tell_held = operation(changes.tell_held)
    end_in_time = operation(changes.end_in_time)
    remove = operation(rows.remove)
    remove_soon = operation(rows.remove, relaxed=True)
    """As ``remove``, without waiting for the disk: whoever counts on it has another write that does."""
    removed_among = operation(rows.removed_among, writes=False)

    adopt = operation(adoption.adopt, grows=True)
    renew = operation(adoption.renew, grows=True)

    pod_specs = operation(rows.pod_specs, writes=False)

    async def whole(self, stack: Stack) -> Stack:
        """The stack with its pod spec, which is read from the file if it is too long to be kept in memory.

        Raises ``StackNotFound`` if its row is gone by now.
        """
        if stack.pod_spec is not None:
            return stack
        found = await self.pod_specs([stack.stack_id])
        if stack.stack_id not in found:
            raise StackNotFound(stack.stack_id)
        return replace(stack, pod_spec=found[stack.stack_id])


def _kept(stack: Stack) -> Stack:
    """The stack as it is kept in memory: without a long pod spec."""
    if stack.pod_spec is None or len(stack.pod_spec) <= rows.LONGEST_KEPT:
        return stack
    return replace(stack, pod_spec=None)

"""Rows and stores for the tests of ``stackd.store``: real files, and a clock that tests set."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from stackd.clock import NANOSECONDS
from stackd.model import Observation, PortMapping, PortRange, Principal, Stack, StackStatus
from stackd.store import Claim, Store, backup_file
from stackd.store.transaction import Transaction

ROOT = Path(__file__).parents[2]
START = 1_770_000_000 * NANOSECONDS
HOUR = 3600 * NANOSECONDS
PORTS = (31001, 31100)
ALICE, BOB = (Principal(id=f"key:{name[0]}", name=name) for name in ("alice smith", "bob"))


class TestClock:
    """A clock that moves only when a test says so."""

    __test__ = False

    def __init__(self) -> None:
        self.wall = START
        self.seconds = 100.0

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.wall += int(seconds * NANOSECONDS)
        self.seconds += seconds


def stack_id(number: int) -> str:
    return f"stack-{number:016x}"


def new_stack(number: int = 0, *, ports: int = 1, created_at: int = START, **other: Any) -> Stack:
    fields: dict[str, Any] = {
        "stack_id": stack_id(number),
        "namespace": "stacks",
        "pod_spec": "kind: Pod\n",
        "ports": tuple(PortMapping(container_port=80 + index, protocol="TCP", node_port=0) for index in range(ports)),
        "status": StackStatus.CREATING,
        "created_at": created_at,
        "updated_at": created_at,
        "ttl_expires_at": created_at + 2 * HOUR,
        "requested_cpu_milli": 100,
        "requested_memory_bytes": 128 * 1024 * 1024,
        "labels": {"team": str(number)},
    }
    return Stack(**fields | other)


def claim(key: str = "key-1", *, created_at: int = START) -> Claim:
    return Claim(scope="web", key=key, fingerprint=b"\x01\x02", created_at=created_at)


def seen(number: int = 0, status: StackStatus = StackStatus.RUNNING, *, ended: bool = False) -> Observation:
    return Observation(
        stack_id=stack_id(number), status=status, node_id="worker-1", node_public_ip="192.0.2.7", ended=ended
    )


async def open_store(
    path: Path, clock: TestClock | None = None, *, ports: tuple[int, int] = PORTS, keys: Sequence[Principal] = ()
) -> Store:
    return await Store.open(path, clock=clock or TestClock(), node_ports=PortRange(*ports), keys=keys)


async def reopened(store: Store, clock: TestClock | None = None, *, ports: tuple[int, int] = PORTS) -> Store:
    await store.close()
    return await open_store(store.path, clock, ports=ports)


async def back_up(store: Store, target: Path, *, force: bool = False) -> None:
    """Copy the file while the store is in use, as ``stackd backup`` does."""
    await asyncio.to_thread(backup_file, store.path, target, force=force)


async def accepted(store: Store, number: int = 0, *, ports: int = 1) -> Stack:
    await store.stacks.reserve(new_stack(number, ports=ports))
    return await store.stacks.accept(
        seen(number, StackStatus.CREATING), pod_uid=f"pod-{number}", service_uid=f"service-{number}"
    )


@contextlib.asynccontextmanager
async def busy(store: Store) -> AsyncIterator[None]:
    """Keep the writer's thread busy within this block, so that what is submitted in it shares one commit."""
    reached, go_on = threading.Event(), threading.Event()

    def hold(_: Transaction) -> None:
        reached.set()
        assert go_on.wait(30)

    holding = asyncio.ensure_future(store._writer.submit(hold, writes=False))
    await asyncio.to_thread(reached.wait, 30)
    try:
        yield
        await asyncio.sleep(0)  # until all calls are submitted
    finally:
        go_on.set()
        await holding


def query(path: Path, sql: str) -> list[Any]:
    """Rows of the file, read over a connection of its own."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(sql).fetchall()


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes beyond ``size`` fail with EFBIG, which SQLite reports as an I/O error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

"""Rows and stores for the tests of ``stackd.store``: real files, and a clock that tests set."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

from stackd.clock import NANOSECONDS
from stackd.model import NewStack, Observation, PortRange, Stack, StackStatus, TargetPort
from stackd.store import Claim, Store, StoreOptions, backup_file

START = 1_770_000_000 * NANOSECONDS
HOUR = 3600 * NANOSECONDS
SMALL = StoreOptions(ballast_bytes=64 * 1024, busy_timeout=0.05)
PORTS = (31001, 31100)


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


def new_stack(number: int = 0, *, ports: int = 1, created_at: int = START, pod_spec: str = "kind: Pod\n") -> NewStack:
    return NewStack(
        stack_id=stack_id(number),
        namespace="stacks",
        pod_spec=pod_spec,
        target_ports=tuple(TargetPort(container_port=80 + index, protocol="TCP") for index in range(ports)),
        created_at=created_at,
        ttl_expires_at=created_at + 2 * HOUR,
        requested_cpu_milli=100,
        requested_memory_bytes=128 * 1024 * 1024,
        labels={"team": str(number)},
    )


def claim(key: str = "key-1", *, created_at: int = START) -> Claim:
    return Claim(scope="web", key=key, fingerprint=b"\x01\x02", created_at=created_at)


def seen(number: int = 0, status: StackStatus = StackStatus.RUNNING, *, ended: bool = False) -> Observation:
    return Observation(
        stack_id=stack_id(number), status=status, node_id="worker-1", node_public_ip="192.0.2.7", ended=ended
    )


async def open_store(
    path: Path, clock: TestClock | None = None, *, ports: tuple[int, int] = PORTS, options: StoreOptions = SMALL
) -> Store:
    return await Store.open(path, clock=clock or TestClock(), node_ports=PortRange(*ports), options=options)


async def back_up(store: Store, target: Path, *, force: bool = False) -> None:
    """Copy the file while the store is in use, as ``stackd backup`` does."""
    await asyncio.to_thread(backup_file, store.path, target, force=force)


async def accepted(store: Store, number: int = 0, *, ports: int = 1) -> Stack:
    await store.stacks.reserve(new_stack(number, ports=ports))
    return await store.stacks.accept(
        seen(number, StackStatus.CREATING), pod_uid=f"pod-{number}", service_uid=f"service-{number}"
    )


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes beyond ``size`` fail with EFBIG, which SQLite reports as an I/O error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

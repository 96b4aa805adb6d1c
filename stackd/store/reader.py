"""A connection that only reads, with a thread of its own: for searches that take long, so that no write waits for them.

Owns: that one search runs at a time, and sees all that was committed before it began. In WAL mode a reader and the writer
do not wait for each other; while a search runs, the log may grow.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from stackd.clock import Clock
from stackd.errors import StoreUnavailable
from stackd.store.file import open_reader
from stackd.store.node_ports import NodePorts
from stackd.store.transaction import Counters, Transaction, unavailable

T = TypeVar("T")


class Reader:
    """The thread, and its connection from the first search on."""

    def __init__(self, path: Path, ports: NodePorts, clock: Clock) -> None:
        self._path, self._ports, self._clock = path, ports, clock
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stackd-reader")

    async def submit(self, operation: Callable[[Transaction], T]) -> T:
        """The result of an operation that only reads. A search whose caller leaves before it began is not made. Raises
        ``StoreUnavailable``."""
        if self._closed:
            raise StoreUnavailable("the state file is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, operation)
        except sqlite3.Error as exc:
            raise unavailable(exc) from exc

    async def close(self) -> None:
        """Interrupt the search that runs, drop those that wait, and close the connection. Idempotent."""
        self._closed = True
        if self._connection is not None:
            self._connection.interrupt()
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, operation: Callable[[Transaction], T]) -> T:
        if self._connection is None:
            self._connection = open_reader(self._path)
        self._connection.execute("BEGIN")
        try:
            now, counters = self._clock.now(), Counters()
            return operation(
                Transaction(connection=self._connection, counters=counters, ports=self._ports, now=now, sequence=0)
            )
        finally:
            self._connection.rollback()

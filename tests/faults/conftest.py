"""What the fault tests share: a process that has imported everything; each daemon is a fork of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.process import ForkServer


@pytest.fixture(scope="session")
def forkserver() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()

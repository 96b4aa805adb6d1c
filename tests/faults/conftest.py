"""What the fault tests share: a process that has imported everything, of which each daemon is a fork."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.processes import Nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()

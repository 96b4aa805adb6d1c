from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.store import Store
from tests.store.building import TestClock, open_store


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stackd.db"


@pytest.fixture
async def store(path: Path, clock: TestClock) -> AsyncIterator[Store]:
    opened = await open_store(path, clock)
    yield opened
    await opened.close()

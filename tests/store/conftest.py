from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.store import Store
from tests.store.building import TestClock, open_store


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stackd.store.file.RESERVED_BYTES", 64 * 1024)
    monkeypatch.setattr("stackd.store.file.BUSY_SECONDS", 0.01)


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

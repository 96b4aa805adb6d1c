"""A stackd for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import Harness, harness


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path) as ready:
        yield ready

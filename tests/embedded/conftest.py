from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.embedded.wire import Wire, fast, running


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A cluster with short delays."""
    async with running(fast()) as one:
        yield one

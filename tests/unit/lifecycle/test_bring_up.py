"""The service that asks the cluster for its identity: a defect in it ends the process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.harness import harness


async def test_a_defect_in_the_identity_service_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness(tmp_path) as at:

        async def broken() -> str:
            raise KeyError("uid")

        monkeypatch.setattr(at.daemon.context.cluster, "cluster_uid", broken)
        at.doubt()
        with pytest.raises(RuntimeError, match=r"ended unexpectedly.*KeyError"):
            await asyncio.wait_for(asyncio.shield(at.daemon.context.tasks.failure), 30)

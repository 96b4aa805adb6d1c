"""The stackd that the docs assume: its node ports answer, and each player has one stack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from tests.harness import KEY, Harness, fast_cluster, harness

LINKS = {"STACKD_PLAY__URL": "https://stackd.example", "STACKD_PLAY__SECRET": "0123456789abcdef0123456789abcdef"}
LIMITS = {"STACKD_LIMITS__STACKS_PER_LABEL": "player=1", "STACKD_LIMITS__REQUIRED_LABELS": "player"}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    async with (
        EmbeddedCluster(fast_cluster(serve_node_ports=True)) as cluster,
        harness(tmp_path, LINKS, cluster=cluster) as ready,
    ):
        yield ready


@pytest.fixture
async def one_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    async with harness(tmp_path, LIMITS) as ready:
        monkeypatch.setenv("STACKD_URL", ready.url)
        monkeypatch.setenv("STACKD_API_KEY", KEY)
        monkeypatch.setenv("FLAG_SECRET", "a long text that nobody guesses")
        yield ready

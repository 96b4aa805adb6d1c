"""A cluster with what `stackd manifests` prints, and the doctor at it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackd.cli.doctor import examine
from stackd.config import LoadedConfig, load
from stackd.doctor import Finding
from stackd.doctor.cluster import Size
from stackd.doctor.probe import ProbeOptions
from stackd.embedded import EmbeddedCluster, User
from tests.harness import KEY, fast_cluster
from tests.provisioning import ADMIN, OURS, apply, ask, printed, rules

QUICK, USUAL = ProbeOptions(seconds=10.0), Size()
Documents = list[dict[str, Any]]


@dataclass(slots=True, kw_only=True)
class Prepared:
    """A prepared cluster, and the ways to let the doctor examine it."""

    cluster: EmbeddedCluster
    environment: dict[str, str]
    folder: Path

    async def look(self, options: ProbeOptions | None = None, size: Size = USUAL, /, **settings: str) -> list[Finding]:
        loaded = load(None, self.environment | settings)
        return await found_in(loaded, None, size, options)

    async def probe(self, options: ProbeOptions = QUICK, /, **settings: str) -> list[Finding]:
        """The findings of the probe, which removes itself."""
        findings = await self.look(options, **settings)
        assert not await self.names("pods")
        assert not await self.names("services")
        return [finding for finding in findings if finding.about == "probe"]

    async def names(self, resource: str) -> list[str]:
        document = await ask(self.cluster, "GET", f"/api/v1/namespaces/stacks/{resource}")
        return [item["metadata"]["name"] for item in document["items"]]


async def found_in(
    loaded: LoadedConfig, path: Path | None = None, size: Size = USUAL, options: ProbeOptions | None = None
) -> list[Finding]:
    findings: list[Finding] = []
    await examine(loaded, path, size, options, findings.extend)
    return findings


@asynccontextmanager
async def prepared(folder: Path, documents: Documents | None = None, **cluster: Any) -> AsyncIterator[Prepared]:
    documents = printed() if documents is None else documents
    account = User(token=OURS, name="system:serviceaccount:stackd:stackd", rules=rules(documents) or rules(printed()))
    async with EmbeddedCluster(fast_cluster(users=(ADMIN, account), **cluster)) as made:
        await apply(made, documents)
        made.write_kubeconfig(folder / "kubeconfig", token=OURS)
        yield Prepared(cluster=made, environment=environment_in(folder), folder=folder)


def environment_in(folder: Path) -> dict[str, str]:
    return {
        "STACKD_AUTH__KEY": KEY,
        "STACKD_SERVER__PORT": "1",
        "STACKD_STATE__PATH": str(folder / "stackd.db"),
        "STACKD_CLUSTER__KUBECONFIG": str(folder / "kubeconfig"),
    }

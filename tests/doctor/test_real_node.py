"""What the doctor says of the node that a real kubelet registered."""

from __future__ import annotations

from pathlib import Path

from stackd.cli.doctor import examine
from stackd.config import load
from stackd.doctor import Finding, Level
from stackd.doctor.cluster import Size
from stackd.embedded import EmbeddedCluster
from tests.harness import KEY
from tests.provisioning import real_node


async def doctor(made: EmbeddedCluster, folder: Path, **settings: str) -> list[Finding]:
    made.write_kubeconfig(folder / "kubeconfig")
    environment = {
        "STACKD_AUTH__KEY": KEY,
        "STACKD_SERVER__PORT": "1",
        "STACKD_STATE__PATH": str(folder / "stackd.db"),
        "STACKD_CLUSTER__KUBECONFIG": str(folder / "kubeconfig"),
        "STACKD_STACKS__ADDRESS_TYPES": "InternalIP",
        **settings,
    }
    return [one async for one in examine(load(None, environment), None, Size(), None) if one.about == "room"]


async def test_the_doctor_counts_the_same_and_says_why_nothing_runs(tmp_path: Path) -> None:
    async with real_node("--no-ephemeral-storage") as made:
        (context,) = await doctor(made, tmp_path)
        assert context.level is Level.OK
        assert context.what.startswith("for 20 stacks of 100m CPU and 128Mi (nodes, cpu)")
    async with real_node() as made:
        context, why = await doctor(made, tmp_path)
        assert (context.level, why.level) == (Level.FAIL, Level.FAIL)
        assert context.what.startswith("for 0 stacks of 100m CPU and 128Mi (nodes, ephemeral-storage)")
        assert "real-worker reports none" in why.what

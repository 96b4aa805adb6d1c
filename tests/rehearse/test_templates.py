"""Templates are rehearsed by name and weight; those with a pool are as fast as for players."""

from __future__ import annotations

from pathlib import Path

from stackd.embedded import EmbeddedCluster
from stackd.rehearse.connection import connected
from stackd.rehearse.plan import StackKind, inspect
from tests.harness import KEY, eventually, fast_cluster, harness
from tests.rehearse.conftest import START_DELAY, plan, rehearsed

WEB = """\
target_port: [{container_port: 80, protocol: TCP}]
values: {FLAG: "flag{<hex:8>}"}
pod:
  apiVersion: v1
  kind: Pod
  metadata: {name: web}
  spec:
    containers:
      - name: app
        image: registry.example/ctf/web:v1
        resources: {limits: {cpu: 100m, memory: 128Mi}}
        ports: [{containerPort: 80}]
"""


def template(name: str, weight: float = 1.0) -> StackKind:
    return StackKind(name=name, body={"template": name}, weight=weight)


async def test_templates_are_started_by_weight_and_counted_into_what_fits(tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "web-1.yaml").write_text(WEB)
    (folder / "pwn-1.yaml").write_text(WEB.replace("ctf/web", "ctf/pwn"))
    async with harness(tmp_path, {"STACKD_TEMPLATES__DIRECTORY": str(folder)}) as at:
        mixed = plan(8, kinds=[template("web-1", 3), template("pwn-1")])
        async with connected(at.url, KEY, 10) as connection:
            looked = await inspect(connection, mixed, "test")
            assert (looked.wrong, looked.anyway) == ((), [])
            assert looked.fits is not None
            unknown = await inspect(connection, plan(1, kinds=[template("web1")]), "test")
            assert 'there is no "web1"' in unknown.wrong[0]
        found = await rehearsed(at, mixed)
        assert {group.name: group.started for group in found.results.kinds} == {"web-1": 6, "pwn-1": 2}
        assert {group.name: group.started for group in found.results.images} == {
            "registry.example/ctf/web:v1": 6, "registry.example/ctf/pwn:v1": 2,
        }  # fmt: skip
        assert found.verdict.holds


async def test_stacks_from_a_pool_run_when_they_are_accepted(tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "web-1.yaml").write_text(f"pool: 4\n{WEB}")
    async with (
        EmbeddedCluster(fast_cluster(start_delay=START_DELAY)) as cluster,
        harness(tmp_path, {"STACKD_TEMPLATES__DIRECTORY": str(folder)}, cluster=cluster) as at,
    ):

        async def filled() -> bool:
            return bool((await at.call("GET", "/templates")).json["templates"][0]["ready"] == 4)

        await eventually(filled)
        async with connected(at.url, KEY, 10) as connection:
            looked = await inspect(connection, plan(4, kinds=[template("web-1")]), "test")
        assert looked.with_others == [], "unassigned stacks are nobody's"
        found = await rehearsed(at, plan(4, kinds=[template("web-1")]))
        assert found.verdict.holds
        for sample in found.results.samples:
            assert sample.running == sample.accepted
        await eventually(filled)
        assert found.left == 0

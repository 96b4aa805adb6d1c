"""Before anything is created: plans that a rehearsal refuses to start, and options that the command line refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from stackd.cli import stackd
from stackd.embedded import EmbeddedCluster
from stackd.rehearse.plan import LABEL, Preflight, StackKind, inspect
from tests.harness import KEY, Harness, eventually, fast_cluster, harness, request_for, seed
from tests.rehearse.conftest import START_DELAY, Terminal, connected, kind, plan, rehearsed


async def looked(at: Harness, stacks: int, *kinds: StackKind) -> Preflight:
    async with connected(at) as connection:
        return await inspect(connection, plan(stacks, kinds=kinds or (kind(),)), "test")


async def test_what_fits_begins(at: Harness) -> None:
    found = await looked(at, 100)
    assert (found.wrong, found.anyway, found.with_others) == ((), [], [])
    assert found.fits is not None
    assert found.fits >= 100
    assert await at.objects("pods") == {}


async def test_it_says_which_limit_binds(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__MAX_STACKS": "7"}) as at:
        found = await looked(at, 8)
        assert found.anyway == ["8 stacks do not fit: 7 do, limited by limits.max_stacks"]
        assert (await looked(at, 7)).anyway == []


async def test_node_ports_bind_a_mix_by_what_each_kind_takes(tmp_path: Path) -> None:
    ports = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31012"}
    two = [{"container_port": number, "protocol": "TCP"} for number in (80, 81)]
    spec = request_for("nginx:stable")["pod_spec"].replace(
        "      ports:\n", "      ports:\n        - containerPort: 81\n          protocol: TCP\n"
    )
    mixed = (kind(weight=1), StackKind(name="two ports", body={"target_port": two, "pod_spec": spec}))
    async with harness(tmp_path, ports) as at:
        assert (await looked(at, 8, *mixed)).anyway == []  # 4 stacks take one port each, 4 take two: all 12
        found = await looked(at, 10, *mixed)
        assert found.fits == 8
        assert found.anyway == ["10 stacks do not fit: 8 do, limited by free node ports"]


async def test_a_scarce_resource_of_the_nodes_is_named(at: Harness) -> None:
    found = await looked(at, 50, StackKind(name="large", body=request_for("nginx:stable", cpu="100")))
    assert found.fits is not None
    assert found.fits < 50
    assert "limited by the nodes (CPU: embedded-worker 9, embedded-worker2 9)" in found.anyway[0]


async def test_what_the_policy_refuses_cannot_be_overruled(at: Harness, terminal: Terminal) -> None:
    spec = request_for("nginx:stable")["pod_spec"].replace("spec:\n", "spec:\n  hostNetwork: true\n", 1)
    found = await looked(at, 1, StackKind(name="bad.yaml", body=seed() | {"pod_spec": spec}))
    assert len(found.wrong) == 1
    assert found.wrong[0].startswith("bad.yaml: invalid pod spec: spec.hostNetwork")


async def test_labels_that_a_create_must_have_are_asked_for_at_once(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__REQUIRED_LABELS": '["player"]'}) as at:
        assert "labels: player must be given" in (await looked(at, 2)).wrong[0]
        found = await rehearsed(at, plan(2, labels={"player": "p{player}"}))
        assert found.verdict.holds


async def test_stacks_of_others_are_told_from_those_of_another_rehearsal(at: Harness) -> None:
    await at.create()
    await at.create(seed() | {"labels": {LABEL: "feed"}})
    found = await looked(at, 1)
    assert found.with_others == [
        "others have stacks here (1), which a rehearsal would disturb",
        "rehearsal feed still has stacks here (1); if it is over, delete them: "
        "stackd stacks batch-delete --label stackd.rehearsal=feed",
    ]


async def test_the_command_refuses_unless_it_is_told_to_begin(tmp_path: Path, terminal: Terminal) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__MAX_STACKS": "3"}) as at:
        await at.create()
        words = ("--stacks", "5", "--burst", "--hold", "0s")
        code, _, complained = await _end(terminal, at, *words)
        assert code == 1
        assert "5 stacks do not fit: 2 do, limited by limits.max_stacks (override with --anyway" in complained
        assert "others have stacks here (1), which a rehearsal would disturb (override with --with-others" in complained
        assert len(await at.listed()) == 1

        code, said, _ = await _end(terminal, at, *words, "--anyway", "--with-others")
        assert code == 1
        assert "It does not hold: 3 of 5 failed: 503 " in said
        assert len(await at.listed()) == 1


async def _end(terminal: Terminal, at: Harness, *words: str) -> tuple[int, str, str]:
    return await asyncio.to_thread(terminal.rehearse(at, *words).end)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--stacks", "5"), "say how players arrive: --rate 20/s, or --burst for all at once"),
        (("--stacks", "5", "--burst", "--rate", "3/s"), "say how players arrive"),
        (("--stacks", "5", "--burst", "--churn", "10%", "--hold", "0s"), "--churn happens during --hold"),
        (("--stacks", "5", "--burst", "--expect", "runing-p95=10s"), 'did you mean "running"?'),
        (("--stacks", "5", "--burst", "--expect", "reachable-p95=10s"), "only with --probe tcp or http"),
        (
            ("--stacks", "5", "--burst", "--report", "nowhere/report.html"),
            "nowhere is not a folder, so no report can be written there",
        ),
    ],
)
def test_wrong_words_are_told_before_anything_is_asked(tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    pod = tmp_path / "pod.yaml"
    pod.write_text(seed()["pod_spec"])
    nowhere = {"STACKD_URL": "http://127.0.0.1:9", "STACKD_API_KEY": KEY}
    result = CliRunner(env=nowhere).invoke(stackd, ["rehearse", "--file", str(pod), *words])
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())


# ---- templates are rehearsed by name and weight; those with a pool are as fast as for players


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
        async with connected(at) as connection:
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
        async with connected(at) as connection:
            looked = await inspect(connection, plan(4, kinds=[template("web-1")]), "test")
        assert looked.with_others == [], "unassigned stacks are nobody's"
        found = await rehearsed(at, plan(4, kinds=[template("web-1")]))
        assert found.verdict.holds
        for sample in found.results.samples:
            assert sample.running == sample.accepted
        await eventually(filled)
        assert found.left == 0

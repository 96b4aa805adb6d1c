"""Before anything is created: plans that a rehearsal refuses to start, and options that the command line refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path

from click.testing import CliRunner

from stackd.cli import stackd
from stackd.embedded import EmbeddedCluster
from stackd.rehearse.measure import Stage
from stackd.rehearse.plan import LABEL, StackKind
from tests.harness import KEY, Harness, eventually, fast_cluster, harness, request_for, seed
from tests.rehearse.conftest import Rehearse, ended, inspected, kind, plan, rehearsed
from tests.templates import PLAIN, folder_with


async def test_what_fits_begins_and_else_the_scarce_resource_is_named(at: Harness) -> None:
    before = await inspected(at, 100)
    assert (before.wrong, before.anyway, before.with_others) == ((), [], [])
    assert (before.fits or 0) >= 100
    before = await inspected(at, 50, StackKind(name="large", body=request_for("nginx:stable", cpu="100")))
    assert (before.fits or 0) < 50
    assert "limited by the nodes (CPU: embedded-worker 9, embedded-worker2 9)" in before.anyway[0]
    assert await at.objects("pods") == {}


async def test_node_ports_bind_a_mix_by_what_each_kind_takes(tmp_path: Path) -> None:
    ports = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31012"}
    two = [{"container_port": number, "protocol": "TCP"} for number in (80, 81)]
    spec = request_for("nginx:stable")["pod_spec"].replace(
        "      ports:\n", "      ports:\n        - containerPort: 81\n          protocol: TCP\n"
    )
    mixed = (kind(weight=1), StackKind(name="two ports", body={"target_port": two, "pod_spec": spec}))
    async with harness(tmp_path, ports) as at:
        assert (await inspected(at, 8, *mixed)).anyway == []  # 4 stacks take one port each, 4 take two: all 12
        before = await inspected(at, 10, *mixed)
        assert (before.fits, before.anyway) == (8, ["10 stacks do not fit: 8 do, limited by free node ports"])


async def test_what_the_policy_refuses_cannot_be_overruled(tmp_path: Path) -> None:
    spec = request_for("nginx:stable")["pod_spec"].replace("spec:\n", "spec:\n  hostNetwork: true\n", 1)
    required = {"STACKD_LIMITS__REQUIRED_LABELS": '["player"]'} | folder_with(tmp_path, web_1=PLAIN)
    async with harness(tmp_path, required) as at:
        bad = StackKind(name="bad.yaml", body=seed() | {"pod_spec": spec, "labels": {"player": "1"}})
        (wrong,) = (await inspected(at, 1, bad)).wrong
        assert wrong.startswith("bad.yaml: invalid pod spec: spec.hostNetwork")
        assert "labels: player must be given" in (await inspected(at, 2)).wrong[0]
        unknown = StackKind(name="web1", body={"template": "web1", "labels": {"player": "1"}})
        assert 'there is no "web1"' in (await inspected(at, 1, unknown)).wrong[0]
        assert (await rehearsed(at, plan(2, labels={"player": "p{player}"}))).verdict.holds


async def test_the_command_refuses_unless_it_is_told_to_begin(tmp_path: Path, rehearse: Rehearse) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__MAX_STACKS": "4"}) as at:
        await at.create()
        await at.create(seed() | {"labels": {LABEL: "feed"}})
        words = ("--stacks", "5", "--burst", "--hold", "0s")
        pod = tmp_path / "pod.yaml"
        pod.write_text(seed()["pod_spec"])
        runner = CliRunner(env={"STACKD_URL": at.url, "STACKD_API_KEY": KEY, "COLUMNS": "200"})
        refused = await asyncio.to_thread(runner.invoke, stackd, ["rehearse", *words, "--file", str(pod)])
        err = refused.stderr
        assert refused.exit_code == 1
        for line in (
            "5 stacks do not fit: 2 do, limited by limits.max_stacks (override with --anyway",
            "others have stacks here (1), which a rehearsal would disturb (override with --with-others",
            "rehearsal feed still has stacks here (1); if it is over, delete them: "
            "stackd stacks delete --label stackd.rehearsal=feed",
        ):
            assert line in err
        assert len(await at.listed()) == 2
        code, out, _ = await ended(rehearse(at, *words, "--anyway", "--with-others"))
        assert (code, "It does not hold: 3 of 5 failed: 503 " in out) == (1, True)
        assert len(await at.listed()) == 2


async def test_templates_are_started_by_weight_and_run_when_they_come_from_a_pool(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, web_1=f"pool: 4\n{PLAIN}", pwn_1=PLAIN.replace("nginx:stable", "ctf/pwn:v1"))
    mixed = [
        StackKind(name=name, body={"template": name}, weight=weight) for name, weight in (("web-1", 2), ("pwn-1", 1))
    ]
    async with (
        EmbeddedCluster(fast_cluster(start_delay=1.0)) as cluster,  # longer than a create takes to answer
        harness(tmp_path, folder, cluster=cluster) as at,
    ):

        async def filled() -> bool:
            answer = (await at.call("GET", "/templates")).json["templates"]
            return bool(next(one["ready"] for one in answer if one["name"] == "web-1") == 4)

        await eventually(filled)
        assert (await inspected(at, 6, *mixed)).with_others == [], "unassigned stacks are nobody's"
        outcome = await rehearsed(at, plan(6, kinds=mixed))
        assert outcome.verdict.holds
        assert {group.name: group.started for group in outcome.results.kinds} == {"web-1": 4, "pwn-1": 2}
        for one in outcome.rehearsal.attempts:
            assert (one.times[Stage.RUNNING] == one.times[Stage.ACCEPTED]) is (one.kind == "web-1")
        await eventually(filled)
        assert outcome.remaining == 0

"""Before anything is created: plans that a rehearsal refuses to start, and options that the command line refuses."""

from __future__ import annotations

from pathlib import Path

from stackd.rehearse.plan import LABEL, StackKind
from tests.harness import Harness, harness, request_for, seed
from tests.rehearse.conftest import Rehearse, ended, inspected, plan, rehearsed
from tests.templates import PLAIN, folder_with


async def test_what_fits_begins_and_else_the_scarce_resource_is_named(at: Harness) -> None:
    before = await inspected(at, 100)
    assert (before.wrong, before.anyway, before.with_others) == ((), [], [])
    before = await inspected(at, 50, StackKind(name="large", body=request_for("nginx:stable", cpu="100")))
    assert (before.fits or 0) < 50
    assert "limited by the nodes (CPU" in before.anyway[0]
    assert await at.objects("pods") == {}


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
        code, _, err = await ended(rehearse(at, *words))
        assert code == 1
        for part in ("2 do, limited by limits.max_stacks", "others have stacks here (1)", "rehearsal feed still has"):
            assert part in err
        assert len(await at.listed()) == 2
        code, out, _ = await ended(rehearse(at, *words, "--anyway", "--with-others"))
        assert (code, "It does not hold: 3 of 5 failed: 503 " in out) == (1, True)
        assert len(await at.listed()) == 2

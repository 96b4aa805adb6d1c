"""Checks: the program of a template's author says whether a stack works."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from stackd.clock import NANOSECONDS
from stackd.embedded.resources import PODS
from stackd.lifecycle import checks, decide, owned
from tests.api.scenes import SetBack
from tests.harness import DEADLINE, Harness, Machine, eventually, seed, until
from tests.templates import PLAIN, folder_with, start

PASSES = 'check: {image: registry.example/solve, command: [/bin/sh, -c, "echo solved; exit 0"]}\n'
FAILS = 'check: {image: registry.example/solve, command: [/bin/sh, -c, "echo $HOST:$PORT says $FLAG; exit 1"], every: 10s}\n'
VALUES = 'values: {FLAG: "flag{<hex:32>}"}\n'
SHARED = PLAIN.replace("ttl: 1h\n", "shared: true\n")


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared stack is checked as soon as it runs."""
    monkeypatch.setattr(checks, "FORWARDED_NANOSECONDS", 0)


def plain(check: str) -> str:
    return PLAIN + VALUES + check


async def stack_of(at: Harness) -> str:
    return await at.running({"template": "web-1"})


async def entry(at: Harness, name: str = "web-1") -> dict[str, Any]:
    shown: dict[str, Any] = {one["name"]: one for one in (await at.get("/templates"))["templates"]}[name]
    return shown


def check_pods(at: Harness) -> list[dict[str, Any]]:
    pods = at.cluster.store.of(PODS).records.values()
    return [pod.obj for pod in pods if pod.obj["metadata"]["name"].startswith("check-")]


async def test_it_says_whether_the_stack_works_and_why_not_and_tells_no_value(vm: Machine) -> None:
    at = await start(vm, web_1=plain(FAILS))
    stack_id = await stack_of(at)
    answer = await at.post(f"/stacks/{stack_id}/check")
    stack = await until(lambda: at.stack(stack_id), lambda seen: seen["status_reason"])
    port = stack["ports"][0]["node_port"]
    message = f"{stack['node_public_ip']}:{port} says (hidden)"
    assert (answer["healthy"], answer["message"]) == (False, message)
    assert (stack["status"], stack["status_reason"], stack["status_message"]) == ("running", "CheckFailed", message)
    assert (await at.timeline(stack_id))[-1]["kind"] == "unhealthy"
    folder_with(vm.folder, web_1=plain(PASSES))
    await at.reload_templates()
    answer = await at.post(f"/stacks/{stack_id}/check")
    assert (answer["stack_id"], answer["healthy"], answer["message"]) == (stack_id, True, "solved")
    assert not check_pods(at)
    await until(lambda: at.timeline(stack_id), lambda seen: seen[-1]["kind"] == "healthy")
    assert (await at.stack(stack_id))["status_reason"] == ""


async def test_one_that_does_not_end_has_failed(vm: Machine) -> None:
    at = await start(vm, web_1=plain("check: {image: registry.example/hangs, timeout: 1s}\n"))
    answer = await at.post(f"/stacks/{await stack_of(at)}/check")
    assert not answer["healthy"]
    assert answer["message"].splitlines()[-1] == "no end within 1 s", "as the reason of others, in the last line"
    assert not check_pods(at)


@pytest.mark.parametrize("image", ["registry.example/nopull", "registry.example/oom"])
async def test_one_that_cannot_be_run_says_nothing_about_the_stack(vm: Machine, image: str) -> None:
    at = await start(vm, web_1=plain(f"check: {{image: {image}}}\n"))
    stack_id = await stack_of(at)
    at.reload("stacks", image_pull_grace=0.5, scheduling_timeout=0.5)
    assert (await at.call("POST", f"/stacks/{stack_id}/check")).status == 503
    assert (await at.stack(stack_id))["status_reason"] == ""
    assert not check_pods(at)


async def test_what_cannot_be_checked(vm: Machine) -> None:
    at = await start(vm, web_1=plain(PASSES), plain=PLAIN)
    for body, code in (({"template": "plain"}, "no_check"), (seed(), "no_check"), ({"template": "web-1"}, "no_pod")):
        stack_id = await at.running(body)
        if code == "no_pod":
            await at.do("stop", stack_id)
        reply = await at.call("POST", f"/stacks/{stack_id}/check")
        assert (reply.status, reply.code) == (409, code)
    assert (await at.call("POST", "/stacks/stack-0000000000000000/check")).status == 404


async def test_few_run_at_a_time_each_in_a_hardened_pod_that_knows_where_the_stack_is(vm: Machine) -> None:
    """And equal ones are one."""
    at = await start(vm, web_1=plain("check: {image: registry.example/hangs}\n"))
    first, second = await stack_of(at), await stack_of(at)
    under_way = [asyncio.create_task(at.call("POST", f"/stacks/{first}/check")) for _ in range(2)]
    await eventually(lambda: at.daemon.context.checks.on_demand.total() == 2 and check_pods(at))
    assert (await at.call("POST", f"/stacks/{second}/check")).status == 429
    (pod,) = check_pods(at)
    labels, spec = pod["metadata"]["labels"], pod["spec"]
    assert labels == {"stackd.io/role": "check", "stackd.io/instance": "default", "stackd.io/egress": "check"}
    assert (spec["automountServiceAccountToken"], spec["nodeSelector"]) == (False, {"role": "stack"})
    (container,) = spec["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    env, stack = {one["name"]: one["value"] for one in container["env"]}, await at.stack(first)
    host, port = stack["node_public_ip"], str(stack["ports"][0]["node_port"])
    assert (env["HOST"], env["PORT"], env["URL"], env["URL_80"]) == (host, port, *[f"http://{host}:{port}"] * 2)
    assert env["FLAG"].startswith("flag{")
    await at.patch("pods", f"{pod['metadata']['name']}/status", {"status": {"phase": "Succeeded"}})
    first_reply, again = await asyncio.gather(*under_way)
    assert (first_reply.status, again.text) == (200, first_reply.text)


async def test_what_an_earlier_process_has_left_is_deleted_and_nothing_else(vm: Machine) -> None:
    at = await start(vm, web_1=plain(PASSES))
    ours = {"stackd.io/role": "check", "stackd.io/instance": "default"}
    spec = {"containers": [{"name": "check", "image": "registry.example/solve"}]}
    for name, labels in (("check-a", ours), ("check-b", ours | {"stackd.io/instance": "other"}), ("check-c", {})):
        await at.apply("pods", name, labels=labels, spec=spec)
    at = await vm.start()
    await eventually(lambda: [pod["metadata"]["name"] for pod in check_pods(at)] == ["check-b", "check-c"])


async def test_a_shared_stack_is_checked_after_its_start_and_then_again(vm: Machine) -> None:
    at = await start(vm, notes=SHARED + PASSES.replace("}\n", ", every: 10s}\n"))
    seen = (await until(lambda: entry(at, "notes"), lambda seen: seen["checked"]))["checked"]
    assert (seen["healthy"], seen["message"], seen["failures"], seen["trouble"]) == (True, "solved", 0, "")
    assert await at.metric("stackd_template_check_healthy", template="notes") == 1
    assert await at.metric("stackd_template_check_age_seconds", template="notes") < 60
    what, _ = at.daemon.context.checks.next["notes"]
    at.daemon.context.checks.next["notes"] = what, 0.0
    at.daemon.context.wake_templates()
    await until(lambda: entry(at, "notes"), lambda later: later["checked"]["at"] > seen["at"])


async def test_a_shared_stack_that_fails_gets_another_pod(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROVEN", "LINGER"):
        monkeypatch.setattr(decide, f"{name}_NANOSECONDS", 0)
    at = await start(vm, notes=SHARED + FAILS.replace("10s", "10s, failures: 2"))
    first = await until(lambda: entry(at, "notes"), lambda seen: seen["checked"])
    stack_id = first["shared_stack"]
    assert await at.metric("stackd_template_check_healthy", template="notes") == 0
    assert (await at.stack(stack_id))["pod_id"] == stack_id
    what, _ = at.daemon.context.checks.next["notes"]
    at.daemon.context.checks.next["notes"] = what, 0.0
    at.daemon.context.wake_templates()
    await until(lambda: at.stack(stack_id), lambda seen: seen["pod_id"] == f"{stack_id}-1")
    lines = [(line["kind"], line["reason"]) for line in await at.timeline(stack_id)]
    assert ("unhealthy", "CheckFailed") in lines
    assert ("restart_requested", "CheckFailed") in lines


async def test_a_check_that_cannot_be_run_restarts_nothing(vm: Machine) -> None:
    at = await start(vm, notes=SHARED + "check: {image: registry.example/nostart, failures: 1}\n")
    seen = await until(lambda: entry(at, "notes"), lambda seen: seen["checked"])
    assert seen["checked"]["healthy"] is None
    assert "could not be run" in seen["checked"]["trouble"]
    await at.passes(3)
    assert (await at.stack(seen["shared_stack"]))["pod_id"] == seen["shared_stack"]


async def test_what_waits_for_another_check_begins_then(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned, "CHECKS_AT_ONCE", 1)
    no_pass = {"STACKD_RECONCILE__INTERVAL": "1h"}
    at = await vm.start(settings=no_pass | folder_with(vm.folder, **dict.fromkeys("abc", SHARED + PASSES)))
    for name in "abc":
        await until(partial(entry, at, name), lambda seen: seen["checked"])


async def test_of_a_pool_one_stack_is_checked_and_replaced(vm: Machine) -> None:
    at = await start(vm, web_1=plain(PASSES) + "pool: 2\n")
    seen = (await until(lambda: entry(at), lambda seen: seen["checked"]))["checked"]
    assert seen["healthy"]
    await at.until_listed(0)
    again = await until(lambda: entry(at), lambda seen: seen["ready"] == 2)
    assert again["checked"]["stack_id"] == seen["stack_id"]
    waiting = {each for (each,) in at.rows("SELECT stack_id FROM stacks WHERE unassigned = 1")}
    assert seen["stack_id"] not in waiting


async def test_it_does_not_wait_for_a_clock_that_was_set_back(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "FORWARDED_NANOSECONDS", NANOSECONDS)
    clock = SetBack()
    at = await vm.start(settings=folder_with(vm.folder, web_1=plain(PASSES)), clock=clock)
    stack_id = await stack_of(at)
    clock.by = 3600.0
    async with asyncio.timeout(DEADLINE):
        assert (await at.post(f"/stacks/{stack_id}/check"))["healthy"] is True

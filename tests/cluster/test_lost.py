"""Nothing is lost and nothing is left on a real cluster: killed processes, lost files, ports held by others."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster.real import Process, Real
from tests.cluster.site import LEASE_SECONDS, STACKS, Site
from tests.harness import seed


async def agreed(real: Real) -> bool:
    """Whether the pods and Services in the cluster are exactly those of the listed stacks."""
    stacks = {stack["stack_id"] for stack in await real.stacks()}
    pods, services = await real.objects("pods"), await real.objects("services")
    return set(pods) == stacks and set(services) == {f"svc-{name}" for name in stacks}


@pytest.mark.parametrize("moment", [0.02, 0.1, 0.3])
async def test_a_daemon_killed_while_players_press_start_keeps_what_it_has_confirmed_and_leaves_nothing_else(
    process: Process, moment: float
) -> None:
    real = process.real

    async def press_start() -> str | None:
        try:
            status, answer = await real.call("POST", "/stacks", seed())
        except real.lost:
            return None
        return str(answer["stack_id"]) if status == 201 else None

    await process.start()
    pressing = [asyncio.create_task(press_start()) for _ in range(20)]
    await asyncio.sleep(moment)  # whatever the daemon is doing at that moment
    process.kill()
    confirmed = {stack_id for stack_id in await asyncio.gather(*pressing) if stack_id is not None}
    await process.start()
    await real.until(lambda: agreed(real), "the same stacks in the cluster and in the file")
    assert confirmed <= {stack["stack_id"] for stack in await real.stacks()}


async def test_a_job_goes_on_after_the_daemon_was_killed_and_counts_each_stack_once(process: Process) -> None:
    real = process.real
    await process.start()
    ids = [stack["stack_id"] for stack in await real.create(20)]
    _, accepted = await real.call("POST", "/stacks/batch-delete", {"stack_ids": ids})

    async def begun() -> bool:
        _, job = await real.call("GET", f"/stacks/batch-delete/{accepted['job_id']}")
        return bool(job["deleted"])

    await real.until(begun, "the first deletes")
    process.kill()
    await process.start()
    job = await real.finished(accepted["job_id"])
    assert (job["total"], job["deleted"] + job["not_found"], job["failed"]) == (20, 20, 0)
    assert not await real.objects("pods")
    assert not await real.objects("services")


# ---- under load, the owner is killed, paused or cut off from the API server: a standby takes over and loses nothing


TAKEN_OVER_SECONDS = 1.5 * LEASE_SECONDS


@pytest.mark.parametrize("event", ["kill", "stop", "cut"])
async def test_a_standby_takes_over_and_nothing_that_was_acknowledged_is_lost(site: Site, event: str) -> None:
    chance = random.Random(os.environ.get("STACKD_TEST_SEED", event))
    await site.owner.start()
    for stack in await site.owner.real.create(STACKS):
        site.ledger.created[stack["stack_id"]] = stack
    await site.standby.start(standing_by=True)
    over = asyncio.Event()
    pressing = [asyncio.create_task(site.press(random.Random(chance.random()), over)) for _ in range(6)]
    await asyncio.sleep(chance.uniform(0.5, 2.5))
    happened = time.monotonic()
    if event == "kill":
        site.owner.kill()
    elif event == "stop":
        site.owner.send(signal.SIGSTOP)
    else:
        site.wire.whole = False
    await site.standby.until_ready()
    taken_over = time.monotonic()
    assert taken_over - happened < TAKEN_OVER_SECONDS + 5
    if event == "stop":
        site.owner.send(signal.SIGCONT)
    site.wire.whole = True
    await asyncio.sleep(2.0)  # time for the old owner to do what it still would
    over.set()
    done, _ = await asyncio.wait(pressing, timeout=60)
    for client in done:
        client.result()
    acknowledged_late = [what for at, what in site.late if at > taken_over]
    assert not acknowledged_late, f"two acknowledged: {acknowledged_late}"
    await agree(site)
    site.owner.kill()


async def agree(site: Site) -> None:
    """Check that the standby has everything that was acknowledged, and that the cluster matches."""
    real, ledger = site.standby.real, site.ledger
    stacks = {stack["stack_id"]: stack for stack in await real.stacks()}
    assert not ledger.deleted & stacks.keys(), "deleted stacks came back"
    for stack_id, created in ledger.created.items():
        if stack_id in ledger.deleted or ledger.wanted.get(stack_id) == "delete":
            continue
        assert stack_id in stacks, f"{stack_id} is lost; last asked: {ledger.wanted.get(stack_id)}"
        ends = ledger.ends.get(stack_id, created["ttl_expires_at"])
        status, found = await real.call("GET", f"/stacks/{stack_id}")
        assert status == 200
        if ledger.wanted.get(stack_id) == "extend":
            assert found["ttl_expires_at"] >= ends
        else:
            assert found["ttl_expires_at"] == ends, (stack_id, found)
        if stack_id not in ledger.wanted and stack_id in ledger.stopped:
            assert (found["status"] == "stopped") is ledger.stopped[stack_id], (stack_id, found)
        assert found["ports"] == created["ports"]
        assert found["pod_spec"] == created["pod_spec"]

    async def are_the_same() -> bool:
        found = await real.stacks()
        wanted = {stack["stack_id"] for stack in found if stack["status"] != "stopped"}
        services = {stack["service_name"] for stack in found}
        return wanted == set(await real.objects("pods")) and services == set(await real.objects("services"))

    await real.until(are_the_same, "the same stacks in the cluster as in the file")


# ---- pools on a real cluster: a daemon that fills them is killed again and again; no stack is given twice or lost


SIZE = 6
CLIENTS = 6
KILLS = 5
TEMPLATE = """\
target_port: [{container_port: 80, protocol: TCP}]
ttl: 1h
labels: {challenge: web-1}
pool: %d
values: {FLAG: "flag{<hex:32>}"}
pod:
%s"""


@dataclass(slots=True)
class Given:
    """What clients were told: the stacks that they got, and those whose delete they requested or had acknowledged."""

    stacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)


@pytest.fixture
def pooled(process: Process) -> Process:
    """The daemon with a template and its pool."""
    folder = process.folder / "templates"
    folder.mkdir()
    pod = "".join(f"  {line}\n" for line in seed()["pod_spec"].splitlines())
    (folder / "web-1.yaml").write_text(TEMPLATE % (SIZE, pod))
    process.configure(STACKD_TEMPLATES__DIRECTORY=str(folder), STACKD_TEMPLATES__REFILL_PER_SECOND="20")
    return process


async def press(real: Real, given: Given, chance: random.Random, over: asyncio.Event) -> None:
    """A client that starts stacks and deletes about every second one."""
    while not over.is_set():
        mine = [one for one in given.stacks if one not in given.asked]
        try:
            if mine and chance.random() < 0.5:
                stack_id = chance.choice(mine)
                given.asked.add(stack_id)
                status, _ = await real.call("DELETE", f"/stacks/{stack_id}")
                if status == 200:
                    given.deleted.add(stack_id)
                continue
            status, stack = await real.call("POST", "/stacks", {"template": "web-1", "labels": {"team": "7"}})
        except Real.lost:
            await asyncio.sleep(0.05)
            continue
        if status == 201:
            if stack["stack_id"] in given.stacks:
                given.twice.append(stack["stack_id"])
            given.stacks[stack["stack_id"]] = stack


async def entry(real: Real) -> dict[str, Any]:
    """The template as ``GET /templates`` shows it."""
    _, answer = await real.call("GET", "/templates")
    found: dict[str, Any] = answer["templates"][0]
    return found


async def test_what_is_given_while_the_daemon_is_killed_is_given_once_and_kept_and_the_pool_is_full_again(
    pooled: Process,
) -> None:
    real, given, chance, over = pooled.real, Given(), random.Random(7), asyncio.Event()

    async def full() -> bool:
        try:
            return bool((await entry(real))["ready"] == SIZE)
        except Real.lost:
            return False

    await pooled.start()
    await real.until(full, "a full pool")
    pressing = [asyncio.create_task(press(real, given, random.Random(n), over)) for n in range(CLIENTS)]
    for _ in range(KILLS):
        before = len(given.stacks)

        async def some_were_given(before: int = before) -> bool:
            return len(given.stacks) >= before + CLIENTS

        await real.until(some_were_given, "creates that are answered")
        await asyncio.sleep(chance.uniform(0.0, 0.3))  # whatever the daemon is doing at that moment
        pooled.kill()
        await pooled.start()
    over.set()
    await asyncio.gather(*pressing)
    await real.until(full, "a full pool again")

    assert not given.twice
    flags = [stack["values"]["FLAG"] for stack in given.stacks.values()]
    assert len(set(flags)) == len(flags), "a flag was given to two"
    kept = {stack["stack_id"]: stack for stack in await real.stacks()}
    assert not kept.keys() & given.deleted, "deleted stacks are there again"
    assert given.stacks.keys() - given.asked <= kept.keys(), "stacks are lost"

    async def agreed() -> bool:
        pods, services = await real.objects("pods"), await real.objects("services")
        waiting = len(pods) - len(await real.stacks())
        return waiting == SIZE and set(services) == {f"svc-{name}" for name in pods}

    await real.until(agreed, "a pod and a Service for each stack and for each that waits")
    pods = await real.objects("pods")
    for stack_id in given.stacks.keys() - given.asked:
        (container,) = pods[stack_id]["spec"]["containers"]
        assert {"name": "FLAG", "value": given.stacks[stack_id]["values"]["FLAG"]} in container["env"]
    assert any(stack["status"] == "running" for stack in given.stacks.values()), "the pool has given none"

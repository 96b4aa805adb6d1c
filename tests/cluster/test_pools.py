"""Pools on a real cluster: a daemon that fills them is killed again and again; no stack is given twice or lost."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster.process import Process
from tests.cluster.real import Real
from tests.harness import seed

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

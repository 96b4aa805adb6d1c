"""Under load, the owner is killed, paused or cut off from the API server: a standby takes over and loses nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

import pytest

from tests.cluster.site import LEASE_SECONDS, STACKS, Site

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

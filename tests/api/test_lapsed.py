"""An owner whose Lease was not renewed in time: it says so, and takes nothing that it does not know for gone."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from tests.daemons import daemon, on, replace_owner
from tests.harness import Harness, fast_cluster, seed, until

NO_STACK = "stack-0000000000000000"
NO_JOB = "job-0000000000000000"
LEASE_SECONDS = 2.0

pytestmark = pytest.mark.stackd(cluster__lease_duration=f"{LEASE_SECONDS:g}s")


async def test_a_404_is_said_of_nothing_that_it_has(at: Harness) -> None:
    stack_id = await at.running()
    await at.faults.refuse()
    await until(at.role, lambda role: role == "lapsed")
    assert (await at.get("/owner"))["may_change"] is False
    assert await at.metric("stackd_owner") == 0
    assert (await at.stack(stack_id))["status"] == "running"
    assert await at.listed() == [stack_id]
    for path in (*(f"{NO_STACK}{more}" for more in ("", "/status", "/timeline", "/logs")), f"batch-delete/{NO_JOB}"):
        await at.refused(503, "another stackd may own the stacks now", f"/stacks/{path}", method="GET")
    for one in (NO_STACK, stack_id):
        for verb, body in (("stop", None), ("start", None), ("restart", None), ("extend", {"ttl": "1m"})):
            await at.refused(503, "", f"/stacks/{one}/{verb}", body)
        await at.refused(503, "", f"/stacks/{one}", method="DELETE")
    await at.refused(503, "", "/stacks", seed())
    assert (await at.call("GET", "/no/such/route")).status == 404
    assert (await at.call("GET", "/docs/none", key=None)).status == 404
    await at.faults.listen()
    await until(at.role, lambda role: role == "owner")
    await at.until_ready()
    assert (await at.call("GET", f"/stacks/{NO_STACK}")).status == 404
    await until(lambda: at.call("DELETE", f"/stacks/{stack_id}"), lambda reply: reply.status in (200, 404))


async def test_a_read_that_waited_while_it_was_suspended_gets_no_old_answer(tmp_path: Path) -> None:
    """Many seconds may have passed, in which another owner has changed and deleted stacks."""
    async with EmbeddedCluster(fast_cluster()) as cluster:
        env = on(cluster, tmp_path) | {"STACKD_CLUSTER__LEASE_DURATION": f"{LEASE_SECONDS:g}s"}
        async with daemon(tmp_path, env) as process:
            stack_id = await process.real.running()
            paths = [f"/stacks/{stack_id}", f"/stacks/{stack_id}/status", "/stacks"] * 5
            for replaced, status in ((False, 200), (True, 503)):
                process.send(signal.SIGSTOP)
                if replaced:
                    replace_owner(cluster)
                reading = [asyncio.create_task(process.real.call("GET", path)) for path in paths]
                await asyncio.sleep(1.5 * LEASE_SECONDS)  # longer than the Lease is valid
                process.send(signal.SIGCONT)
                assert {reply.status for reply in await asyncio.gather(*reading)} == {status}


@pytest.mark.stackd(cluster__lease_duration="3s", stacks__unschedulable_grace="20s")
async def test_a_create_that_a_node_takes_while_the_lease_lapses_leaves_nothing(at: Harness) -> None:
    nodes = [*await at.objects("nodes")]
    for node in nodes:
        at.faults.cordon(node)
    creating = asyncio.create_task(at.call("POST", "/stacks", seed()))
    await until(lambda: at.objects("pods"), lambda seen: seen)
    with at.without_lease("another stackd may own the stacks now"):
        for node in nodes:
            at.faults.cordon(node, on=False)
        reply = await creating
    assert (reply.status, reply.code) == (503, "not_owner"), reply.text
    await until(at.pods_and_services, lambda seen: not seen)
    await until(at.listed, lambda seen: not seen)

"""Two stackds, one cluster: one owns the stacks, the other stands by until the owner dies or is asked to step back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from click.testing import CliRunner

from stackd.cli import stackd as command
from stackd.lifecycle import ownership
from stackd.upkeep.systemd import ProcessContext
from tests.daemons import replace_owner, until_leaving
from tests.harness import KEY, Client, Harness, Machines, Reply, eventually, seed, until

LEASES = "/apis/coordination.k8s.io/v1/namespaces/stacks/leases/stackd-default"
NO_STACK = "stack-0000000000000000"
REFUSED: tuple[tuple[str, str, Any], ...] = (
    *(("GET", path, None) for path in ("/readyz", "/stacks", f"/stacks/{NO_STACK}", "/stats", "/capacity", "/events")),
    ("GET", "/no/such/route", None),
    ("POST", "/capacity", {}),
    ("POST", "/stacks", seed()),
    ("DELETE", f"/stacks/{NO_STACK}", None),
    ("PATCH", f"/stacks/{NO_STACK}", {"labels": {"player": "7"}}),
    ("POST", "/stacks/batch-delete", {"stack_ids": [NO_STACK]}),
    ("POST", "/reconcile/confirm", None),
)


async def standby(vms: Machines, **options: Any) -> Harness:
    at = await vms.start("vm2", wait=False, **options)
    await at.until_metric("stackd_standby", 1)
    return at


async def until_owner(at: Harness) -> None:
    await until(at.role, lambda role: role == "owner")
    await at.until_ready()


def run(at: Harness, *words: str, code: int = 0) -> str:
    done = CliRunner().invoke(command, [*words], env={"STACKD_URL": at.url, "STACKD_API_KEY": KEY})
    assert done.exit_code == code, done.output
    return done.output


async def lease_of(at: Harness) -> dict[str, Any]:
    lease: dict[str, Any] = (await at.kubectl("GET", LEASES))["spec"]
    return lease


async def test_a_standby_answers_nothing_but_that_it_lives_and_whose_the_stacks_are(vms: Machines) -> None:
    one = await vms.start("vm1")
    await one.create()
    before = await one.pods_and_services()
    two = await standby(vms)
    assert await two.get("/healthz") == {"status": "ok"}
    for method, path, body in REFUSED:
        await two.refused(503, "vm1 owns the stacks", path, body, method=method)
    assert (await two.call("GET", "/stacks", key="sk-wrong")).status == 401
    assert (await two.call("GET", "/dashboard")).status == 200
    answer = await two.get("/owner")
    assert (answer["role"], answer["owner"], answer["may_change"]) == ("standby", "vm1", False)
    assert (await two.metric("stackd_owner"), await one.metric("stackd_owner")) == (0, 1)
    for at, role, code in ((two, "owner", 1), (one, "owner", 0), (one, "Owner", 2)):
        await asyncio.to_thread(run, at, "owner", "--is", role, code=code)
    assert await one.pods_and_services() == before
    assert two.counts.total("create", "services") == 2, "one asked for the port range, and one for the stack"
    stood = (await lease_of(one))["holderIdentity"]
    other = await vms.start("vm1", folder="restored", wait=False)
    await other.until_unready("another state file of vm1 owns the stacks")
    assert (await lease_of(one))["holderIdentity"] == stood


async def test_a_standby_waits_for_a_restart_of_the_owner(vms: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "LEASE_KEPT_SECONDS", 30)
    restarts = ProcessContext(restarts=True)
    await (await vms.start("vm1", lease="60s", process=restarts)).create()
    two = await standby(vms, lease="60s")
    await vms.stop("vm1")
    spec = await lease_of(two)
    assert (spec["holderIdentity"].partition("/")[0], spec["leaseDurationSeconds"]) == ("vm1", 30)
    await vms.start("vm1", lease="60s", process=restarts)
    assert ((await lease_of(two))["leaseDurationSeconds"], vms.holders) == (60, ["vm1"])
    monkeypatch.setattr(ownership, "LEASE_KEPT_SECONDS", 1)
    await vms.stop("vm1")
    await until_owner(two)


async def test_a_standby_takes_over_as_soon_as_the_owner_stops(vms: Machines) -> None:
    """Not only after the Lease of a minute has run out. Until it is given back, reads are answered."""
    one = await vms.start("vm1", lease="60s", server__shutdown_timeout="20s")
    stack_id, other = await one.running(), await one.running()
    two = await standby(vms, lease="60s")
    outside = Client(session=two.session, url=one.url)
    one.faults.add_fault(action="latency", verb="create|delete", resource="pods", seconds=60)
    creating = asyncio.create_task(outside.call("POST", "/stacks", seed()))
    deleting = asyncio.create_task(outside.call("DELETE", f"/stacks/{other}"))
    await eventually(lambda: one.rows("SELECT count(*), count(deleting_since) FROM stacks") == [(3, 1)])
    stopping = asyncio.create_task(vms.stop("vm1"))
    await until_leaving(outside)
    assert (await outside.stack(stack_id))["status"] == "running"
    await outside.refused(503, "shutting down", f"/stacks/{stack_id}", method="DELETE")
    assert (await outside.role(), vms.holders) == ("owner", ["vm1"])
    one.faults.end("latency")
    created = await creating
    assert (created.status, (await deleting).status) == (201, 200)
    await until_owner(two)
    await stopping
    assert vms.holders == ["vm1", "", "vm2"]
    assert sorted(await two.listed()) == sorted([stack_id, created.json["stack_id"]])


async def test_a_takeover_is_asked_for_and_loses_nothing(vms: Machines) -> None:
    one = await vms.start("vm1")
    await one.running()
    before = await one.answers()
    await one.refused(409, "", "/takeover")
    two = await standby(vms)
    taking = asyncio.create_task(asyncio.to_thread(run, two, "takeover"))
    assert "vm2 takes over" in await one.ended()
    assert await two.role() == "standby", "what is under way is finished first"
    await vms.stop("vm1")
    assert await taking == "vm1 was asked to hand the stacks over\nvm2 owns the stacks\n"
    await until_owner(two)
    assert vms.holders == ["vm1", "", "vm2"], "it was given back, and did not have to run out"
    assert await two.answers() == before
    assert "vm2 since " in await asyncio.to_thread(run, two, "owner")


async def test_an_owner_that_was_replaced_says_so_and_ends(vms: Machines) -> None:
    one = await vms.start("vm1")
    stack_id = await one.running()
    replace_owner(one.cluster)
    assert "vm9 owns the stacks now" in await one.ended()
    before = await one.pods_and_services()
    path = f"/stacks/{stack_id}"
    for changed, body in (("/stacks", seed()), (f"{path}/extend", {"ttl": "1m"}), (f"{path}/stop", None)):
        await one.refused(503, "", changed, body)
    await one.refused(503, "", path, method="DELETE")
    assert await one.pods_and_services() == before


@pytest.mark.parametrize(("spares", "verb"), [("0", "create"), ("1", "patch")])
async def test_a_create_that_the_owner_before_did_not_finish_leaves_no_pod(
    vms: Machines, spares: str, verb: str
) -> None:
    """The pod has no record yet, and its stack was never acknowledged; the next owner has another file."""
    one = await vms.start("vm1", stacks__spare_services=spares)
    stack_id = await one.running()
    await until(lambda: one.get("/stats"), lambda stats: stats["spare_services"] == int(spares))
    one.faults.add_fault(action="hang", verb=verb, resource="services")
    creating = asyncio.create_task(one.call("POST", "/stacks", seed()))
    await until(lambda: one.objects("pods"), lambda pods: len(pods) == 2)
    replace_owner(one.cluster)
    await one.ended()
    assert (await creating).status == 503
    one.faults.clear()
    two = await vms.start("vm2")
    await two.run_now("expire")  # makes the daemon trust the clock
    await until(lambda: two.objects("pods"), lambda pods: list(pods) == [stack_id])
    assert await two.listed() == [stack_id]


# ---- whoever loses the stacks amid a change promises nothing of it: the next owner does not know of it


async def running_at_rest(at: Harness) -> str:
    """The id of a running stack; nothing is left to write."""
    stack_id = await at.running()
    await at.run_now("expire")  # makes the daemon trust the clock
    await eventually(lambda: not at.is_writing)
    return stack_id


def begun(at: Harness, verb: str, stack_id: str) -> asyncio.Task[Reply]:
    """A task with the request that changes the stack."""
    path = f"/stacks/{stack_id}" if verb == "delete" else f"/stacks/{stack_id}/{verb}"
    body = {"ttl": "1m"} if verb == "extend" else None
    return asyncio.create_task(at.call("DELETE" if verb == "delete" else "POST", path, body))


async def is_not_promised(at: Harness, changing: asyncio.Task[Reply]) -> None:
    """Take the Lease away amid a change, which then has to be refused."""
    with at.without_lease("vm2 owns the stacks now"):
        reply = await changing
    assert (reply.status, reply.error) == (503, "vm2 owns the stacks now")


async def test_a_change_that_was_done_while_the_lease_ran_out_is_not_acknowledged(at: Harness) -> None:
    stack_id = await running_at_rest(at)
    asked = await at.metric("stackd_kubernetes_requests_total", verb="delete")
    at.faults.pause()
    deleting = begun(at, "delete", stack_id)
    await eventually(lambda: at.rows("SELECT 1 FROM stacks WHERE deleting_since IS NOT NULL"))
    with at.no_writing():
        at.faults.resume()
        await at.until_at_least("stackd_kubernetes_requests_total", asked + 2, verb="delete")
        await until(at.pods_and_services, lambda seen: at.is_writing and not seen)
        at.lose_lease("vm2 owns the stacks now")
    await is_not_promised(at, deleting)
    assert not at.rows("SELECT 1 FROM stacks"), "it was done"


INTENDED = {
    "delete": "deleting_since IS NOT NULL",
    "stop": "desired = 'stopped'",
    "restart": "generation = 1",
    "extend": "ttl_expires_at - created_at = 7260 * 1000000000",
}


@pytest.mark.parametrize("verb", INTENDED)
async def test_nor_is_one_that_was_only_begun(at: Harness, verb: str) -> None:
    stack_id = await running_at_rest(at)
    with at.no_writing():
        changing = begun(at, verb, stack_id)
        await eventually(lambda: at.is_writing)
        at.lose_lease("vm2 owns the stacks now")
    await is_not_promised(at, changing)
    assert at.rows(f"SELECT 1 FROM stacks WHERE {INTENDED[verb]}"), "it was begun"


async def test_nor_is_one_that_waits_for_a_read(at: Harness) -> None:
    """The fence does not cut off a read, since it changes nothing; but stackd must not go on after the read."""
    stack_id = await running_at_rest(at)
    await at.call("POST", f"/stacks/{stack_id}/stop")
    at.daemon.context.memory.gone.clear()  # as after a start: it asks whether the pod is gone
    at.give_kubernetes(timeout=1.0, attempt_timeout=1.0)
    at.faults.add_fault(action="hang", verb="get", resource="pods")
    at.counts.clear()
    changing = begun(at, "delete", stack_id)
    await eventually(lambda: at.counts.in_flight > 0)
    await is_not_promised(at, changing)

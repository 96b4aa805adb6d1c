"""Two stackds, one cluster: one owns the stacks, the other stands by until the owner dies or is asked to step back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stackd.cli import stackd as command
from stackd.embedded import EmbeddedCluster, resources
from stackd.embedded.store import ObjectChange
from stackd.lifecycle import ownership
from tests.api.test_lost_file import answers, uids
from tests.harness import KEY, Harness, Reply, eventually, fast_cluster, harness, seed, until

LEASE = {"STACKD_CLUSTER__LEASE_DURATION": "1s"}
LEASES = "/apis/coordination.k8s.io/v1/namespaces/stacks/leases/stackd-default"
REFUSED: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/readyz", None),
    ("GET", "/stacks", None),
    ("GET", "/stacks/stack-0000000000000000", None),
    ("GET", "/stats", None),
    ("GET", "/capacity", None),
    ("POST", "/capacity", {}),
    ("GET", "/events", None),
    ("POST", "/stacks", seed()),
    ("DELETE", "/stacks/stack-0000000000000000", None),
    ("POST", "/stacks/batch-delete", {"stack_ids": ["stack-0000000000000000"]}),
    ("POST", "/reconcile/confirm", None),
    ("GET", "/no/such/route", None),
)


@dataclass(slots=True, kw_only=True)
class Site:
    """A cluster, and stackds that start and stop, each with its own file; ``holders``: the Lease's holders in order."""

    cluster: EmbeddedCluster
    folder: Path
    stacks: dict[str, AsyncExitStack] = field(default_factory=dict)
    holders: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cluster.store.observe(self._follow_lease)

    def _follow_lease(self, change: ObjectChange) -> None:
        if change.after.resource is resources.LEASES:
            holder = change.after.obj["spec"].get("holderIdentity", "").partition("/")[0]
            if self.holders[-1:] != [holder]:
                self.holders.append(holder)

    async def start(self, name: str, *, wait: bool = False, lease: str = "1s") -> Harness:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        self.stacks[name] = AsyncExitStack()
        settings = LEASE | {"STACKD_CLUSTER__LEASE_DURATION": lease}
        starting = harness(folder, settings, cluster=self.cluster, wait=wait, host=name)
        return await self.stacks[name].enter_async_context(starting)

    async def stop(self, name: str) -> None:
        await self.stacks.pop(name).aclose()

    async def lease(self, at: Harness) -> dict[str, Any]:
        return await at.kubectl("GET", LEASES)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        ready = Site(cluster=cluster, folder=tmp_path)
        yield ready
        for name in list(ready.stacks):
            await ready.stop(name)


async def standing_by(at: Harness) -> None:
    await at.until_metric("stackd_standby", 1)


async def owns(at: Harness) -> bool:
    reply = await at.call("GET", "/owner")
    return bool(reply.json["role"] == "owner" and (await at.call("GET", "/readyz")).status == 200)


async def test_a_standby_answers_nothing_but_that_it_lives_and_whose_the_stacks_are(site: Site) -> None:
    one = await site.start("vm1", wait=True)
    await one.create()
    before = await uids(one)
    two = await site.start("vm2")
    await standing_by(two)
    assert (await two.call("GET", "/healthz")).json == {"status": "ok"}
    for method, path, body in REFUSED:
        reply = await two.call(method, path, body)
        assert (reply.status, "vm1 owns the stacks" in reply.json["error"]) == (503, True), (path, reply)
        assert int(reply.headers["Retry-After"]) > 0
    assert (await two.call("GET", "/stacks", key="sk-wrong")).status == 401
    assert (await two.call("GET", "/dashboard")).status == 200
    told = (await two.call("GET", "/owner")).json
    assert (told["role"], told["owner"], told["may_change"]) == ("standby", "vm1", False)
    assert "stackd_owner 0.0" in (await two.call("GET", "/metrics")).text
    assert "stackd_owner 1.0" in (await one.call("GET", "/metrics")).text
    assert await uids(one) == before
    assert two.cluster.counts.total("create", "services") == 2, "one asked for the port range, and one for the stack"


async def test_a_standby_waits_for_a_restart_of_an_owner_that_was_stopped_and_no_longer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "RESTART_SECONDS", 2)
    one = await site.start("vm1", wait=True, lease="60s")
    await one.create()
    two = await site.start("vm2", lease="60s")
    await standing_by(two)
    await site.stop("vm1")
    spec = (await site.lease(two))["spec"]
    assert (spec["holderIdentity"].partition("/")[0], spec["leaseDurationSeconds"]) == ("vm1", 2)
    one = await site.start("vm1", wait=True, lease="60s")
    assert ((await site.lease(two))["spec"]["leaseDurationSeconds"], site.holders) == (60, ["vm1"])
    await site.stop("vm1")
    await eventually(lambda: owns(two))


async def test_a_stackd_that_waits_for_the_lease_of_another_file_of_its_host_says_so(site: Site) -> None:
    one = await site.start("vm1", wait=True)
    stood = (await site.lease(one))["spec"]["holderIdentity"]
    (site.folder / "restored").mkdir()
    async with harness(site.folder / "restored", LEASE, cluster=site.cluster, wait=False, host="vm1") as two:
        said = await two.until_unready("another state file of vm1 owns the stacks")
        assert said.endswith("this stackd takes them once that has not renewed its Lease for 1 s")
    assert (await site.lease(one))["spec"]["holderIdentity"] == stood


async def test_a_takeover_is_asked_for_and_loses_nothing(site: Site) -> None:
    one = await site.start("vm1", wait=True)
    await one.running()
    before = await answers(one)
    assert (await one.call("POST", "/takeover")).status == 409
    two = await site.start("vm2")
    await standing_by(two)
    taking = asyncio.create_task(asyncio.to_thread(run, two, "takeover"))
    assert "vm2 takes over" in await one.ended()
    assert await two.role() == "standby", "what is under way is finished first"
    await site.stop("vm1")
    assert await taking == "vm1 was asked to hand the stacks over\nvm2 owns the stacks\n"
    await eventually(lambda: owns(two))
    assert site.holders == ["vm1", "", "vm2"], "it was given back, and did not have to run out"
    assert await answers(two) == before
    told = await asyncio.to_thread(run, two, "owner")
    facts = dict(line.split(maxsplit=1) for line in told.splitlines())
    assert (facts["vm2"], facts["owner"].startswith("vm2 since "), facts["takeovers"]) == ("owner", True, "1")


def run(at: Harness, name: str) -> str:
    done = CliRunner().invoke(command, [name], env={"STACKD_URL": at.url, "STACKD_API_KEY": KEY})
    assert done.exit_code == 0, done.output
    return done.output


async def test_an_owner_that_was_replaced_says_so_and_ends(site: Site) -> None:
    one = await site.start("vm1", wait=True)
    stack_id = await one.running()
    lease = await site.lease(one)
    lease["spec"]["holderIdentity"], lease["metadata"]["annotations"] = "vm9/0123456789abcdef", {}
    changed = await one.kubectl("PUT", LEASES, lease)
    assert changed["kind"] == "Lease", changed
    assert "vm9 owns the stacks now" in await one.ended()
    before = await uids(one)
    for method, path, body in (
        ("POST", "/stacks", seed()),
        ("DELETE", f"/stacks/{stack_id}", None),
        ("POST", f"/stacks/{stack_id}/extend", {"ttl": "1m"}),
        ("POST", f"/stacks/{stack_id}/stop", None),
        ("POST", "/stacks/batch-delete", {"stack_ids": [stack_id]}),
    ):
        assert (await one.call(method, path, body)).status == 503, (method, path)
    assert await uids(one) == before


async def replaced(site: Site, one: Harness, changing: asyncio.Task[Reply]) -> Harness:
    """The owner that comes after ``one`` has lost the stacks amid a change; it has another file."""
    lease = await site.lease(one)
    lease["spec"]["holderIdentity"], lease["metadata"]["annotations"] = "vm9/0123456789abcdef", {}
    assert (await one.kubectl("PUT", LEASES, lease))["kind"] == "Lease"
    await one.ended()
    assert (await changing).status == 503
    site.cluster.faults.clear()
    two = await site.start("vm2", wait=True)
    await two.run_now("expire")  # makes the daemon trust the clock
    return two


async def test_a_create_that_the_owner_before_did_not_finish_leaves_no_pod(site: Site) -> None:
    """The pod has no record, and its stack was never acknowledged."""
    one = await site.start("vm1", wait=True)
    kept = await one.running()
    site.cluster.faults.add_fault(action="hang", verb="create", resource="services")
    creating = asyncio.create_task(one.call("POST", "/stacks", seed()))
    await until(lambda: one.objects("pods"), lambda pods: len(pods) == 2)
    two = await replaced(site, one, creating)
    await until(lambda: two.objects("pods"), lambda pods: set(pods) == {kept})
    assert await two.listed() == [kept]


async def test_a_delete_that_the_owner_before_did_not_finish_takes_no_record_from_a_pod(site: Site) -> None:
    one = await site.start("vm1", wait=True)
    stack_id = await one.running()
    site.cluster.faults.add_fault(action="hang", verb="delete", resource="pods")
    deleting = begun(one, "delete", stack_id)
    await eventually(lambda: one.rows("SELECT 1 FROM stacks WHERE deleting_since IS NOT NULL"))
    await eventually(lambda: site.cluster.counts.in_flight > 0)
    two = await replaced(site, one, deleting)
    assert {name: stack["status"] for name, stack in (await answers(two)).items()} == {stack_id: "running"}


async def test_a_change_that_was_done_while_the_lease_ran_out_is_not_acknowledged(at: Harness) -> None:
    """The client asks again, and whoever owns the stacks by then knows the result."""
    stack_id = await running_at_rest(at)
    asked = await deletes(at)
    at.cluster.faults.pause()
    deleting = asyncio.create_task(at.call("DELETE", f"/stacks/{stack_id}"))
    await eventually(lambda: at.rows("SELECT 1 FROM stacks WHERE deleting_since IS NOT NULL"))
    with at.no_writing():
        at.cluster.faults.resume()

        async def only_its_row_is_left() -> bool:
            return at.is_writing and not await uids(at) and await deletes(at) >= asked + 2

        await eventually(only_its_row_is_left)
        at.lose_lease("another stackd may own the stacks now")
    reply = await deleting
    assert (reply.status, reply.error) == (503, "another stackd may own the stacks now")
    assert not at.rows("SELECT 1 FROM stacks"), "it was done"


async def running_at_rest(at: Harness) -> str:
    """The id of a running stack; nothing is left to write."""
    stack_id: str = (await at.create())["stack_id"]
    await at.until_status(stack_id, "running")
    await at.run_now("expire")  # makes the daemon trust the clock
    await eventually(lambda: not at.is_writing)
    return stack_id


async def deletes(at: Harness) -> float:
    """How many deletes the cluster has answered."""
    return await at.metric("stackd_kubernetes_requests_total", verb="delete")


INTENDED = {
    "delete": "deleting_since IS NOT NULL",
    "stop": "desired = 'stopped'",
    "restart": "generation = 1",
    "extend": "ttl_expires_at - created_at = 7260 * 1000000000",
}


def begun(at: Harness, verb: str, stack_id: str) -> asyncio.Task[Reply]:
    """A task with the request that changes the stack."""
    path = f"/stacks/{stack_id}" if verb == "delete" else f"/stacks/{stack_id}/{verb}"
    body = {"ttl": "1m"} if verb == "extend" else None
    return asyncio.create_task(at.call("DELETE" if verb == "delete" else "POST", path, body))


@pytest.mark.parametrize("verb", INTENDED)
async def test_whoever_loses_the_stacks_amid_a_change_promises_nothing_of_it(at: Harness, verb: str) -> None:
    """The next owner does not know of this change, so nobody would carry it out."""
    stack_id = await running_at_rest(at)
    with at.no_writing():
        changing = begun(at, verb, stack_id)
        await eventually(lambda: at.is_writing)
        at.lose_lease("vm2 owns the stacks now")
    reply = await changing
    assert (reply.status, reply.error) == (503, "vm2 owns the stacks now")
    assert at.rows(f"SELECT 1 FROM stacks WHERE {INTENDED[verb]}"), "it was begun"


WAITS_FOR_A_READ = {"delete": 1, "stop": 1, "restart": 0}
"""How many deletes are answered before the first GET of the pod, for which each verb waits."""


@pytest.mark.parametrize("verb", WAITS_FOR_A_READ)
async def test_neither_does_one_that_loses_them_while_it_waits_for_a_read(at: Harness, verb: str) -> None:
    """The fence does not cut off a read, since it changes nothing; but stackd must not go on after the read."""
    stack_id = await running_at_rest(at)
    at.give_kubernetes(timeout=1.0, attempt_timeout=1.0)
    pod = at.cluster.store.of(resources.PODS).get("stacks", stack_id)
    at.cluster.store.update(pod, metadata=pod.obj["metadata"] | {"finalizers": ["example.com/hold"]})
    at.cluster.faults.add_fault(action="hang", verb="get", resource="pods")
    at.cluster.counts.clear()
    changing = begun(at, verb, stack_id)
    deleted = WAITS_FOR_A_READ[verb]
    await eventually(lambda: at.cluster.counts.in_flight > 0 and at.cluster.counts.total("delete") == deleted)
    at.lose_lease("vm2 owns the stacks now")
    reply = await changing
    assert (reply.status, reply.error) == (503, "vm2 owns the stacks now")


async def test_a_quota_that_counts_leases_is_waited_for(tmp_path: Path) -> None:
    """Before, it ended the process, and the next one, too."""
    message = (
        'leases.coordination.k8s.io "stackd-default" is forbidden: exceeded quota: counts, '
        "requested: count/leases.coordination.k8s.io=1, used: count/leases.coordination.k8s.io=3, "
        "limited: count/leases.coordination.k8s.io=3"
    )
    details = {"name": "stackd-default", "group": "coordination.k8s.io", "kind": "leases"}
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    body = json.dumps(status | {"reason": "Forbidden", "details": details, "code": 403})
    async with EmbeddedCluster(fast_cluster()) as cluster:
        cluster.faults.add_fault(action="reply", verb="create", resource="leases", code=403, body=body)
        async with harness(tmp_path, LEASE, cluster=cluster, wait=False) as at:
            await at.until_unready("ResourceQuota counts")
            await eventually(lambda: cluster.counts.requests["create", "leases", 403] > 2)
            cluster.faults.clear()
            await at.until_ready()

"""Two stackds, one cluster: one of them owns the stacks, the other one stands by until it is needed or told to take over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stackd.cli import stackd as command
from stackd.embedded import EmbeddedCluster
from stackd.lifecycle.ownership import Role
from stackd.tasks import ServiceEnded
from tests.api.test_lost_file import answers, uids
from tests.harness import KEY, Harness, eventually, fast_cluster, harness, seed

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
    """A cluster, and stackds that come and go, each with a file of its own."""

    cluster: EmbeddedCluster
    folder: Path
    stacks: dict[str, AsyncExitStack]

    async def start(self, name: str, monkeypatch: pytest.MonkeyPatch, *, wait: bool = False) -> Harness:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr("stackd.daemon.socket.gethostname", lambda: name)
        self.stacks[name] = AsyncExitStack()
        return await self.stacks[name].enter_async_context(harness(folder, LEASE, cluster=self.cluster, wait=wait))

    async def stop(self, name: str) -> None:
        await self.stacks.pop(name).aclose()

    async def lease(self, at: Harness) -> dict[str, Any]:
        return await at.kubectl("GET", LEASES)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        ready = Site(cluster=cluster, folder=tmp_path, stacks={})
        yield ready
        for name in list(ready.stacks):
            await ready.stop(name)


async def standing_by(at: Harness) -> None:
    await asyncio.wait_for(at.daemon.context.ownership.stands_by.wait(), 30)


async def owns(at: Harness) -> bool:
    reply = await at.call("GET", "/owner")
    return bool(reply.json["role"] == "owner" and (await at.call("GET", "/readyz")).status == 200)


async def test_the_lease_says_who_owns_the_stacks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await site.start("vm1", monkeypatch, wait=True)
    lease = await site.lease(one)
    host, _, file_id = lease["spec"]["holderIdentity"].partition("/")
    assert (host, len(file_id)) == ("vm1", 16)
    told = (await one.call("GET", "/owner")).json
    assert (told["role"], told["owner"], told["may_change"], told["lease"]) == ("owner", "vm1", True, "stackd-default")
    assert (told["holder"], told["lease_duration_seconds"]) == (lease["spec"]["holderIdentity"], 1)


async def test_a_standby_answers_nothing_but_that_it_lives_and_whose_the_stacks_are(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await site.start("vm1", monkeypatch, wait=True)
    await one.create()
    before = await uids(one)
    two = await site.start("vm2", monkeypatch)
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


async def test_a_standby_takes_over_when_the_owner_is_gone_with_every_answer_as_before(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await site.start("vm1", monkeypatch, wait=True)
    for _ in range(5):
        await one.until_status((await one.create())["stack_id"], "running")
    before, objects = await answers(one), await uids(one)
    two = await site.start("vm2", monkeypatch)
    await standing_by(two)
    await site.stop("vm1")
    await eventually(lambda: owns(two))
    assert (await answers(two), await uids(two)) == (before, objects)
    lease = await site.lease(two)
    assert lease["spec"]["leaseTransitions"] == 1
    assert "stackd_lease_transitions_total 1.0" in (await two.call("GET", "/metrics")).text
    one = await site.start("vm1", monkeypatch)
    await standing_by(one)


async def test_a_restart_of_the_same_file_takes_the_lease_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await site.start("vm1", monkeypatch, wait=True)
    stack = await one.create()
    two = await site.start("vm2", monkeypatch)
    await standing_by(two)
    await site.stop("vm1")
    one = await site.start("vm1", monkeypatch, wait=True)
    assert (await one.stack(stack["stack_id"]))["stack_id"] == stack["stack_id"]
    assert (await site.lease(one))["spec"].get("leaseTransitions", 0) == 0
    assert not two.daemon.context.ownership.owned.is_set()


async def test_a_takeover_is_asked_for_and_loses_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await site.start("vm1", monkeypatch, wait=True)
    stack_id = (await one.create())["stack_id"]
    await one.until_status(stack_id, "running")
    before = await answers(one)
    assert (await one.call("POST", "/takeover")).status == 409
    two = await site.start("vm2", monkeypatch)
    await standing_by(two)
    taking = asyncio.create_task(asyncio.to_thread(run, two, "takeover"))
    with pytest.raises(ServiceEnded) as ended:
        await asyncio.wait_for(one.daemon.context.tasks.failure, 30)
    assert "vm2 takes over" in str(ended.value)
    assert not two.daemon.context.ownership.owned.is_set(), "what is under way is finished first"
    await site.stop("vm1")
    assert one.daemon.context.ownership.role is Role.RELEASED
    assert await taking == "vm1 was asked to hand the stacks over\nvm2 owns the stacks\n"
    await eventually(lambda: owns(two))
    assert await answers(two) == before
    told = await asyncio.to_thread(run, two, "owner")
    facts = dict(line.split(maxsplit=1) for line in told.splitlines())
    assert (facts["vm2"], facts["owner"].startswith("vm2 since "), facts["takeovers"]) == ("owner", True, "1")


def run(at: Harness, name: str) -> str:
    done = CliRunner().invoke(command, [name], env={"STACKD_URL": at.url, "STACKD_API_KEY": KEY})
    assert done.exit_code == 0, done.output
    return done.output


async def test_an_owner_that_was_replaced_says_so_and_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await site.start("vm1", monkeypatch, wait=True)
    stack_id = (await one.create())["stack_id"]
    await one.until_status(stack_id, "running")
    lease = await site.lease(one)
    lease["spec"]["holderIdentity"], lease["metadata"]["annotations"] = "vm9/0123456789abcdef", {}
    changed = await one.kubectl("PUT", LEASES, lease)
    assert changed["kind"] == "Lease", changed
    with pytest.raises(ServiceEnded) as ended:
        await asyncio.wait_for(one.daemon.context.tasks.failure, 30)
    assert "vm9 owns the stacks now" in str(ended.value)
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


async def test_a_change_that_was_done_while_the_lease_ran_out_is_not_acknowledged(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client asks again; whoever owns the stacks by then knows."""
    one = await site.start("vm1", monkeypatch, wait=True)
    stack_id = (await one.create())["stack_id"]
    context = one.daemon.context
    remove = context.store.stacks.remove

    async def late(self: object, *arguments: Any, **more: Any) -> Any:
        done = await remove(*arguments, **more)
        context.fence.close("another stackd may own the stacks now")
        return done

    monkeypatch.setattr(type(context.store.stacks), "remove", late)
    reply = await one.call("DELETE", f"/stacks/{stack_id}")
    assert (reply.status, reply.error) == (503, "another stackd may own the stacks now")


@pytest.mark.parametrize("verb", ["delete", "stop", "restart", "extend"])
async def test_whoever_loses_the_stacks_amid_a_change_promises_nothing_of_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Whoever owns them by then knows nothing of it, so that nobody would keep the promise."""
    one = await site.start("vm1", monkeypatch, wait=True)
    stack_id = (await one.create())["stack_id"]
    await one.until_status(stack_id, "running")
    context, fence = one.daemon.context, one.daemon.context.fence
    commit = type(context).right_cluster

    async def lost(self: Any) -> None:
        await commit(self)
        fence.close("vm2 owns the stacks now")

    monkeypatch.setattr(type(context), "right_cluster", lost)
    path = f"/stacks/{stack_id}" if verb == "delete" else f"/stacks/{stack_id}/{verb}"
    body = {"ttl": "1m"} if verb == "extend" else None
    reply = await one.call("DELETE" if verb == "delete" else "POST", path, body)
    assert (reply.status, reply.error) == (503, "vm2 owns the stacks now")

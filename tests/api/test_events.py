"""Event streams: each change is sent once to every follower, and a slow follower delays no other."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from stackd.keys import ApiKey, digest
from stackd.version import VERSION
from stackd.web import change_feed
from tests.harness import READ_KEY, Harness, Machine, Reply, accept_a_reader, request_for, seed, until
from tests.streams import follow


async def test_a_stream_has_every_change_of_every_stack(at: Harness) -> None:
    other = await at.create()
    async with follow(at) as stream, follow(at, "/events?fields=stack_id,status") as short:
        assert (await stream.expect("hello")).data["version"] == VERSION
        await short.expect("hello")
        mine = await at.create(labels={"team": "7"})
        running = await stream.until("stack", stack_id=mine["stack_id"], status="running")
        assert running.data == await at.stack(mine["stack_id"])
        assert list((await short.until("stack", stack_id=mine["stack_id"])).data) == ["stack_id", "status"]
        async with follow(at, f"/stacks/{mine['stack_id']}/events") as single:
            await single.expect("hello")
            assert (await single.expect("stack")).data == running.data
            for stack in (other, mine):
                await at.do("extend", stack["stack_id"], ttl="1m")
            for stack in (other, mine):
                await at.delete(stack["stack_id"])
                assert (await stream.until("deleted")).data == {"stack_id": stack["stack_id"]}
            kinds = []
            while (event := await single.next()) is not None:
                assert event.data["stack_id"] == mine["stack_id"]
                kinds.append(event.kind)
            assert kinds[-1] == "deleted"
    assert (await at.call("GET", "/stacks/stack-none/events")).status == 404


async def test_a_cut_stream_continues_with_each_change_since(at: Harness) -> None:
    quiet, busy, gone = [await at.running() for _ in range(3)]
    async with follow(at) as stream:
        last = (await stream.expect("hello")).id
    between, after = [await at.do("extend", busy, ttl="1m") for _ in range(2)]
    await at.delete(gone)
    async with follow(at, last=last) as stream:
        hello = await stream.expect("hello")
        assert not hello.id, "a client that is cut here would resume after what it has not seen"
        events = [await stream.expect("stack"), await stream.expect("stack"), await stream.until("deleted")]
        assert [event.data for event in events] == [between, after, {"stack_id": gone}]
        await at.do("extend", quiet, ttl="1m")
        events.append(await stream.until("stack", stack_id=quiet))
    numbers = [int(event.id.split("-")[1]) for event in events]
    assert numbers == sorted(set(numbers))


async def test_a_stack_that_is_no_longer_one_of_the_chosen_has_left(at: Harness) -> None:
    stack_id = await at.running()
    node = (await at.stack(stack_id))["node_id"]
    async with (
        follow(at, "/events?status=running&fields=stack_id,status") as running,
        follow(at, f"/events?node={node}&status=stopped&status=failed&fields=stack_id,status") as ended,
    ):
        await running.expect("hello")
        await ended.expect("hello")
        await at.do("stop", stack_id)
        assert (await running.until("left")).data == {"stack_id": stack_id}
        assert (await ended.until("stack")).data == {"stack_id": stack_id, "status": "stopped"}
        await at.delete(stack_id)
        assert (await ended.until("deleted")).data == {"stack_id": stack_id}
        other = await at.create()
        assert (await running.expect("stack")).data == {"stack_id": other["stack_id"], "status": "running"}


async def test_an_unknown_id_makes_the_client_list_again(vm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_feed, "LOGGED", 1)
    at = await vm.start()
    async with follow(at) as stream:
        last = (await stream.expect("hello")).id
    for _ in range(2):
        await at.running()
    for restarted in (False, True):
        at = await vm.start() if restarted else at
        for unknown in (last, f"{last}99999", "nonsense", "a-b-c"):
            async with follow(at, last=unknown) as stream:
                await stream.expect("hello")
                await stream.expect("reset")


async def test_a_client_that_reads_too_slowly_is_told_to_list_again(at: Harness) -> None:
    created = await at.create()
    async with follow(at) as stream:
        await stream.expect("hello")
        at.tell_changes(created["stack_id"], change_feed.LOGGED + 500)
        await stream.until("dropped")
        assert await stream.next() is None


@pytest.mark.stackd(limits__event_streams="5")
async def test_no_key_takes_all_the_streams_while_there_are_others(at: Harness) -> None:
    accept_a_reader(at)
    async with AsyncExitStack() as exits:
        for _ in range(3):
            await exits.enter_async_context(follow(at, key=READ_KEY))
        refused = await at.call("GET", "/events", key=READ_KEY)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "30")
        for _ in range(2):
            await exits.enter_async_context(follow(at))
        assert (await at.call("GET", "/events")).status == 503


async def test_a_stream_ends_when_its_key_is_no_longer_in_force(at: Harness) -> None:
    assert (await at.call("GET", "/events", key=None)).status == 401
    assert (await at.call("HEAD", "/events")).status == 200
    stays = ApiKey(name="stays", sha256=digest(READ_KEY), scope="read")
    at.put_keys_in_force(*at.config.auth.keys, stays)
    async with follow(at) as revoked, follow(at, key=READ_KEY) as other:
        for stream in (revoked, other):
            await stream.expect("hello")
        at.put_keys_in_force(stays)
        assert (await revoked.next(), revoked.comments) == (None, 0), "it does not wait for a heartbeat"
        at.put_keys_in_force(*at.config.auth.keys, stays)
        stack_id = (await at.create())["stack_id"]
        await other.until("stack", stack_id=stack_id)


async def wait(at: Harness, stack_id: str, status: str, timeout: str = "10s") -> Reply:
    return await at.call("GET", f"/stacks/{stack_id}/status?wait={status}&timeout={timeout}")


@pytest.mark.parametrize(
    ("image", "status"), [("registry.example/fail", "failed"), ("registry.example/exit0", "stopped")]
)
async def test_who_waits_for_what_cannot_be_any_more_is_told_at_once(at: Harness, image: str, status: str) -> None:
    stack_id = (await at.create(request_for(image)))["stack_id"]
    async with asyncio.timeout(30):
        await wait(at, stack_id, "node_deleted", "60s")
        assert (await wait(at, stack_id, "creating", "60s")).json["status"] == status


@pytest.mark.parametrize("wanted", ["running", "deleted"])
@pytest.mark.kubernetes(start_delay=60.0)
async def test_a_wait_ends_at_its_timeout_and_when_its_client_leaves_or_stackd_stops(at: Harness, wanted: str) -> None:
    stack_id = (await at.create())["stack_id"]
    for timeout in ("100ms", "0s"):
        reply = await wait(at, stack_id, wanted, timeout)
        assert (reply.status, reply.json["status"]) == (200, "creating")
    leaves = asyncio.create_task(wait(at, stack_id, wanted, "60s"))
    await at.until_metric("stackd_waiting_requests", 1)
    leaves.cancel()
    await at.until_metric("stackd_waiting_requests", 0)
    waiting = asyncio.create_task(wait(at, stack_id, wanted, "60s"))
    await at.until_metric("stackd_waiting_requests", 1)
    at.end_waits()  # the first thing that the daemon does when it stops
    async with asyncio.timeout(30):
        assert ((await waiting).status, (await waiting).json["status"]) == (200, "creating")
        assert (await wait(at, stack_id, wanted, "60s")).json["status"] == "creating", "nor does a later one begin"


@pytest.mark.kubernetes(start_delay=60.0)
async def test_who_waits_for_the_end_is_answered_as_the_delete_is(at: Harness) -> None:
    stack_id = (await at.create())["stack_id"]
    ends, runs = [asyncio.create_task(wait(at, stack_id, status, "30s")) for status in ("deleted", "running")]
    await at.until_metric("stackd_waiting_requests", 2)
    deleted = await at.call("DELETE", f"/stacks/{stack_id}")
    assert (deleted.status, deleted.text) == (200, (await ends).text)
    # The response comes as soon as the delete is committed (as it is then) or once the stack is gone.
    assert (await runs).status in (200, 404)
    for status in ("running", "deleted"):
        assert (await wait(at, stack_id, status)).status == 404


async def test_a_delete_that_waits_is_answered_when_the_background_has_done_it_or_that_it_goes_on(at: Harness) -> None:
    one, stack_id = [await at.running() for _ in range(2)]
    at.faults.add_fault(action="status", verb="delete", resource="pods", code=422, count=1)
    reply = await at.call("DELETE", f"/stacks/{one}?wait=deleted&timeout=20s")
    assert (reply.status, reply.json) == (200, {"deleted": True, "stack_id": one})
    assert await at.listed() == [*await at.objects("pods")] == [stack_id]
    at.faults.add_fault(action="status", verb="delete", resource="pods", code=422)
    await at.refused(503, "keeps trying", f"/stacks/{stack_id}?wait=deleted&timeout=500ms", method="DELETE")
    at.faults.clear()
    await at.until_listed(0)


async def test_a_wait_takes_several_statuses_and_a_create_waits_for_one_of_them(at: Harness) -> None:
    for image, status in (("nginx:stable", "running"), ("registry.example/badname", "failed")):
        sent = request_for(image)
        key = {"Idempotency-Key": f"one of {status}"}
        made = await at.call("POST", "/stacks?wait=running,failed&timeout=60s", sent, headers=key)
        assert (made.status, made.json["status"]) == (201, status)
        again = await at.call("POST", "/stacks?wait=running,failed&timeout=60s", sent, headers=key)
        assert (again.status, again.json["stack_id"], again.json["status"]) == (201, made.json["stack_id"], status)
        assert (await wait(at, made.json["stack_id"], "failed,running", "60s")).json["status"] == status
    assert len(await at.listed()) == 2
    for query, wrong in (("wait=dancing", "wait must be"), ("wait=running&timeout=1y", "timeout must be")):
        await at.refused(400, wrong, f"/stacks?{query}", request_for("nginx:stable"))
    assert len(await at.listed()) == 2, "nothing is made for a wait that cannot be"


async def test_who_waits_for_a_job_is_answered_at_its_end(at: Harness) -> None:
    ids = [await at.running() for _ in range(2)]
    at.faults.add_fault(action="status", verb="delete", resource="pods", code=503)
    job = (await at.call("POST", "/stacks/batch-delete", {"stack_ids": ids})).json["job_id"]
    for path in (f"/stacks/batch-delete/{job}", f"/stacks/batch/{job}"):
        assert (await at.get(f"{path}?wait=completed&timeout=100ms"))["status"] in ("queued", "running")
    waiting = asyncio.create_task(at.get(f"/stacks/batch-delete/{job}?wait=completed,failed&timeout=60s"))
    await at.until_metric("stackd_waiting_requests", 1)
    at.faults.clear()
    assert ((await waiting)["status"], (await waiting)["deleted"]) == ("completed", 2)
    assert (await at.get(f"/stacks/batch/{job}?wait=queued&timeout=60s"))["status"] == "completed", "it cannot be again"


async def test_a_list_a_stream_and_a_count_leave_out_what_has_ended(at: Harness) -> None:
    runs = await at.running()
    async with AsyncExitStack() as held:
        with at.no_pod_starting():
            over = (await at.create(request_for("registry.example/exit0")))["stack_id"]
            stream = await held.enter_async_context(follow(at, "/events?ended=false&fields=stack_id,ended"))
            await stream.expect("hello")
        await until(lambda: at.stack(over), lambda seen: seen["ended"])
        assert (await stream.until("left")).data == {"stack_id": over}
    for query, ids in (("ended=false", [runs]), ("ended=true", [over]), ("", [runs, over])):
        listed = (await at.get(f"/stacks?{query}"))["stacks"]
        assert [one["stack_id"] for one in listed] == ids
        assert (await at.get(f"/stats?{query}"))["total_stacks"] == len(ids)
    await at.refused(400, "ended must be true or false", "/stacks?ended=perhaps", method="GET")


async def test_what_cannot_be_waited_for_is_refused(at: Harness) -> None:
    stack_id = (await at.create())["stack_id"]
    for query in ("wait=ready", "wait=running,", "wait=running,deleted", "wait=running&timeout=soon", "wait=a&wait=b"):
        await at.refused(400, "", f"/stacks/{stack_id}/status?{query}", method="GET")
    await at.refused(400, "wait must be deleted", f"/stacks/{stack_id}?wait=running", method="DELETE")
    for query in ("wait=deleted", "wait=ready", "timeout=", "wait=running&timeout=soon"):
        await at.refused(400, "", f"/stacks?{query}", seed())
    assert await at.listed() == [stack_id], "it is refused before anything is created"
    await at.refused(400, "", "/events?limit=1", method="GET")

"""Event streams: each change is sent once to every follower, and a slow follower delays no other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.keys import ApiKey, digest
from stackd.version import VERSION
from stackd.web import change_feed
from tests.harness import READ_KEY, Harness, Reply, accept_a_reader, fast_cluster, harness, request_for, seed, until
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
            seen = []
            while (event := await single.next()) is not None:
                seen.append(event)
            assert {event.data["stack_id"] for event in seen} == {mine["stack_id"]}
            assert seen[-1].kind == "deleted"
    assert (await at.call("GET", "/stacks/stack-none/events")).status == 404


async def test_a_cut_stream_continues_with_each_change_since(at: Harness) -> None:
    quiet, busy, gone = [await at.running() for _ in range(3)]
    async with follow(at) as stream:
        last = (await stream.expect("hello")).id
    between = await at.do("extend", busy, ttl="1m")
    after = await at.do("extend", busy, ttl="1m")
    await at.delete(gone)
    async with follow(at, last=last) as stream:
        assert not (await stream.expect("hello")).id, (
            "a client that is cut here would resume after what it has not seen"
        )
        events = [await stream.expect("stack"), await stream.expect("stack")]
        assert [event.data for event in events] == [between, after]
        events.append(await stream.until("deleted"))
        assert events[-1].data == {"stack_id": gone}
        await at.do("extend", quiet, ttl="1m")
        events.append(await stream.expect("stack"))
        assert events[-1].data["stack_id"] == quiet
    numbers = [int(event.id.split("-")[1]) for event in events]
    assert numbers == sorted(set(numbers))


async def test_a_stream_takes_the_filters_of_the_list(at: Harness) -> None:
    async with follow(at, "/events?label=team=7&label=player&fields=stack_id") as stream:
        await stream.expect("hello")
        mine = await at.running(labels={"team": "7", "player": "3"})
        others: tuple[dict[str, str], ...] = ({"team": "8", "player": "3"}, {"team": "7"}, {})
        job_id = await at.batch_delete(*[await at.running(labels=labels) for labels in others], mine)
        seen = [await stream.expect("stack")]
        while seen[-1].kind != "deleted":
            event = await stream.next()
            assert event is not None
            seen.append(event)
        assert {event.data["stack_id"] for event in seen} == {mine}
        assert (await at.finished_job(job_id))["deleted"] == 4


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


async def test_an_id_that_is_not_known_makes_the_client_list_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_feed, "LOGGED", 1)
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, cluster=cluster) as at, follow(at) as stream:
            last = (await stream.expect("hello")).id
            for _ in range(2):
                await at.running()
            for forgotten in (last, f"{last}99999"):
                async with follow(at, last=forgotten) as again:
                    await again.expect("hello")
                    await again.expect("reset")
        async with harness(tmp_path, cluster=cluster) as later:
            for unknown in (last, "nonsense", "a-b-c"):
                async with follow(later, last=unknown) as stream:
                    await stream.expect("hello")
                    await stream.expect("reset")


async def test_a_client_that_reads_too_slowly_is_told_to_list_again(at: Harness) -> None:
    created = await at.create()
    async with follow(at) as stream:
        await stream.expect("hello")
        at.tell_changes(created["stack_id"], change_feed.LOGGED + 500)
        while (event := await stream.next()) is not None and event.kind == "stack":
            pass
        assert event is not None
        assert event.kind == "dropped"
        assert await stream.next() is None


@pytest.mark.stackd(limits__event_streams="5")
async def test_no_key_takes_all_the_streams_while_there_are_others(at: Harness) -> None:
    accept_a_reader(at)
    async with AsyncExitStack() as exits:
        for _ in range(3):
            await exits.enter_async_context(follow(at, key=READ_KEY))
        refused = await at.call("GET", "/events", key=READ_KEY)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "30")
        assert refused.error == "3 event streams of this key are open (limits.event_streams_per_key)"
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


# ---- requests that wait for a status, so that a client need not poll


async def wait(at: Harness, stack_id: str, status: str, timeout: str = "10s") -> Reply:
    return await at.call("GET", f"/stacks/{stack_id}/status?wait={status}&timeout={timeout}")


@asynccontextmanager
async def starting(folder: Path, seconds: float) -> AsyncIterator[tuple[Harness, str]]:
    """A stack that needs so long to start."""
    async with EmbeddedCluster(fast_cluster(start_delay=seconds)) as cluster, harness(folder, cluster=cluster) as at:
        yield at, (await at.create())["stack_id"]


@pytest.mark.parametrize(
    ("image", "status"), [("registry.example/fail", "failed"), ("registry.example/exit0", "stopped")]
)
async def test_who_waits_for_what_cannot_be_any_more_is_told_at_once(at: Harness, image: str, status: str) -> None:
    stack_id = (await at.create(request_for(image)))["stack_id"]
    began = time.monotonic()
    await wait(at, stack_id, "node_deleted", "60s")
    assert (await wait(at, stack_id, "creating", "60s")).json["status"] == status
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("wanted", ["running", "deleted"])
async def test_a_wait_ends_at_its_timeout_when_its_client_leaves_and_when_stackd_stops(
    tmp_path: Path, wanted: str
) -> None:
    async with starting(tmp_path, 30.0) as (at, stack_id):
        began = time.monotonic()
        reply = await wait(at, stack_id, wanted, "300ms")
        assert (reply.status, reply.json["status"]) == (200, "creating")
        assert 0.25 <= time.monotonic() - began < 15  # timers have a resolution
        assert (await wait(at, stack_id, wanted, "0s")).json["status"] == "creating"
        leaves = asyncio.create_task(wait(at, stack_id, wanted, "60s"))
        await at.until_metric("stackd_waiting_requests", 1)
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
        await at.until_metric("stackd_waiting_requests", 0)
        waiting = asyncio.create_task(wait(at, stack_id, wanted, "60s"))
        await at.until_metric("stackd_waiting_requests", 1)
        at.end_waits()  # the first thing that the daemon does when it stops
        async with asyncio.timeout(30):
            assert ((await waiting).status, (await waiting).json["status"]) == (200, "creating")
            assert (await wait(at, stack_id, wanted, "60s")).json["status"] == "creating", "nor does a later one begin"


async def test_who_waits_for_the_end_is_answered_as_the_delete_is(tmp_path: Path) -> None:
    async with starting(tmp_path, 30.0) as (at, stack_id):
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
    began = time.monotonic()
    reply = await at.call("DELETE", f"/stacks/{stack_id}?wait=deleted&timeout=1s")
    assert (reply.status, "; stackd keeps trying: " in reply.error) == (503, True)
    assert 0.9 < time.monotonic() - began < 15
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
    runs, over = await at.running(), (await at.create(request_for("registry.example/exit0")))["stack_id"]
    async with follow(at, "/events?ended=false&fields=stack_id,ended") as stream:
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
    for query in (
        *("wait=ready", "wait=running,", "wait=running,deleted", "wait=running&timeout=soon"),
        *("wiat=running", "wait=running&wait=failed"),
    ):
        await at.refused(400, "", f"/stacks/{stack_id}/status?{query}", method="GET")
    await at.refused(400, "wait must be deleted", f"/stacks/{stack_id}?wait=running", method="DELETE")
    for query in ("wait=deleted", "wait=ready", "timeout=", "wait=running&timeout=soon"):
        await at.refused(400, "", f"/stacks?{query}", seed())
    assert await at.listed() == [stack_id], "it is refused before anything is created"
    for query in ("limit=1", "node=a&node=b", "fields=nothing"):
        await at.refused(400, "", f"/events?{query}", method="GET")

"""Long pod specs: complete in every response, also after a restart, and not kept in memory."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stackd.embedded import EmbeddedCluster
from stackd.kube.records import parse_record
from stackd.model import SanitizedSpec, Stack, TargetPort
from stackd.podspec import Sanitizer
from stackd.store import rows
from tests.api.test_events import Stream, follow
from tests.harness import KEY, Harness, eventually, fast_cluster, harness, request_for, seed

MARK = "this is a long text "
LIMIT = 64 << 10


def long_request(number: int = 0, size: int = 40_000) -> dict[str, Any]:
    """A create whose pod spec has about this many bytes."""
    request = request_for("nginx:stable")
    value = (MARK + f"{number} ") * (size // (len(MARK) + 2))
    request["pod_spec"] += f"\n      env:\n        - name: TEXT\n          value: '{value.strip()}'\n"
    return request


async def test_a_long_text_is_checked_outside_of_the_loop(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 50 ms, also of a text that is refused: the other requests would wait for so long."""
    checked: list[bool] = []
    check = Sanitizer.sanitize

    def noted(self: Sanitizer, text: str, ports: tuple[TargetPort, ...]) -> SanitizedSpec:
        checked.append(threading.current_thread() is threading.main_thread())
        return check(self, text, ports)

    monkeypatch.setattr(Sanitizer, "sanitize", noted)
    for path in ("/stacks", "/stacks?dry_run=true", "/capacity"):
        for request in (seed(), long_request(), seed() | {"pod_spec": "- x\n" * 10_000}):
            await at.call("POST", path, request)
    assert checked == [True, False, False] * 3


async def test_a_text_over_the_limit_is_a_400_that_names_the_key(at: Harness) -> None:
    request = long_request(size=LIMIT)
    for path in ("/stacks", "/stacks?dry_run=true", "/capacity"):
        reply = await at.call("POST", path, request)
        assert (reply.status, "limits.pod_spec" in reply.error) == (400, True), path
    lines = '"' + "x\\n" * 15_000 + '"'
    env = [f"        - {{name: A, value: &a {lines}}}", *(f"        - {{name: A{n}, value: *a}}" for n in range(33))]
    request = seed()
    request["pod_spec"] += "\n      env:\n" + "\n".join(env)
    assert len(request["pod_spec"]) < LIMIT
    reply = await at.call("POST", "/stacks", request)
    assert (reply.status, "limits.pod_spec) once sanitized" in reply.error) == (400, True)
    assert not await at.objects("pods")


async def test_every_answer_has_the_whole_text(at: Harness) -> None:
    short = await at.create()
    made = await at.create(long_request())
    name, text = made["stack_id"], made["pod_spec"]
    assert len(text) > 40_000
    await at.until_status(name, "running")
    assert (await at.stack(name))["pod_spec"] == text
    for path in (
        "/stacks",
        "/stacks?limit=10",
        "/stacks?fields=stack_id,pod_spec",
        "/stacks?status=running&status=creating",
    ):
        listed = (await at.call("GET", path)).json["stacks"]
        assert {one["stack_id"]: one["pod_spec"] for one in listed} == {
            short["stack_id"]: short["pod_spec"],
            name: text,
        }, path
    assert (await at.call("GET", "/stacks?limit=1")).json["next_cursor"]
    assert (await at.call("HEAD", "/stacks")).status == 200
    for path, body in (("extend", {"ttl": "1h"}), ("stop", None), ("start", None), ("restart", None)):
        reply = await at.call("POST", f"/stacks/{name}/{path}", body)
        assert (reply.status, reply.json["pod_spec"]) == (200, text), path
    pods, services = await at.objects("pods"), await at.objects("services")
    recovered = parse_record(services[made["service_name"]], pods[name])
    assert isinstance(recovered, Stack)
    assert recovered.pod_spec == text
    for service in services.values():
        assert sum(len(note) for note in service["metadata"]["annotations"].values()) < 4096


async def test_a_list_as_others_send_it_for_http_1_0(at: Harness) -> None:
    made = await at.create(long_request())
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    writer.write(f"GET /stacks HTTP/1.0\r\nX-API-KEY: {KEY}\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b"chunked" not in head
    assert made["stack_id"].encode() in body
    assert body.endswith(b"]}")


async def test_an_event_has_the_whole_text_where_it_is_wanted(at: Harness) -> None:
    async with follow(at) as all_of_it, follow(at, "/events?fields=stack_id,status") as a_part:
        made = await at.create(long_request())
        assert (await all_of_it.until("stack", status="running")).data["pod_spec"] == made["pod_spec"]
        assert list((await a_part.until("stack", status="running")).data) == ["stack_id", "status"]
    async with follow(at, f"/stacks/{made['stack_id']}/events") as one_stack:
        assert (await one_stack.until("stack", status="running")).data["pod_spec"] == made["pod_spec"]


async def test_it_is_there_after_a_restart_and_under_an_idempotency_key(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, cluster=cluster) as at:
            first = await at.call("POST", "/stacks", long_request(), headers={"Idempotency-Key": "one"})
            assert first.status == 201
        async with harness(tmp_path, cluster=cluster) as later:
            again = await later.call("POST", "/stacks", long_request(), headers={"Idempotency-Key": "one"})
            assert (again.status, again.text) == (201, first.text)
            assert (await later.stack(first.json["stack_id"]))["pod_spec"] == first.json["pod_spec"]


async def test_a_list_that_cannot_be_read_to_its_end_does_not_look_whole(at: Harness) -> None:
    await at.create(long_request())
    await at.lose_file()
    with pytest.raises(aiohttp.ClientError):
        await at.call("GET", "/stacks")


async def test_a_read_of_a_long_text_is_one_statement_and_of_others_none(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_RECONCILE__INTERVAL": "1h"}) as at:
        short, long = await at.create(), await at.create(long_request())
        for stack in (short, long):
            await at.until_status(stack["stack_id"], "running")
        await at.until_metric("stackd_store_pending_operations", 0)
        for path, cost in (
            (f"/stacks/{short['stack_id']}", 0),
            (f"/stacks/{long['stack_id']}/status", 0),
            (f"/stacks/{long['stack_id']}", 1),
            ("/stacks", 1),
            ("/stacks?fields=stack_id,status", 0),
            ("/stats", 0),
        ):
            before = at.store_counters.statements
            assert (await at.call("GET", path)).status == 200
            assert at.store_counters.statements - before == cost, path


async def use(at: Harness, count: int) -> None:
    """Create stacks with long pod specs, and read each of them in every way."""

    async def one(number: int) -> None:
        path = (await at.call("POST", "/stacks", long_request(number), headers={"Idempotency-Key": f"{number}"})).json
        assert (await at.call("GET", f"/stacks/{path['stack_id']}")).status == 200
        await at.until_status(path["stack_id"], "running")
        again = await at.call("POST", "/stacks", long_request(number), headers={"Idempotency-Key": f"{number}"})
        assert again.headers["Idempotency-Replayed"] == "true"
        assert (await at.call("POST", f"/stacks/{path['stack_id']}/extend", {"ttl": "1m"})).status == 200

    await asyncio.gather(*(one(number) for number in range(count)))
    for path in ("/stacks", "/stacks?limit=100", "/stacks"):
        assert len((await at.call("GET", path)).json["stacks"]) == count


@asynccontextmanager
async def follower(at: Harness) -> AsyncIterator[None]:
    """A client that follows all events and reads them."""

    async def read(stream: Stream) -> None:
        while await stream.next():
            pass

    async with follow(at) as stream:
        reading = asyncio.create_task(read(stream))
        yield
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def held(at: Harness) -> list[int]:
    """The sizes of all long texts that the daemon has in memory."""
    return [len(text) for text in at.texts_in_memory() if text.count(MARK) > 10]


@pytest.mark.parametrize("limit", [None, 1 << 20])
async def test_neither_the_texts_nor_their_answers_are_kept_in_memory(
    at: Harness, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    if limit is not None:
        monkeypatch.setattr(rows, "LONGEST_KEPT", limit)
    async with follower(at):
        await use(at, 8)
        gc.collect()
        kept = sum(held(at))
        if limit is None:
            await eventually(lambda: not held(at), lambda: f"{held(at)} are kept")
        else:
            assert kept > 8 * 40_000, "that is what would be kept: this test would see it"

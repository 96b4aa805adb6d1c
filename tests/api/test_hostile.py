"""Malicious and broken input: it leaves no trace, no leak and no growth, and everybody else is still served."""

from __future__ import annotations

import asyncio
import errno
import gc
import gzip
import json
import logging
import os
import random
import re
import select
import socket
import zlib
from contextlib import AsyncExitStack, suppress
from typing import Any

import psutil
import pytest
from aiohttp import StreamReader

from stackd.web import limits, serving
from tests.harness import KEY, READ_KEY, Harness, accept_a_reader, eventually, request_for, until
from tests.raw import connected, everything, say

CRLF = b"\r\n"
AUTH = b"X-API-KEY: " + KEY.encode() + CRLF

#: For tests that wait until stackd ends a connection; others send more than a busy machine may take in that time.
SLOW = pytest.mark.stackd(limits__slow_client_timeout="300ms")


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", answer)]


def only_error(answer: bytes) -> tuple[int, str]:
    """Status and error of the only response, which must be JSON."""
    head, _, body = answer.partition(CRLF + CRLF)
    assert b"application/json" in head, answer
    document = json.loads(body)
    assert list(document)[:2] == ["error", "code"]
    return int(head.split()[1]), document["error"]


def complaints(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged above INFO or with a traceback; skipped passes are not in it, for a busy machine causes them."""
    records = [record for record in caplog.records if not record.name.startswith("apscheduler")]
    return [record for record in records if record.levelno > logging.INFO or record.exc_info]


async def still_well(at: Harness) -> None:
    assert (await at.call("GET", "/healthz")).json == {"status": "ok"}


CHUNKED = b"POST /stacks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50
GARBAGE = [
    TLS,
    bytes(range(256)),
    CRLF * 3 + b"x" + CRLF,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /healthz\r\n\r\n",
    b"GET /healthz HTTP/9.9\r\n\r\n",
    b"G@T /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nX-A: a\x00b\r\n\r\n",
    b"POST /stacks HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST /stacks HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /stacks HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /stacks HTTP/1.1\r\nTransfer-Encoding: cow\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nX-A: a\r\n b\r\n\r\n\x00",
    b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n",
    *(CHUNKED + AUTH + CRLF + chunks for chunks in (b"zz\r\n", b"5\r\nabcdefgh\r\n", b"fffffffffffffffff\r\n")),
]


async def test_what_is_no_http_is_a_400_in_json_without_a_trace(at: Harness, caplog: pytest.LogCaptureFixture) -> None:
    for raw in GARBAGE:
        if answer := await say(at, raw):
            assert 400 <= only_error(answer)[0] < 500, raw
    assert "does not speak TLS" in only_error(await say(at, TLS))[1]
    assert not complaints(caplog)
    await still_well(at)


async def test_a_key_in_what_cannot_be_read_is_not_logged(at: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for raw in (
        b"GET /stacks?api_key=" + KEY.encode() + b" HTTP/x\r\n\r\n",
        b"GET http://[?api_key=" + KEY.encode() + b" HTTP/1.1\r\n\r\n",
        b"G@T /stacks?api_key=" + KEY.encode() + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + AUTH.replace(b":", b"") + CRLF,
        b"GET / HTTP/1.1\r\nX-API-KEY: " + KEY.encode() + b"\x00" + CRLF + CRLF,
        b"GET /stacks?api_key=" + KEY.encode() + b"&" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n",
    ):
        assert KEY.encode() not in await say(at, raw)
    assert KEY not in caplog.text
    assert caplog.text


async def test_a_head_that_is_too_large_is_a_431_that_names_the_limit(at: Harness) -> None:
    for target, headers, limit in (
        (b"a" * 20000, b"Host: a", "limits.header_size"),
        (b"", b"X-A: " + b"a" * 20000, "limits.header_size"),
        (b"", b"a" * 20000 + b": a", "limits.header_size"),
        (b"", b"X-A: a\r\n" * 99 + b"X-A: a", "64 headers"),
        (b"", (b"X-A: " + b"a" * 10000 + CRLF) * 30, "32768 bytes in all"),
    ):
        status, sentence = only_error(await say(at, b"GET /" + target + b" HTTP/1.1\r\n" + headers + CRLF + CRLF))
        assert (status, limit in sentence) == (431, True)


async def test_a_body_is_read_only_with_a_key_and_asked_for_where_that_is_expected(at: Harness) -> None:
    async with connected(at) as (reader, writer):
        writer.write(b"POST /stacks HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{")
        head = await reader.readuntil(CRLF + CRLF)
        assert (head.startswith(b"HTTP/1.1 401"), b"Connection: close" in head) == (True, True)
    head = b"POST /stacks HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
    async with connected(at) as (reader, writer):
        writer.write(head + AUTH + CRLF)
        assert await reader.readuntil(CRLF + CRLF) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    old = await say(at, head.replace(b"1.1", b"1.0") + AUTH + CRLF + b"{}")
    assert "pod_spec: is required" in only_error(old)[1]


async def test_the_bodies_under_way_are_limited(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODIES", 1)
    body = json.dumps(request_for("nginx:stable")).encode() + b" " * 400_000
    async with connected(at) as (_, writer):
        writer.write(b"POST /stacks HTTP/1.1\r\nHost: a\r\nContent-Length: 800001\r\n" + AUTH + CRLF + b"z" * 800_000)
        await eventually(lambda: at.daemon.api.limits.bodies.count == 800_000)
        await at.refused(429, "are longer than 1048576 bytes in all", "/stacks", body)
        assert (await at.call("POST", "/stacks?dry_run=true", request_for("nginx:stable"))).status == 200
    await until(lambda: at.call("POST", "/stacks?dry_run=true", body), lambda reply: reply.status == 200)


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many chunks of bodies have been parsed."""
    parsed = [0]

    def begin(_: StreamReader) -> None:
        parsed[0] += 1

    monkeypatch.setattr(StreamReader, "begin_http_chunk_receiving", begin)
    monkeypatch.setattr(StreamReader, "end_http_chunk_receiving", lambda _: None)
    return parsed


@SLOW
async def test_the_rest_of_a_refused_body_in_chunks_is_not_parsed(at: Harness, chunks: list[int]) -> None:
    answer = await say(at, CHUNKED + CRLF + b"1\r\nz\r\n" * 200_000)
    assert (answer.startswith(b"HTTP/1.1 401"), 0 < chunks[0] < 20_000) == (True, True), chunks


async def test_a_body_of_sizes_of_chunks_is_a_400_before_it_is_parsed(at: Harness, chunks: list[int]) -> None:
    status, sentence = only_error(await say(at, CHUNKED + AUTH + CRLF + b"1\r\nz\r\n" * 200_000))
    assert (status, "the size of its chunks" in sentence) == (400, True)
    assert 0 < chunks[0] < 5_000, chunks


async def test_a_body_in_short_chunks_or_of_many_lines_is_taken(at: Harness) -> None:
    """The ends of its lines are not taken for chunks."""
    create = [piece.encode() for piece in json.JSONEncoder().iterencode(request_for("nginx:stable"))]
    ids = [f"stack-{number:016x}" for number in range(10_000)]
    body = json.dumps({"stack_ids": ids}, indent=0).replace("\n", "\r\n").encode()
    delete = [body[begin : begin + 4096] for begin in range(0, len(body), 4096)]
    for path, pieces, status in ((b"?dry_run=1", create, 200), (b"/batch-delete", delete, 202)):
        head = CHUNKED.replace(b"/stacks", b"/stacks" + path) + b"Connection: close\r\n" + AUTH + CRLF
        sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        assert statuses(await say(at, head + sent + b"0\r\n\r\n")) == [status]


async def test_a_body_that_is_too_long_is_a_413_as_soon_as_that_is_seen(at: Harness) -> None:
    for length, chunks in ((b"Content-Length: 999999999", 0), (b"Transfer-Encoding: chunked", 20)):
        async with connected(at) as (reader, writer):
            writer.write(b"POST /stacks HTTP/1.1\r\nHost: a\r\n" + length + CRLF + AUTH + CRLF)
            for _ in range(chunks):
                writer.write(b"10000\r\n" + b" " * 65536 + CRLF)
            assert (await reader.readuntil(CRLF + CRLF)).startswith(b"HTTP/1.1 413")
            assert b"server.max_body" in await reader.readuntil(b"}")


BOMB = gzip.compress(b" " * (50 << 20))


@SLOW
async def test_a_packed_body_is_a_415_or_without_a_key_a_401(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack, unpacked = zlib.decompressobj, list[int]()

    def counted(wbits: int = zlib.MAX_WBITS, **more: Any) -> object:
        unpacked.append(wbits)
        return unpack(wbits, **more)

    monkeypatch.setattr(zlib, "decompressobj", counted)
    for coding in ("gzip", "br", "GZIP", "identity, gzip", "cow"):
        for method, path in (("POST", "/stacks"), ("GET", "/stats"), ("POST", "/no/such/route"), ("GET", "/docs")):
            reply = await at.call(method, path, BOMB, headers={"Content-Encoding": coding})
            assert (reply.status, reply.headers.get("Accept-Encoding")) == (415, "identity"), (method, path)
    for more, status in ((b"", b"401"), (b"X-API-KEY: sk-wrong\r\n", b"401"), (AUTH, b"415")):
        async with connected(at) as (reader, writer):
            writer.write(CHUNKED + b"Content-Encoding: gzip\r\n" + more + CRLF + b"%x\r\n" % len(BOMB) + BOMB + CRLF)
            assert (await reader.readuntil(CRLF + CRLF)).startswith(b"HTTP/1.1 " + status)
            writer.write(b"%x\r\n" % len(BOMB) + BOMB + CRLF + b"0\r\n\r\n")
            await everything(reader)
    packed, head = gzip.compress(b"{}"), CHUNKED.replace(b"chunked", b"gzip, chunked") + b"Connection: close\r\n" + AUTH
    assert statuses(await say(at, head + CRLF + b"%x\r\n" % len(packed) + packed + b"\r\n0\r\n\r\n")) == [415]
    assert not unpacked
    reply = await at.call("POST", "/stacks", request_for("nginx:stable"), headers={"Content-Encoding": "Identity"})
    assert reply.status == 201, reply.text
    assert (await at.call("GET", "/healthz", headers={"Content-Encoding": "gzip"})).status == 200, "there is no body"


GOOD = b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + AUTH + CRLF


@pytest.mark.stackd(limits__slow_client_timeout="1s")
async def test_who_trickles_or_sends_nothing_more_is_cut_off(at: Harness) -> None:
    async def answers(begin: bytes, more: bytes) -> list[int]:
        async with connected(at) as (reader, writer):
            closed = asyncio.create_task(everything(reader))
            writer.write(begin)
            while not closed.done():
                writer.write(more)
                await asyncio.sleep(0.05)
            return statuses(closed.result())

    body = b"POST /stacks HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n" + AUTH + CRLF
    begun = ((b"GET /healthz HTTP/1.1\r\n", b"X-A: a\r\n"), (body, b" "), (b"", b""), (GOOD, b""))
    assert await asyncio.gather(*(answers(*one) for one in begun)) == [[], [408], [], [200]]


@SLOW
async def test_an_answer_that_is_not_read_does_not_wait_for_ever(at: Harness) -> None:
    await asyncio.gather(*(at.create() for _ in range(20)))
    requests, sent = GOOD.replace(b"healthz", b"stacks") * 1000, 0
    with socket.create_connection(("127.0.0.1", at.port)) as client:
        client.setblocking(False)
        async with asyncio.timeout(30):
            with suppress(ConnectionResetError, BrokenPipeError):
                while True:
                    sent += await asyncio.to_thread(push, client, requests[sent % len(requests) :])
    assert sent < 24 << 20, "requests are taken while no answer is read"
    await still_well(at)


def push(client: socket.socket, data: bytes) -> int:
    """Send as much as the other side accepts now; raises once it has cut the connection."""
    if not select.select([], [client], [], 0.05)[1]:
        return 0
    return client.send(data)


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str = KEY) -> int:
    """The status of a request over this connection, read to the end."""
    writer.write(GOOD.replace(KEY.encode(), key.encode()))
    status = statuses(await reader.readuntil(CRLF + CRLF))[0]
    await reader.readuntil(b"}")
    return status


@pytest.mark.stackd(limits__connections="20")
async def test_half_open_connections_give_way_to_those_who_ask(at: Harness) -> None:
    await still_well(at)
    opened = [await asyncio.open_connection("127.0.0.1", at.port) for _ in range(60)]
    for _, writer in opened:
        writer.write(b"GET /healthz HTTP/1.1\r\n")
    try:
        await still_well(at)
        async with connected(at) as new:
            assert await asked(*new) == 200
        assert [await everything(reader) for reader, _ in opened[:35]] == [b""] * 35
    finally:
        for _, writer in opened:
            writer.transport.abort()


@pytest.mark.stackd(limits__connections="2")
async def test_one_connection_too_many_of_known_clients_is_a_503(at: Harness) -> None:
    async with connected(at) as one, connected(at) as two:
        assert [await asked(*one), await asked(*two)] == [200, 200]
        async with connected(at) as (reader, _):
            status, sentence = only_error(await everything(reader))
            assert (status, "limits.connections" in sentence) == (503, True)
    await until(lambda: at.call("GET", "/healthz"), lambda reply: reply.status == 200)


@pytest.mark.stackd(limits__connections="6")
async def test_no_key_takes_all_the_connections_while_there_are_others(at: Harness) -> None:
    accept_a_reader(at)
    async with AsyncExitStack() as exits:
        opened = [await exits.enter_async_context(connected(at)) for _ in range(5)]
        assert [await asked(*one, READ_KEY) for one in opened] == [200, 200, 200, 429, 429]
        opened = [await exits.enter_async_context(connected(at)) for _ in range(3)]
        assert [await asked(*one) for one in opened] == [200] * 3


@pytest.mark.stackd(limits__connections_per_key="1")
async def test_a_connection_counts_for_the_key_that_used_it_last(at: Harness) -> None:
    accept_a_reader(at)
    async with connected(at) as one, connected(at) as two:
        assert [await asked(*one), await asked(*one), await asked(*two)] == [200, 200, 429]
        assert [await asked(*one, READ_KEY), await asked(*two)] == [200, 200]
    for _ in range(3):

        async def again() -> bool:
            async with connected(at) as new:
                return await asked(*new) == 200

        await eventually(again)


async def test_who_comes_while_there_are_no_descriptors_is_served_later(
    at: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept, pauses = socket.socket.accept, [0.1, 0.1]

    def accept_if_possible(listening: socket.socket) -> Any:
        if listening.getsockname()[1] == at.port and pauses:
            monkeypatch.setattr(serving, "PAUSE_SECONDS", pauses.pop())
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", accept_if_possible)
    async with connected(at) as new:
        assert await asked(*new) == 200
    assert caplog.text.count("accepting no connections for 0.1 s: Too many open files") == 2


@SLOW
async def test_junk_behind_an_answered_request_is_a_400(at: Harness) -> None:
    assert statuses(await say(at, GOOD * 100)) == [200] * 100
    async with connected(at) as (reader, writer):
        assert await asked(reader, writer) == 200
        writer.write(b"\x00\x01junk\r\n\r\n" + GOOD)
        assert only_error(await everything(reader))[0] == 400
    upgrade = b"GET /healthz HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    for head in (upgrade, upgrade + AUTH):
        for status in statuses(await say(at, head + b"\r\n\xff\xfe")):
            assert status < 500


@SLOW
async def test_noise_leaves_nothing_behind(at: Harness, caplog: pytest.LogCaptureFixture) -> None:
    noise = random.Random(5)
    await flood(at, noise, rounds=1)
    before = measured()
    await flood(at, noise, rounds=2)
    await eventually(lambda: len(asyncio.all_tasks()) <= before[0] + 2, lambda: f"tasks: {asyncio.all_tasks()}")
    await eventually(lambda: measured()[1] <= before[1] + 3, lambda: f"descriptors: {measured()[1]} after {before[1]}")
    assert measured()[2] < before[2] + (20 << 20)
    assert not complaints(caplog)
    await still_well(at)


async def flood(at: Harness, noise: random.Random, rounds: int) -> None:
    good = b"POST /stacks HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n" + AUTH + b'\r\n{"a": [1, 2]}'

    for _ in range(rounds):
        answers = await asyncio.gather(*(say(at, mangled(noise, good)) for _ in range(100)))
        assert max(statuses(b"".join(answers))) < 500


def mangled(noise: random.Random, raw: bytes) -> bytes:
    for _ in range(noise.randint(1, 8)):
        begin, size = noise.randint(0, len(raw)), noise.randint(0, 20)
        raw = raw[:begin] + noise.randbytes(noise.randint(0, 20)) + raw[begin + size :]
    return raw


def measured() -> tuple[int, int, int]:
    """Numbers of tasks and file descriptors, and resident bytes."""
    gc.collect()
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")), psutil.Process().memory_info().rss

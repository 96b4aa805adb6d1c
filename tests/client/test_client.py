"""Both clients against a whole stackd, with responses that are lost on the way; and when a request is sent again."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from stackd import client as api
from stackd.client import AsyncClient, Client, Event, Retries, Unreachable, attempts, follow, operations
from stackd.client.attempts import NO_RETRIES, EventReader, Pause, Request, Response, Steps, with_retries
from stackd.contract import EPOCH, NewLink
from tests.certificates import HAVE_OPENSSL, authority, issued
from tests.gate import gate
from tests.harness import KEY, Harness, eventually, harness, request_for, seed
from tests.proxies import proxy
from tests.raw import saying

POD = seed()["pod_spec"]
PAGE = Path(__file__).parents[2] / "docs" / "client.md"


class Caller:
    """One client of either class."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    async def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.client, AsyncClient):
            return await getattr(self.client, name)(*args, **kwargs)
        return await asyncio.to_thread(getattr(self.client, name), *args, **kwargs)

    async def events(self, into: list[Event], until: Callable[[Event], bool], **options: Any) -> None:
        """Append each event to the list, until one satisfies ``until``."""
        if isinstance(self.client, AsyncClient):
            async for event in self.client.events(**options):
                into.append(event)
                if until(event):
                    return
        else:
            await asyncio.to_thread(_read, self.client, into, until, options)


def _read(client: Client, into: list[Event], until: Callable[[Event], bool], options: dict[str, Any]) -> None:
    for event in client.events(**options):
        into.append(event)
        if until(event):
            return


@pytest.fixture(params=[Client, AsyncClient])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path, {"STACKD_LIMITS__STACKS_PER_LABEL": "player=1"}) as running:
        yield running


@pytest.fixture
async def ask(at: Harness, kind: Any) -> AsyncIterator[Caller]:
    caller = Caller(kind(at.url, KEY))
    yield caller
    await caller("close")


async def test_the_life_of_a_stack(at: Harness, ask: Caller) -> None:
    with at.no_pod_starting():
        made = await ask("create", POD, ports=["80/tcp"], ttl="30m", labels={"team": "7"})
    assert (made.status, made.ports[0].container_port) == ("creating", 80)
    stack = await ask("wait", made)
    assert stack.address == f"127.0.0.1:{stack.ports[0].node_port}"
    assert (stack.labels, stack.raw["labels"], "raw" in repr(stack)) == ({"team": "7"}, {"team": "7"}, False)
    assert timedelta(minutes=29) < stack.ttl_expires_at - datetime.now(UTC) < timedelta(minutes=30)
    assert await ask("stacks", labels={"team": "7"}, statuses=["running"]) == [stack]
    assert await ask("stacks", labels=["player"]) == []
    assert (await ask("extend", stack, 60)).ttl_expires_at == stack.ttl_expires_at + timedelta(minutes=1)
    assert (await ask("stop", stack)).status == "stopped"
    with at.no_pod_starting():
        assert (await ask("start", stack.stack_id)).status == "creating"
    assert (await ask("wait", stack)).ports == stack.ports
    assert "ready" in await ask("logs", stack, tail=5)
    assert {"accepted", "scheduled"} <= {event.kind for event in await ask("timeline", stack)}
    assert (await ask("stats")).total_stacks == 1
    assert (await ask("capacity", cpu="1", memory="1Gi")).fits > 0
    assert "automountServiceAccountToken: false" in (await ask("dry_run", POD, ports=[80])).pod_spec
    gone = asyncio.create_task(ask("wait", stack, "deleted"))
    await ask("delete", stack)
    assert ((await gone).status, (await gone).labels, (await gone).raw) == ("deleted", {"team": "7"}, stack.raw)
    with pytest.raises(api.NotFound):
        await ask("get", stack)


async def test_many_are_extended_and_deleted_as_one_job(at: Harness, ask: Caller) -> None:
    made = [(await at.create(seed() | {"labels": {"team": "7"}}))["stack_id"] for _ in range(2)]
    before = [await ask("get", stack_id) for stack_id in made]
    begun = await ask("batch", "extend", labels={"team": "7"}, ttl="30m")
    assert (begun.action, begun.total, begun.finished) == ("extend", 2, False)
    done = await ask("wait_batch", begun.job_id)
    assert (done.status, done.action, done.done, done.deleted) == ("completed", "extend", 2, 0)
    for stack in before:
        assert (await ask("get", stack)).ttl_expires_at == stack.ttl_expires_at + timedelta(minutes=30)
    job = await ask("batch_delete", [*before, "stack-none"])
    deleted = await ask("wait_job", job.job_id)
    assert (deleted.status, deleted.deleted, deleted.not_found, deleted.errors) == ("completed", 2, 1, ())
    assert (await ask("batch_job", job.job_id)).done == 2
    did = await ask("activity", since=timedelta(hours=1), limit=3)
    assert [(one.action, one.total) for one in did] == [("delete", 3), ("extend", 2), ("create", 1)]
    assert (did[0].job_id, did[1].ttl, did[2].stack_id) == (job.job_id, "30m", made[1])
    assert await ask("activity", labels={"team": "7"}, since=did[0].at, action="create") == []
    assert await ask("activity", find=(made[1].upper(), "create")) == did[2:]
    assert await ask("activity", find="nothing like this") == []


async def test_what_lost_its_answer_counts_once(at: Harness, kind: Any) -> None:
    async with gate(at.port) as way:
        ask = Caller(kind(way.url, KEY, retries=Retries(times=4, first=0.05)))

        async def sent(method: str, path: str) -> float:
            return await at.metric("stackd_http_requests_total", method=method, route=path)

        assert await ask("stacks") == [], "it knows by now that nothing speaks TLS here"
        way.lose = 2
        stack = await ask("create", POD, ports=[80])
        assert (await sent("POST", "/stacks"), await at.listed()) == (3, [stack.stack_id])
        way.lose = 1
        await ask("delete", stack)
        assert await sent("DELETE", "/stacks/{stack_id}") == 2
        with pytest.raises(api.NotFound):
            await ask("delete", stack)
        way.lose = 1
        with pytest.raises(Unreachable):
            await ask("restart", (await at.create())["stack_id"])
        assert await sent("POST", "/stacks/{stack_id}/restart") == 1, "a restart may not happen twice"
    with pytest.raises(Unreachable) as gone:
        await ask("stacks")
    assert not gone.value.sent
    await ask("close")


async def test_what_stackd_refuses_is_raised_with_its_words(at: Harness, ask: Caller, kind: Any) -> None:
    with pytest.raises(api.ApiError, match="hostNetwork") as refused:
        await ask("create", POD.replace("spec:\n", "spec:\n  hostNetwork: true\n", 1), ports=[80])
    assert refused.value.status == 400
    first = await ask("create", POD, ports=[80], labels={"player": "1"})
    with pytest.raises(api.Conflict) as limit:
        await ask("create", POD, ports=[80], labels={"player": "1"})
    assert limit.value.stack_id == first.stack_id
    existing = await ask("create", POD, ports=[80], labels={"player": "1"}, return_existing=True)
    assert existing.stack_id == first.stack_id
    stranger = Caller(kind(at.url, "sk-wrong"))
    with pytest.raises(api.KeyRefused):
        await stranger("stacks")
    await stranger("close")


async def test_waiting_ends_when_there_is_nothing_left_to_wait_for(at: Harness, ask: Caller) -> None:
    failing = await ask("create", request_for("registry.example/badname")["pod_spec"], ports=[80])
    with pytest.raises(api.StackEnded, match="InvalidImageName") as ended:
        await ask("wait", failing)
    assert ended.value.stack.status == "failed"
    assert await ask("stacks") == [ended.value.stack], "a list says why, too"
    slow = await ask("create", request_for("registry.example/slowpull")["pod_spec"], ports=[80])
    with pytest.raises(api.TimedOut):
        await ask("wait", slow, timeout=0.5)


async def test_events_go_on_behind_a_cut_and_lose_nothing(at: Harness, kind: Any) -> None:
    events: list[Event] = []
    fields, filters = ["stack_id", "status"], {"labels": {"team": "7"}, "statuses": ["creating", "running"]}
    async with gate(at.port) as way:
        ask = Caller(kind(way.url, KEY))
        following = asyncio.create_task(
            ask.events(events, lambda event: event.kind == "left", fields=fields, **filters)
        )
        await at.until_metric("stackd_event_streams", 1)
        await at.create()
        first = (await at.create(seed() | {"labels": {"team": "7"}}))["stack_id"]
        await eventually(lambda: (first, "running") in seen(events))
        await way.shut()
        second = (await at.create(seed() | {"labels": {"team": "7"}}))["stack_id"]
        await at.until_status(second, "running")
        await way.open()
        await eventually(lambda: (second, "running") in seen(events))
        assert "reset" not in {event.kind for event in events}
        assert seen(events).count((first, "running")) == 1
        assert all(set(event.data) == {"stack_id", "status"} for event in events if event.kind == "stack")
        await at.call("POST", f"/stacks/{first}/stop")
        await following
        assert (events[-1].kind, events[-1].stack_id) == ("left", first)
        assert {event.stack_id for event in events if event.kind != "hello"} == {first, second}
        await ask("close")


@asynccontextmanager
async def following(client: Client | AsyncClient, **filters: Any) -> AsyncIterator[api.Follow | api.AsyncFollow]:
    view = client.follow(**filters)
    if isinstance(view, api.AsyncFollow):
        async with view:
            yield view
        return
    await asyncio.to_thread(view.__enter__)
    try:
        yield view
    finally:
        await asyncio.to_thread(view.close)


async def all_of(changes: api.Changes) -> list[api.Change]:
    if isinstance(changes.unread, asyncio.Queue):
        return [change async for change in changes]
    return await asyncio.to_thread(list, changes)


async def test_what_is_followed_is_listed_again_until_that_succeeds(kind: Any) -> None:
    """A reset whose list is lost is not over with the next connection, which resumes behind it."""

    def stack(name: str, status: str) -> str:
        return json.dumps({"stack_id": name, "status": status})

    def answered(kind: str, body: str, status: str = "200 OK") -> bytes:
        length = f"Content-Length: {len(body)}\r\n" if kind == "application/json" else ""
        return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{length}Connection: close\r\n\r\n{body}".encode()

    def streamed(*events: str) -> bytes:
        return answered("text/event-stream", "".join(f"{event}\n\n" for event in events))

    def listed(*stacks: str) -> bytes:
        return answered("application/json", f'{{"stacks": [{", ".join(stacks)}]}}')

    hello, busy = "event: hello\ndata: {}", answered("application/json", '{"error": "no"}', "503 No")
    replies = [
        streamed(f"{hello}\nid: x-1"), busy, streamed(hello), listed(stack("a", "creating"), stack("b", "running")),
    ]  # fmt: skip
    reads = threading.Event()
    later = [
        streamed(f"{hello}\nid: y-1", "event: reset\ndata: {}"), busy, streamed(hello), listed(stack("b", "failed")),
        streamed(f"event: stack\nid: y-2\ndata: {stack('c', 'running')}", 'event: left\ndata: {"stack_id": "b"}'),
    ]  # fmt: skip
    more = chain((busy for _ in iter(reads.is_set, True)), later, repeat(busy))  # what comes later is not missed
    async with saying(*replies, more=more) as url:
        client = kind(url, KEY, retries=Retries(times=1, first=0.0, busy=False))
        async with following(client) as view:
            changes = view.changes()
            await eventually(lambda: view.error is not None)
            reads.set()
            await eventually(lambda: list(view.stacks) == ["c"])
        await Caller(client)("close")
    seen = [(one.kind, one.stack.stack_id, one.stack.status, one.before is None) for one in await all_of(changes)]
    assert seen[-4:] == [
        ("deleted", "a", "creating", True), ("stack", "b", "failed", False), ("stack", "c", "running", True),
        ("left", "b", "failed", True),
    ]  # fmt: skip


async def test_who_follows_what_it_may_not_see_or_reach_is_told_at_once(at: Harness, kind: Any) -> None:
    for url, key, error in ((at.url, "sk-wrong", api.KeyRefused), ("http://127.0.0.1:1", KEY, Unreachable)):
        client = kind(url, key, retries=NO_RETRIES)
        with pytest.raises(error):
            async with following(client):
                pass
        await Caller(client)("close")


async def test_a_reader_that_is_too_slow_is_told(at: Harness, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MOST_UNREAD", 2)
    client = kind(at.url, KEY)
    async with following(client) as view:
        slow = view.changes()
        for _ in range(4):
            await at.create()
        await eventually(lambda: len(view.stacks) == 4)
        with pytest.raises(api.ClientError, match="were not read"):
            await all_of(slow)
    assert await all_of(view.changes()) == []
    await Caller(client)("close")


async def test_a_stack_is_deleted_at_the_end_of_its_block(at: Harness, kind: Any) -> None:
    client = kind(at.url, KEY)
    body = {"pod_spec": POD, "target_port": [{"container_port": 80, "protocol": "TCP"}]}

    def use() -> None:
        with client.stack(body, ttl="30m", labels={"team": "7"}) as stack:
            assert (stack.status, stack.labels) == ("running", {"team": "7"})
            raise KeyError

    with pytest.raises(KeyError):
        if isinstance(client, AsyncClient):
            async with client.stack(body) as stack:
                await client.delete(stack)
                raise KeyError
        await asyncio.to_thread(use)
    assert await at.listed() == []
    await Caller(client)("close")


async def test_long_lists_are_read_in_pages(at: Harness, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "LARGEST_PAGE", 2)
    made = [(await at.create())["stack_id"] for _ in range(5)]
    client = kind(at.url, KEY)
    for name, found in (("iter_stacks", made), ("iter_activity", made[::-1]), ("iter_links", [])):
        pages = getattr(client, name)()
        several = [one async for one in pages] if kind is AsyncClient else await asyncio.to_thread(list, pages)
        assert [one.stack_id for one in several] == found, name
    await Caller(client)("close")


async def test_a_log_is_followed_to_its_end(at: Harness, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "FOLLOW_SECONDS", 0.01)
    client, stack_id = kind(at.url, KEY), await at.running()
    pieces = client.follow_logs(stack_id, tail=1)
    first = await anext(pieces) if kind is AsyncClient else await asyncio.to_thread(next, pieces)
    assert "ready" in first
    await at.delete(stack_id)
    rest = [one async for one in pieces] if kind is AsyncClient else await asyncio.to_thread(list, pieces)
    assert "".join(rest).count("ready") == 0
    await Caller(client)("close")


def seen(events: list[Event]) -> list[tuple[str, str]]:
    return [(stack.stack_id, stack.status) for event in events if (stack := event.stack) is not None]


async def test_the_example_of_the_page_runs(at: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    block = PAGE.read_text().partition("```python example\n")[2].partition("```")[0]
    program = compile(block, PAGE.name, "exec")
    running = asyncio.to_thread(exec, program, {"url": at.url, "key": KEY, "pod_spec": POD})
    example = asyncio.create_task(running)

    async def follows() -> bool:
        return example.done() or await at.metric("stackd_event_streams") == 1

    await eventually(follows)
    (stack,) = (await at.call("GET", "/stacks")).json["stacks"]
    await at.call("POST", f"/stacks/{stack['stack_id']}/extend", {"ttl": "1m"})
    await example
    assert capsys.readouterr().out == f"127.0.0.1:{stack['ports'][0]['node_port']}\nstack\n"
    assert (await at.call("GET", "/stacks")).json == {"stacks": []}


async def test_what_is_not_stackd_or_does_not_answer_in_time_is_an_error(kind: Any) -> None:
    page = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with saying(page) as other:
            silence = f"http://127.0.0.1:{silent.getsockname()[1]}"
            for url, timeout, error in ((other, None, "is not stackd"), (silence, 0.2, "did not answer in time")):
                ask = Caller(kind(url, KEY, retries=NO_RETRIES, timeout=timeout))
                with pytest.raises(api.ClientError, match=error):
                    await ask("get", "stack-1")
                await ask("close")


@pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")
async def test_what_is_behind_tls_is_reached_through_the_proxy_of_the_environment(
    tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = authority(tmp_path)
    pair = issued(tmp_path, root, host="DNS:stackd.example")
    trusting = ssl.create_default_context(cafile=str(root.cert))
    async with (
        harness(tmp_path, server__tls_cert=str(pair.cert), server__tls_key=str(pair.key)) as at,
        proxy(at.port) as between,
    ):
        monkeypatch.setenv("HTTPS_PROXY", between.url("me:p%40ss"))
        ask = Caller(kind("https://stackd.example", KEY, ssl_context=trusting, retries=NO_RETRIES))
        assert (await ask("stats")).total_stacks == 0
        assert between.asked == [("stackd.example:443", "me:p@ss")]
        await ask("close")
        between.refuses = 407
        with pytest.raises(Unreachable, match=rf"through the proxy {between.url()}: 407"):
            await ask("stats")
    monkeypatch.setenv("HTTP_PROXY", between.url())
    with pytest.raises(Unreachable) as caught:
        await Caller(kind("http://192.0.2.1:1", KEY, retries=NO_RETRIES, timeout=0.05))("stats")
    assert "proxy" not in str(caught.value), "a proxy would read the key"


async def test_a_stream_goes_on_while_stackd_restarts(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """stackd answers 503 until it is ready, and before that the proxy in front of it does."""
    monkeypatch.setattr(attempts, "AGAIN_SECONDS", 0.0)
    stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\nid: %d\nevent: job\ndata: {}\n\n"
    page = b"HTTP/1.1 %d Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\n<p>!"
    busy = b'HTTP/1.1 503 Error\r\nRetry-After: 0\r\nContent-Length: 13\r\nConnection: close\r\n\r\n{"error": ""}'
    events: list[Event] = []
    async with saying(busy, page % 502, stream % 1, page % 503, busy, page % 504, stream % 2) as url:
        ask = Caller(kind(url, KEY, retries=Retries(times=2, first=0.01)))
        await asyncio.wait_for(ask.events(events, lambda event: event.id == "2"), 30)
        await ask("close")
    assert [event.id for event in events] == ["1", "2"]
    for reply, error in ((busy, api.Busy), (page % 502, Unreachable)):
        async with saying(reply, reply) as url:
            ask = Caller(kind(url, KEY, retries=Retries(times=1, first=0.01)))
            with pytest.raises(error):
                await ask.events(events, lambda event: True)
            await ask("close")


def test_it_imports_none_of_the_daemons_libraries() -> None:
    heavy = {"httpx2", "aiohttp", "pydantic", "kubernetes", "apscheduler", "prometheus_client", "yaml", "click"}
    program = f"import sys, stackd.client; print(*({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---- when a request is sent again; decided without a network

STACK = b'{"stack_id": "stack-1", "status": "creating"}'
LOST = Unreachable("lost", sent=True)
REFUSED = Unreachable("refused", sent=False)


def answer(status: int, body: bytes = b'{"error": "no"}', **headers: str) -> Response:
    return Response(status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, body=body)


def played(steps: Steps[Any], *said: Response | Unreachable, retries: Retries | None = None) -> tuple[Any, list[Any]]:
    """The result or the raised error, and what the steps requested on the way."""
    steps = with_retries(steps, retries or Retries())
    script: Iterator[Response | Unreachable] = iter(said)
    wanted: list[Any] = []
    try:
        one = next(steps)
        while True:
            wanted.append(one)
            if isinstance(one, Pause):
                one = steps.send(None)
                continue
            reply = next(script)
            one = steps.throw(reply) if isinstance(reply, Unreachable) else steps.send(reply)
    except StopIteration as end:
        return end.value, wanted
    except api.ClientError as error:
        return error, wanted


def requests(wanted: list[Any]) -> list[Request]:
    return [one for one in wanted if isinstance(one, Request)]


def test_a_create_is_sent_again_under_the_same_key() -> None:
    stack, wanted = played(operations.create("pod", ports=[80]), LOST, answer(502), answer(201, STACK))
    assert stack.stack_id == "stack-1"
    keys = {request.headers["Idempotency-Key"] for request in requests(wanted)}
    assert len(requests(wanted)) == 3
    assert len(keys) == 1
    _, again = played(operations.create("pod", ports=[80]), answer(201, STACK))
    assert {request.headers["Idempotency-Key"] for request in requests(again)}.isdisjoint(keys)


def test_what_must_not_happen_twice_is_not_sent_twice() -> None:
    error, wanted = played(operations.restart("stack-1"), LOST, answer(200, STACK))
    assert error is LOST
    assert len(requests(wanted)) == 1
    for harmless in (REFUSED, answer(429)):
        stack, wanted = played(operations.restart("stack-1"), harmless, answer(200, STACK))
        assert stack.stack_id == "stack-1"
        assert len(requests(wanted)) == 2
    error, _ = played(operations.restart("stack-1"), answer(503), answer(200, STACK))
    assert isinstance(error, api.Busy)
    error, _ = played(operations.delete("stack-1"), REFUSED, answer(404))
    assert error.status == 404, "it was never sent before"


@pytest.mark.parametrize("lost", [LOST, answer(504, b"<h1>Gateway Timeout</h1>")])
@pytest.mark.parametrize(
    "delete", [operations.delete, operations.delete_template, operations.delete_message, operations.revoke_link]
)
def test_what_is_gone_after_a_lost_answer_was_deleted(
    delete: Callable[[str], Steps[None]], lost: Response | Unreachable
) -> None:
    assert played(delete("name-1"), lost, answer(404))[0] is None
    assert isinstance(played(delete("name-1"), answer(404))[0], api.NotFound)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_stackd_is_given_the_time_it_asks_for(status: int) -> None:
    _, wanted = played(operations.stats(), answer(status, retry_after="3"), answer(400))
    (pause,) = [one for one in wanted if isinstance(one, Pause)]
    assert pause.seconds == 3.0
    error, wanted = played(operations.stats(), answer(status, retry_after="60"))
    assert isinstance(error, api.Busy)
    assert error.retry_after == 60.0
    error, _ = played(operations.stats(), answer(status), retries=Retries(busy=False))
    assert isinstance(error, api.Busy)


def test_a_proxy_that_does_not_reach_stackd_is_asked_again_and_is_no_other_server() -> None:
    for status in (502, 503, 504):
        page = answer(status, b"<h1>No server is available</h1>")
        stack, wanted = played(operations.create("pod", ports=[80]), page, page, answer(201, STACK))
        assert (stack.stack_id, len(requests(wanted))) == ("stack-1", 3)
        error, wanted = played(operations.restart("stack-1"), page)
        assert (type(error), error.sent, len(requests(wanted))) == (Unreachable, True, 1)
    error, _ = played(operations.stats(), answer(500, b"<h1>"))
    assert isinstance(error, api.BadAnswer)


def test_no_log_shows_what_only_a_player_may_know() -> None:
    """A program logs what it got: no flag, no pod spec that has one, no link, no request with its Idempotency-Key."""
    raw = {"stack_id": "stack-1", "pod_spec": "flag{1}", "values": {"A": "flag{1}"}, "env": {"A": "flag{1}"}}
    stack, wanted = played(operations.create("flag{1}", env={"A": "flag{1}"}), answer(201, json.dumps(raw).encode()))
    job, _ = played(
        operations.batch_job("job-1", results=True),
        answer(200, json.dumps({"job_id": "job-1", "results": [raw | {"index": 0, "outcome": "done"}]}).encode()),
    )
    link = NewLink(link_id="link-1", url="https://stackd.example/play#flag{1}", name="", expires_at=EPOCH)
    for one in (stack, job, link, *wanted, answer(200, b"flag{1}"), Event(kind="stack", data=raw)):
        for text in (repr(one), str([*getattr(one, "__rich_repr__", list)()])):
            assert "flag{1}" not in text
            assert "Idempotency-Key" not in text
    assert all("-1" in repr(one) for one in (stack, job, link))


@pytest.mark.parametrize(
    "operation",
    [operations.get, operations.wait, operations.stop, operations.start, operations.restart, operations.extend],
)
def test_what_a_create_returned_keeps_its_values(operation: Callable[..., Steps[api.Stack]]) -> None:
    running = b'{"stack_id": "stack-1", "status": "running"}'
    ttl = (timedelta(minutes=10),) if operation is operations.extend else ()
    created = api.Stack(stack_id="stack-1", values={"flag": "f{1}"})
    stack, wanted = played(operation(created, *ttl), *[answer(200, running)] * 2)
    assert (stack.status, stack.values) == ("running", {"flag": "f{1}"})
    assert requests(wanted)[0].body in (None, {"ttl": "10m"})


@pytest.mark.parametrize("wait", [operations.wait_batch, operations.wait_job])
def test_stackd_answers_a_wait_for_a_job_once_it_has_finished(wait: Callable[[str], Steps[api.Job]]) -> None:
    """It was asked four times a second."""
    under_way, ended = b'{"job_id": "job-1", "status": "running"}', b'{"job_id": "job-1", "status": "failed"}'
    job, wanted = played(wait("job-1"), answer(200, under_way), answer(200, ended))
    assert (job.status, len(requests(wanted))) == ("failed", 2)
    assert {one.query for one in requests(wanted)} == {(("wait", "completed,failed"), ("timeout", "30s"))}


@pytest.mark.parametrize("last", [answer(200, b'{"deleted": true, "stack_id": "stack-1"}'), answer(404)])
def test_a_wait_for_the_end_returns_what_was_deleted(last: Response) -> None:
    stack, wanted = played(operations.wait("stack-1", "deleted"), answer(200, STACK), last)
    assert (stack.stack_id, stack.status, stack.ended) == ("stack-1", "deleted", True)
    assert [type(one) for one in wanted] == [Request, Pause, Request], "it does not spin"
    error, _ = played(operations.wait("stack-1"), answer(404))
    assert isinstance(error, api.NotFound)


@pytest.mark.parametrize(
    ("status", "wanted", "end"), [("running", "stopped", api.TimedOut), ("failed", "x", api.StackEnded)]
)
def test_a_wait_gives_up_only_when_a_stack_has_ended(status: str, wanted: Any, end: type[Exception]) -> None:
    body = b'{"stack_id": "stack-1", "status": "%b"}' % status.encode()
    error, _ = played(operations.wait("stack-1", wanted, timeout=timedelta(0)), *[answer(200, body)] * 2)
    assert type(error) is end
    first = next(with_retries(operations.wait("stack-1", timeout=30), NO_RETRIES, 0.1))
    assert isinstance(first, Request)
    assert first.seconds > 30, "the time of the wait does not count"


def test_an_event_of_which_only_a_part_came_is_dropped_when_the_stream_resumes() -> None:
    reader = EventReader(query=())
    assert len([*reader.feed(b'id: x-1\ndata: {}\n\nid: x-2\ndata: {"a"\ndata')]) == 1
    assert reader.request().headers == {"Last-Event-ID": "x-1"}
    sent = 'id: x-2\r\nevent: job\r\ndata: {"job_id": "a\u2028b"}\n\n'.encode()
    events = [event for byte in sent for event in reader.feed(bytes([byte]))]
    assert events == [Event(kind="job", id="x-2", data={"job_id": "a\u2028b"})]


@pytest.mark.parametrize("bad", ["", "..", "a/b", "stack-1?x=1"])
def test_an_id_cannot_lead_to_another_route(bad: str) -> None:
    for operation in (operations.get, operations.delete, operations.logs):
        error, wanted = played(operation(bad))
        assert (type(error), wanted) == (api.ClientError, [])


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8081",
        "ftp://x",
        "http://",
        "http://x:port",
        "http://x?y=1",
        "http://u:p@x",
        "http://a..b",
        "http://x/ü",
    ],
)
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|[Pp]ort"):
        Client(url, "key")

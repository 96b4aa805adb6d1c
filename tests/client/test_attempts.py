"""When a request is sent again; decided without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, get_args

import pytest

from stackd import model
from stackd.client import (
    Busy,
    Client,
    ClientError,
    NotFound,
    Port,
    Retries,
    Stack,
    StackEnded,
    StackStatus,
    TimedOut,
    Unreachable,
    operations,
)
from stackd.client.attempts import NO_RETRIES, Pause, Request, Response, Steps, with_retries
from stackd.contract import JobStatus

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
    except ClientError as error:
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
    _, own = played(operations.create("pod", ports=[80], idempotency_key="mine"), answer(201, STACK))
    assert requests(own)[0].headers["Idempotency-Key"] == "mine"


def test_what_must_not_happen_twice_is_not_sent_twice() -> None:
    error, wanted = played(operations.restart("stack-1"), LOST, answer(200, STACK))
    assert error is LOST
    assert len(requests(wanted)) == 1
    for harmless in (REFUSED, answer(429)):
        stack, wanted = played(operations.restart("stack-1"), harmless, answer(200, STACK))
        assert stack.stack_id == "stack-1"
        assert len(requests(wanted)) == 2
    error, _ = played(operations.restart("stack-1"), answer(503), answer(200, STACK))
    assert isinstance(error, Busy)
    error, _ = played(operations.delete("stack-1"), REFUSED, answer(404))
    assert error.status == 404, "it was never sent before"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_stackd_is_given_the_time_it_asks_for(status: int) -> None:
    _, wanted = played(operations.stats(), answer(status, retry_after="3"), answer(400))
    (pause,) = [one for one in wanted if isinstance(one, Pause)]
    assert pause.seconds == 3.0
    error, wanted = played(operations.stats(), answer(status, retry_after="60"))
    assert isinstance(error, Busy)
    assert error.retry_after == 60.0
    error, _ = played(operations.stats(), answer(status), retries=Retries(busy=False))
    assert isinstance(error, Busy)


def test_pauses_grow_and_end() -> None:
    error, wanted = played(operations.stats(), *[REFUSED] * 5)
    assert error is REFUSED
    pauses = [one.seconds for one in wanted if isinstance(one, Pause)]
    assert len(pauses) == 4
    for number, seconds in enumerate(pauses):
        assert 0.1 * 2**number <= seconds <= 0.2 * 2**number
    error, wanted = played(operations.stats(), REFUSED, retries=NO_RETRIES)
    assert (error, len(wanted)) == (REFUSED, 1)


@pytest.mark.parametrize(
    "operation",
    [operations.get, operations.wait, operations.stop, operations.start, operations.restart, operations.extend],
)
def test_what_a_create_returned_keeps_its_values(operation: Callable[..., Steps[Stack]]) -> None:
    running = b'{"stack_id": "stack-1", "status": "running"}'
    ttl = (timedelta(minutes=10),) if operation is operations.extend else ()
    created = Stack(stack_id="stack-1", values={"flag": "f{1}"})
    stack, wanted = played(operation(created, *ttl), *[answer(200, running)] * 2)
    assert (stack.status, stack.values) == ("running", {"flag": "f{1}"})
    assert requests(wanted)[0].body in (None, {"ttl": "10m"})


@pytest.mark.parametrize("last", [answer(200, b'{"deleted": true, "stack_id": "stack-1"}'), answer(404)])
def test_a_wait_for_the_end_returns_what_was_deleted(last: Response) -> None:
    stack, wanted = played(operations.wait("stack-1", "deleted"), answer(200, STACK), last)
    assert (stack.stack_id, stack.status, stack.ended) == ("stack-1", "deleted", True)
    assert [type(one) for one in wanted] == [Request, Pause, Request], "it does not spin"
    error, _ = played(operations.wait("stack-1"), answer(404))
    assert isinstance(error, NotFound)


@pytest.mark.parametrize(("status", "wanted", "end"), [("running", "stopped", TimedOut), ("failed", "x", StackEnded)])
def test_a_wait_gives_up_when_a_stack_has_ended_and_not_before(status: str, wanted: Any, end: type[Exception]) -> None:
    body = b'{"stack_id": "stack-1", "status": "%b"}' % status.encode()
    error, _ = played(operations.wait("stack-1", wanted, timeout=timedelta(0)), *[answer(200, body)] * 2)
    assert type(error) is end


def test_one_text_is_one_element() -> None:
    for ports in ("53/udp", ["53/udp"], Port(container_port=53, protocol="UDP")):
        _, wanted = played(operations.create("pod", ports=ports, ttl=timedelta(seconds=90)), answer(201, STACK))
        body = {"target_port": [{"container_port": 53, "protocol": "UDP"}], "pod_spec": "pod", "ttl": "90s"}
        assert requests(wanted)[0].body == body
    steps = operations.stacks(labels="team=7", statuses="running", fields="stack_id")
    _, wanted = played(steps, answer(200, b'{"stacks": []}'))
    assert requests(wanted)[0].query == (("label", "team=7"), ("status", "running"), ("fields", "stack_id"))
    _, wanted = played(operations.batch_delete("stack-1"), answer(202, b'{"job_id": "job-1"}'))
    assert requests(wanted)[0].body == {"stack_ids": ["stack-1"]}


def test_the_types_name_what_the_api_sends() -> None:
    assert set(get_args(StackStatus)) == {*model.StackStatus, "deleted"}
    assert set(get_args(JobStatus)) == {*model.JobStatus}


@pytest.mark.parametrize("bad", ["", "..", "a/b", "stack-1?x=1", "x" * 254])
def test_an_id_cannot_lead_to_another_route(bad: str) -> None:
    for operation in (operations.get, operations.delete, operations.restart, operations.logs):
        error, wanted = played(operation(bad))
        assert isinstance(error, ClientError)
        assert wanted == []


@pytest.mark.parametrize("url", ["127.0.0.1:8081", "ftp://x", "http://", "http://x:port"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|[Pp]ort"):
        Client(url, "key")


def operations_of(module: Any) -> set[str]:
    hidden = {"CreateOptions", "Filters", "filter_query", "selection_query", "path_of", "target_port"}
    found: dict[str, Callable[..., Any]] = {
        name: value for name, value in vars(module).items() if callable(value) and not name.startswith("_")
    }
    return {name for name, one in found.items() if one.__module__ == module.__name__} - hidden

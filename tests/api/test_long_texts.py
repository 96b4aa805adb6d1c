"""Long pod specs: complete in every response, also after a restart, and read from the file each time."""

from __future__ import annotations

import threading
from typing import Any

import aiohttp
import pytest

from stackd.model import SanitizedSpec, TargetPort
from stackd.podspec import Sanitizer
from tests.harness import KEY, Harness, Machine, request_for, seed
from tests.raw import say
from tests.streams import follow

MARK = "this is a long text "
LIMIT = 64 << 10


def long_request(size: int = 40_000) -> dict[str, Any]:
    """A create whose pod spec has about this many bytes."""
    request = request_for("nginx:stable")
    value = MARK * (size // len(MARK))
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
    for path in ("/stacks", "/stacks?dry_run=true", "/capacity"):
        await at.refused(400, "limits.pod_spec", path, long_request(size=LIMIT))
    lines = '"' + "x\\n" * 15_000 + '"'
    env = [f"        - {{name: A, value: &a {lines}}}", *(f"        - {{name: A{n}, value: *a}}" for n in range(33))]
    request = seed()
    request["pod_spec"] += "\n      env:\n" + "\n".join(env)
    assert len(request["pod_spec"]) < LIMIT
    await at.refused(400, "limits.pod_spec) once sanitized", "/stacks", request)
    assert not await at.objects("pods")


async def test_every_answer_and_event_has_the_whole_text(at: Harness) -> None:
    short = await at.create()
    async with follow(at) as stream, follow(at, "/events?fields=stack_id,status") as a_part:
        made = await at.create(long_request())
        name, text = made["stack_id"], made["pod_spec"]
        assert len(text) > 40_000
        assert (await stream.until("stack", stack_id=name, status="running")).data["pod_spec"] == text
        assert list((await a_part.until("stack", status="running")).data) == ["stack_id", "status"]
    async with follow(at, f"/stacks/{name}/events") as one_stack:
        assert (await one_stack.until("stack", status="running")).data["pod_spec"] == text
    texts = {short["stack_id"]: short["pod_spec"], name: text}
    for query in ("", "?limit=10", "?fields=stack_id,pod_spec", "?status=running&status=creating"):
        listed = (await at.get(f"/stacks{query}"))["stacks"]
        assert {one["stack_id"]: one["pod_spec"] for one in listed} == texts, query
    assert (await at.call("HEAD", "/stacks")).status == 200
    for verb in ("extend", "stop", "start", "restart"):
        assert (await at.do(verb, name, ttl="1h" if verb == "extend" else None))["pod_spec"] == text
    old = await say(at, f"GET /stacks HTTP/1.0\r\nX-API-KEY: {KEY}\r\n\r\n".encode())
    head, _, body = old.partition(b"\r\n\r\n")
    assert (b"chunked" in head, name.encode() in body, body[-2:]) == (False, True, b"]}")
    await at.lose_file()
    with pytest.raises(aiohttp.ClientError):  # a list that cannot be read to its end does not look complete
        await at.call("GET", "/stacks")


async def test_it_is_there_after_a_restart_and_under_an_idempotency_key(vm: Machine) -> None:
    keyed = {"Idempotency-Key": "one"}
    first = (await (await vm.start()).call("POST", "/stacks", long_request(), headers=keyed)).json
    at = await vm.start()
    again = await at.post("/stacks", long_request(), 201, headers=keyed)
    assert (again["stack_id"], again["pod_spec"]) == (first["stack_id"], first["pod_spec"])
    assert (await at.stack(first["stack_id"]))["pod_spec"] == first["pod_spec"]

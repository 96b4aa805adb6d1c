"""API keys: scopes, rotation, guessing, and that no key is ever shown."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Literal

import pytest

from stackd.keys import ApiKey, digest
from stackd.play import ROUTES
from tests.harness import KEY, READ_KEY, Harness, harness, seed
from tests.raw import say

FLAG = "FLAG{not-for-the-log}"


def accept(at: Harness, scope: Literal["read", "metrics"]) -> None:
    at.put_keys_in_force(*at.config.auth.keys, ApiKey(name="second", sha256=digest(READ_KEY), scope=scope))


async def test_a_key_for_metrics_reads_nothing_of_any_tenant(at: Harness) -> None:
    accept(at, "metrics")
    stack_id = (await at.create())["stack_id"]
    allowed = ("/metrics", "/healthz", "/readyz", "/owner")
    for path, method in product(allowed, ("GET", "HEAD")):
        assert (await at.call(method, path, key=READ_KEY)).status == 200
    for route in ROUTES:
        if not (route.public or route.players) and route.path not in allowed:
            path = route.path.format_map(defaultdict(lambda: "one", stack_id=stack_id))
            reply = await at.call(route.method, path, seed(), key=READ_KEY)
            assert reply.status == 403, route
    for method, path in (("POST", "/healthz"), ("GET", "/nothing")):
        assert (await at.call(method, path, key=READ_KEY)).status == 403
    assert len(await at.objects("pods")) == 1


async def test_whoever_guesses_is_slowed_down_by_address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = {"STACKD_LIMITS__FAILED_AUTH_PER_MINUTE": "2"}

    async def guess(at: Harness, forwarded: str, key: str | None = "sk-wrong") -> int:
        return (await at.call("GET", "/stacks", key=key, headers={"X-Forwarded-For": forwarded})).status

    async with harness(tmp_path, settings) as at:
        assert [await guess(at, "203.0.113.1", None) for _ in range(5)] == [401] * 5, "without a key it is no guess"
        found = [await guess(at, f"203.0.113.{number}") for number in range(3)]
        assert found == [401, 401, 429], "without trusted proxies nobody chooses the own address"
        await at.refused(429, "limits.failed_auth_per_minute", "/stacks", key=None, method="GET")
        assert (await at.call("GET", "/stacks")).status == 200
    assert "203.0.113" not in caplog.text
    caplog.clear()
    settings["STACKD_SERVER__TRUSTED_PROXIES"] = "127.0.0.1, 198.51.100.0/24"
    async with harness(tmp_path, settings) as at:
        assert [await guess(at, "203.0.113.5") for _ in range(3)] == [401, 401, 429]
        assert await guess(at, "203.0.113.6") == 401
        assert await guess(at, "203.0.113.77, 203.0.113.5") == 429, "what the caller itself has invented is on the left"

        assert await guess(at, "203.0.113.5", KEY) == 200
    clients = {vars(record).get("client") for record in caplog.records if record.name == "stackd.request"}
    assert clients == {"203.0.113.5", "203.0.113.6"}


async def test_no_output_shows_a_key_or_a_flag(at: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    accept(at, "read")
    body = seed()
    body["pod_spec"] += f"\n      env:\n        - name: FLAG\n          value: {json.dumps(FLAG)}"
    shown = []
    for key, query in ((KEY, ""), (None, f"?api_key={KEY}"), ("sk-wrong-key", ""), (None, "?api_key=sk-wrong-key")):
        for method, path in (
            ("POST", "/stacks"), ("GET", "/nothing"), ("PUT", "/stacks"), ("GET", "/metrics"), ("GET", "/readyz"),
            ("GET", "/reconcile"), ("DELETE", "/stacks/stack-none"), ("POST", "/stacks/batch-delete"),
        ):  # fmt: skip
            reply = await at.call(method, path + query, body, key=key, headers={"Idempotency-Key": "x"})
            shown.append((path, reply))
    await at.call("POST", "/stacks", body | {"api_key": KEY})
    at.cluster.faults.add_fault(verb="create", resource="pods", action="status", code=500, count=1)
    await at.call("POST", "/stacks", body)
    text = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert "POST /stacks" in text
    for secret in (KEY, READ_KEY, "sk-wrong-key", digest(KEY).hex(), FLAG):
        assert secret not in text
        for path, reply in shown:
            if secret != FLAG or path != "/stacks":
                assert secret not in reply.text
                assert secret not in str(reply.headers)


HEADS = [
    ("GET /nope HTTP/1.0", 404), ("GET /stacks/ HTTP/1.1", 404), ("GET //stacks HTTP/1.1", 404),
    ("GET /stacks/%0d%0aSet-Cookie:%20a=b HTTP/1.1", 404), ("PUT /stacks HTTP/1.1", 405), ("OPTIONS * HTTP/1.1", 405),
    ("CONNECT example.org:443 HTTP/1.1", 405), ("PURGE /docs HTTP/1.1", 405), ("GET /stacks%2Fstack-1 HTTP/1.1", 404),
]  # fmt: skip


async def test_the_key_is_checked_first(at: Harness) -> None:
    for line, status in HEADS:
        for key, expected in (("", 401), ("X-API-KEY: sk-wrong\r\n", 401), (f"X-API-KEY: {KEY}\r\n", status)):
            raw = await say(at, f"{line}\r\n{key}Host: a\r\nConnection: close\r\n\r\n".encode())
            head, _, body = raw.decode().partition("\r\n\r\n")
            assert (int(head.split()[1]), list(json.loads(body))[:2]) == (expected, ["error", "code"]), raw
            headers = dict(each.lower().split(": ", 1) for each in head.split("\r\n")[1:])
            own = {"content-type": "application/json", "cache-control": "no-store", "server": "stackd"}
            assert headers.items() >= own.items()
            assert "set-cookie" not in headers
            assert ("allow" in headers) == (expected == 405)

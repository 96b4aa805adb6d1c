"""API keys: scopes, rotation, guessing, and that no key is ever shown."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.keys import digest
from stackd.web.routes import ROUTES
from tests.harness import KEY, READ_KEY, Harness, harness, seed

FLAG = "FLAG{not-for-the-log}"


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Harness]:
    """A stackd with a key that may do everything and a key that may only read."""
    config = tmp_path / "config.toml"
    config.write_text(f'[[auth.keys]]\nname = "reader"\nsha256 = "{digest(READ_KEY).hex()}"\nscope = "read"\n')
    async with harness(tmp_path, config=config) as ready:
        yield ready


async def test_a_key_that_may_only_read_reads_and_changes_nothing(two: Harness) -> None:
    stack_id = (await two.create())["stack_id"]
    for path in ("/healthz", "/stats", "/stacks", f"/stacks/{stack_id}", f"/stacks/{stack_id}/status"):
        assert (await two.call("GET", path, key=READ_KEY)).status == 200
        assert (await two.call("HEAD", path, key=READ_KEY)).status == 200
    for method, path in (
        ("POST", "/stacks"),
        ("DELETE", f"/stacks/{stack_id}"),
        ("POST", "/stacks/batch-delete"),
        ("POST", "/stacks/batch"),
        ("POST", "/reconcile/confirm"),
    ):
        reply = await two.call(method, path, seed(), key=READ_KEY)
        assert (reply.status, "'reader'" in reply.error) == (403, True)
    assert (await two.call("POST", "/capacity", seed(), key=READ_KEY)).status == 200, "it changes nothing"
    assert len(await two.objects("pods")) == 1


async def test_a_key_for_metrics_reads_those_and_nothing_of_any_tenant(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[[auth.keys]]\nname = "scraper"\nsha256 = "{digest(READ_KEY).hex()}"\nscope = "metrics"\n')
    async with harness(tmp_path, config=config) as at:
        stack_id = (await at.create())["stack_id"]
        for path in ("/metrics", "/healthz", "/readyz", "/owner"):
            for method in ("GET", "HEAD"):
                assert (await at.call(method, path, key=READ_KEY)).status == 200
        refused = "the API key 'scraper' may only read /healthz, /metrics, /owner, /readyz"
        for route in ROUTES:
            if route.public or route.path in ("/healthz", "/readyz", "/owner"):
                continue
            path = route.path.format(stack_id=stack_id, job_id="job-1")
            reply = await at.call(route.method, path, seed(), key=READ_KEY)
            assert (reply.status, reply.error) == (403, refused), route
        for method, path in (("POST", "/healthz"), ("GET", "/nothing"), ("POST", "/metrics")):
            assert (await at.call(method, path, key=READ_KEY)).status == 403
        assert (await at.call("GET", "/docs", key=READ_KEY)).status == 200
        assert len(await at.objects("pods")) == 1


async def test_whoever_guesses_is_slowed_down_and_the_others_at_the_address_are_not(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__FAILED_AUTH_PER_MINUTE": "5"}) as at:
        for _ in range(5):
            assert (await at.call("GET", "/stacks", key="sk-wrong")).status == 401
        for key in ("sk-wrong", "sk-other", None):
            reply = await at.call("GET", "/stacks", key=key)
            assert reply.status == 429
            assert "limits.failed_auth_per_minute" in reply.error
            assert 0 < int(reply.headers["Retry-After"]) <= 12
        assert (await at.call("GET", "/stacks")).status == 200


async def test_behind_a_trusted_proxy_each_caller_is_limited_and_logged_by_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = {
        "STACKD_LIMITS__FAILED_AUTH_PER_MINUTE": "2",
        "STACKD_SERVER__TRUSTED_PROXIES": "127.0.0.1, 198.51.100.0/24",
    }
    async with harness(tmp_path, settings) as at:

        async def guess(forwarded: str) -> int:
            return (await at.call("GET", "/stacks", key="sk-wrong", headers={"X-Forwarded-For": forwarded})).status

        assert [await guess("203.0.113.5") for _ in range(3)] == [401, 401, 429]
        assert await guess("203.0.113.6") == 401
        assert await guess("203.0.113.77, 203.0.113.5") == 429, "what the caller itself has invented stands on the left"
        assert await guess("203.0.113.5, 198.51.100.9") == 429, "through two proxies"
        assert (await at.call("GET", "/stacks", headers={"X-Forwarded-For": "203.0.113.5"})).status == 200
    clients = {vars(record).get("client") for record in caplog.records if record.name == "stackd.request"}
    assert clients == {"203.0.113.5", "203.0.113.6"}
    assert "from=203.0.113.5" in caplog.text


async def test_without_trusted_proxies_nobody_chooses_the_own_address(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with harness(tmp_path, {"STACKD_LIMITS__FAILED_AUTH_PER_MINUTE": "2"}) as at:
        found = [
            (await at.call("GET", "/stacks", key="sk-wrong", headers={"X-Forwarded-For": f"203.0.113.{number}"})).status
            for number in range(3)
        ]
        assert found == [401, 401, 429]
    assert "203.0.113" not in caplog.text


async def test_a_request_without_a_key_is_no_guess(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__FAILED_AUTH_PER_MINUTE": "2"}) as at:
        for _ in range(5):
            assert (await at.call("GET", "/stacks", key=None)).status == 401


async def test_no_output_shows_a_key_or_a_flag(two: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = seed()
    body["pod_spec"] += f"\n      env:\n        - name: FLAG\n          value: {json.dumps(FLAG)}"
    shown = []
    for key, query in ((KEY, ""), (None, f"?api_key={KEY}"), ("sk-wrong-key", ""), (None, "?api_key=sk-wrong-key")):
        for method, path in (
            ("POST", "/stacks"),
            ("GET", "/nothing"),
            ("PUT", "/stacks"),
            ("GET", "/metrics"),
            ("GET", "/readyz"),
            ("GET", "/reconcile"),
            ("DELETE", "/stacks/stack-none"),
            ("POST", "/stacks/batch-delete"),
        ):
            reply = await two.call(method, path + query, body, key=key, headers={"Idempotency-Key": "x"})
            shown.append((path, reply))
    await two.call("POST", "/stacks", body | {"api_key": KEY})
    two.cluster.faults.add_fault(verb="create", resource="pods", action="status", code=500, count=1)
    await two.call("POST", "/stacks", body)
    text = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert "POST /stacks" in text
    for secret in (KEY, READ_KEY, "sk-wrong-key", digest(KEY).hex(), FLAG):
        assert secret not in text
        for path, reply in shown:
            if secret != FLAG or path != "/stacks":
                assert secret not in reply.text
                assert secret not in str(reply.headers)

"""Who may call: scopes, rotation, guessing, and that no key is ever shown."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.config import load
from stackd.keys import digest
from stackd.upkeep.keyfile import KeyFile
from stackd.web.auth import neighbourhood
from tests.stand import KEY, READ_KEY, Stand, seed, stand

NEW_KEY = "sk-new-0123456789abcdef0123456789"
FLAG = "FLAG{not-for-the-log}"


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Stand]:
    """A stand with a key that may only read beside the one that may do everything."""
    config = tmp_path / "config.toml"
    config.write_text(f'[[auth.keys]]\nname = "reader"\nsha256 = "{digest(READ_KEY).hex()}"\nscope = "read"\n')
    async with stand(tmp_path, config=config) as ready:
        yield ready


async def test_a_key_that_may_only_read_reads_and_changes_nothing(two: Stand) -> None:
    stack_id = (await two.create())["stack_id"]
    for path in ("/healthz", "/stats", "/stacks", f"/stacks/{stack_id}", f"/stacks/{stack_id}/status"):
        assert (await two.call("GET", path, key=READ_KEY)).status == 200
        assert (await two.call("HEAD", path, key=READ_KEY)).status == 200
    for method, path in (
        ("POST", "/stacks"),
        ("DELETE", f"/stacks/{stack_id}"),
        ("POST", "/stacks/batch-delete"),
        ("POST", "/reconcile/confirm"),
    ):
        reply = await two.call(method, path, seed(), key=READ_KEY)
        assert (reply.status, "'reader'" in reply.error) == (403, True)
    assert len(await two.objects("pods")) == 1


async def test_a_key_is_rotated_by_writing_the_key_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY)
    file.chmod(0o600)
    config = tmp_path / "config.toml"
    config.write_text(f'[auth]\nkey_file = "{file}"\n')
    async with stand(tmp_path, {"STACKD_AUTH__KEY": READ_KEY}, config=config) as at:
        room = at.daemon.room
        environment = {"STACKD_AUTH__KEY": READ_KEY, "STACKD_CLUSTER__MODE": "embedded"}
        follower = KeyFile(room, at.daemon.api.keys, lambda: load(config, environment))

        async def valid(key: str) -> bool:
            return (await at.call("GET", "/healthz", key=key)).status == 200

        file.write_text(f"{KEY}\n{NEW_KEY}\n")
        assert not await valid(NEW_KEY)
        await follower.look()
        assert await valid(KEY)
        assert await valid(NEW_KEY)
        file.write_text("")
        await follower.look()
        assert await valid(NEW_KEY)
        (tmp_path / "next").write_text(NEW_KEY)
        os.replace(tmp_path / "next", file)
        await follower.look()
        assert not await valid(KEY)
        assert await valid(NEW_KEY)
        assert await valid(READ_KEY)
        file.unlink()
        await follower.look()
        assert await valid(NEW_KEY)


async def test_whoever_guesses_is_slowed_down_and_the_others_at_the_address_are_not(tmp_path: Path) -> None:
    async with stand(tmp_path, {"STACKD_LIMITS__FAILED_AUTH_PER_MINUTE": "5"}) as at:
        for _ in range(5):
            assert (await at.call("GET", "/stacks", key="sk-wrong")).status == 401
        for key in ("sk-wrong", "sk-other", None):
            reply = await at.call("GET", "/stacks", key=key)
            assert reply.status == 429
            assert "limits.failed_auth_per_minute" in reply.error
            assert 0 < int(reply.headers["Retry-After"]) <= 12
        assert (await at.call("GET", "/stacks")).status == 200


async def test_a_request_without_a_key_is_no_guess(tmp_path: Path) -> None:
    async with stand(tmp_path, {"STACKD_LIMITS__FAILED_AUTH_PER_MINUTE": "2"}) as at:
        for _ in range(5):
            assert (await at.call("GET", "/stacks", key=None)).status == 401


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_addresses_that_one_host_may_choose_freely_count_as_one(address: str, counted_as: str) -> None:
    assert neighbourhood(address) == counted_as


async def test_no_output_shows_a_key_or_a_flag(two: Stand, caplog: pytest.LogCaptureFixture) -> None:
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

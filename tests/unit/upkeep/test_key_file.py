"""The key file is watched: new content is in force a moment later, and an unusable file changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from stackd.config import load
from stackd.upkeep.reload import KeyFile
from tests.harness import KEY, READ_KEY, harness

NEW_KEY = "sk-new-0123456789abcdef0123456789"


async def test_a_key_is_rotated_by_writing_the_key_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY)
    file.chmod(0o600)
    config = tmp_path / "config.toml"
    config.write_text(f'[auth]\nkey_file = "{file}"\n')
    async with harness(tmp_path, {"STACKD_AUTH__KEY": READ_KEY}, config=config) as at:
        context = at.daemon.context
        environment = {"STACKD_AUTH__KEY": READ_KEY, "STACKD_CLUSTER__MODE": "embedded"}
        follower = KeyFile(context, at.daemon.api.keys, lambda: load(config, environment))

        async def valid(key: str) -> bool:
            return (await at.call("GET", "/healthz", key=key)).status == 200

        file.write_text(f"{KEY}\n{NEW_KEY}\n")
        assert not await valid(NEW_KEY)
        await follower.check()
        assert await valid(KEY)
        assert await valid(NEW_KEY)
        file.write_text("")
        await follower.check()
        assert await valid(NEW_KEY)
        (tmp_path / "next").write_text(NEW_KEY)
        os.replace(tmp_path / "next", file)
        await follower.check()
        assert not await valid(KEY)
        assert await valid(NEW_KEY)
        assert await valid(READ_KEY)
        file.unlink()
        await follower.check()
        assert await valid(NEW_KEY)

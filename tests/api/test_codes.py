"""What players read of errors."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.harness import Harness, eventually, harness, request_for


async def test_sentences_for_players_name_whom_they_ask_also_after_a_reload(tmp_path: Path) -> None:
    name = "STACKD_PLAY__HOST_NAME"
    async with harness(tmp_path, {name: "your {teacher}"}, edited={name: "the tutors"}) as at:
        assert (await at.call("GET", "/nothing")).for_players.endswith("ask your {teacher}.")
        failed = (await at.create(request_for("registry.example/badname:1")))["stack_id"]
        await at.until_status(failed, "failed")
        assert await whom_to_tell(at, failed) == ["your {teacher}."] * 2
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: at.config.play.host_name == "the tutors")
        assert (await at.call("GET", "/nothing")).for_players.endswith("ask the tutors.")
        assert await whom_to_tell(at, failed) == ["the tutors."] * 2


async def whom_to_tell(at: Harness, stack_id: str) -> list[str]:
    """As the stack itself and the list of all have it."""
    stacks = await at.get(f"/stacks/{stack_id}"), *(await at.get("/stacks"))["stacks"]
    return [stack["problem"]["player_message"].partition("tell ")[2] for stack in stacks]

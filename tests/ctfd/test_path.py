"""A player's whole path in a real CTFd."""

from __future__ import annotations

from tests.ctfd.conftest import Ctfd
from tests.harness import Harness


async def flag_of(stackd: Harness, stack_id: str) -> str:
    """The flag in the stack's pod: what a player finds."""
    pod = (await stackd.objects("pods"))[stack_id]
    environment = pod["spec"]["containers"][0]["env"]
    return str(next(one["value"] for one in environment if one["name"] == "FLAG"))


async def test_a_player_starts_extends_restarts_and_solves(ctfd: Ctfd, stackd: Harness) -> None:
    challenge, player = await ctfd.challenge(), await ctfd.player("ada")
    assert (await player.press(challenge))["status"] == "none"
    await player.press(challenge, "start")
    running = await player.until(challenge, status="running")
    (stack_id,) = await stackd.listed()
    stack = await stackd.stack(stack_id)
    assert running["addresses"] == [f"http://127.0.0.1:{stack['ports'][0]['node_port']}"]
    assert 1700 < running["seconds_left"] <= 1800
    await player.press(challenge, "extend")
    longer = await player.until(challenge, extensions_left=1)
    assert longer["seconds_left"] > 2300
    assert await player.submit(challenge, "") == "incorrect"
    assert await player.submit(challenge, "flag{wrong}") == "incorrect"
    assert await player.submit(challenge, await flag_of(stackd, stack_id)) == "correct"
    await player.until(challenge, status="none")
    await stackd.until_listed(0)

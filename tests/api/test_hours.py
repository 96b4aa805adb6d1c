"""A template opens and closes: when stacks of it can be created, and when they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from operator import eq
from typing import Any

import pytest

from tests.api.scenes import config, finished, put, submit
from tests.harness import Harness, Machine, until
from tests.players import player, settings
from tests.templates import BODY, PLAIN, folder_with, start

SHARED = PLAIN + "shared: true\n"
POOLED = PLAIN + "pool: 2\n"


def later(seconds: float) -> str:
    """A time so far from now, as people write it in a zone of theirs."""
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    return at.astimezone(datetime.strptime("+0100", "%z").tzinfo).isoformat(timespec="seconds")


def hours(text: str = PLAIN, **times: str) -> str:
    return text + "".join(f"{name}: {at}\n" for name, at in times.items())


def end_of(stack: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(stack["ttl_expires_at"])


@pytest.fixture
async def at(vm: Machine) -> Harness:
    vm.options |= {"settings": folder_with(vm.folder), "config": config(vm.folder)}
    return await vm.start()


async def test_before_it_opens_nothing_is_created_but_its_pool_is_filled(at: Harness) -> None:
    opens = later(3600)
    await put(at, "web-1", hours(POOLED, opens=opens))
    await put(at, "notes", hours(SHARED, opens=opens))
    reply = await at.refused(409, "", "/stacks", BODY)
    assert (reply.code, reply.for_players) == ("template_closed", f"This opens at {opens}.")
    await until(lambda: at.get("/templates/web-1"), lambda seen: seen["ready"] == 2)
    assert (await at.get("/templates/notes"))["shared_stack"] is None
    assert datetime.fromisoformat((await at.get("/templates/web-1"))["opens"]) == datetime.fromisoformat(opens)
    await put(at, "web-1", hours(POOLED, opens=later(-1)))
    await put(at, "notes", hours(SHARED, opens=later(-1)))
    await at.create(BODY)
    await until(lambda: at.get("/templates/notes"), lambda seen: seen["shared_stack"] is not None)


async def test_when_it_closes_all_that_it_has_ends_and_nothing_else(at: Harness) -> None:
    other, texts = await at.running(), {"web-1": PLAIN, "pooled": POOLED, "notes": SHARED}
    for name, text in texts.items():
        await put(at, name, hours(text, closes=later(900)))
    await at.create(BODY)
    await until(lambda: at.objects("pods"), lambda seen: len(seen) == 5)
    closes = later(1)
    for name, text in texts.items():
        await put(at, name, hours(text, closes=closes))
    await until(at.listed, lambda seen: seen == [other])
    await until(lambda: at.objects("pods"), lambda seen: [*seen] == [other])
    reply = await at.refused(409, "", "/stacks", BODY)
    assert reply.for_players == f"This closed at {closes}."
    job = await finished(at, await submit(at, [{"labels": {}}, {"labels": {}}]))
    assert (job["failed"], job["errors"][0]["code"]) == (2, "template_closed")
    assert (await at.get("/templates/notes"))["shared_stack"] is None


async def test_who_moves_the_end_moves_that_of_the_stacks(at: Harness, vm: Machine) -> None:
    async def ends(stack_id: str) -> datetime:
        return end_of(await at.stack(stack_id))

    first, second, third = later(1800), later(2400), later(900)
    await put(at, "web-1", hours(closes=first))
    short, long = await at.create(BODY, ttl="10m"), await at.create(BODY)
    assert end_of(short) < end_of(long) == datetime.fromisoformat(first)
    for closes in (second, third):
        await put(at, "web-1", hours(closes=closes))
        await until(lambda: ends(long["stack_id"]), partial(eq, datetime.fromisoformat(closes)))
    await vm.lose_file()
    at = await vm.start()
    assert await ends(long["stack_id"]) == datetime.fromisoformat(third)
    assert await ends(short["stack_id"]) == end_of(short)
    await put(at, "web-1", PLAIN)
    assert await ends(long["stack_id"]) == datetime.fromisoformat(third), "what it has got, it keeps"


async def test_an_end_that_is_moved_while_stackd_is_away_moves_that_of_the_stacks(vm: Machine) -> None:
    first, second = later(1800), later(2400)
    at = await start(vm, web_1=hours(closes=first))
    mine = await at.create(BODY)
    assert end_of(mine) == datetime.fromisoformat(first)
    at = await start(vm, web_1=hours(closes=second))
    await until(lambda: at.stack(mine["stack_id"]), lambda seen: end_of(seen) == datetime.fromisoformat(second))


async def test_nothing_is_extended_beyond_the_end(at: Harness) -> None:
    closes = later(5400)
    await put(at, "web-1", hours(closes=closes))
    stack_id = (await at.create(BODY))["stack_id"]
    reply = await at.refused(409, "its template closes at", f"/stacks/{stack_id}/extend", {"ttl": "45m"})
    assert reply.code == "too_long_a_life"
    extend = {"action": "extend", "stack_ids": [stack_id], "ttl": "45m"}
    job = await finished(at, await at.call("POST", "/stacks/batch", extend))
    assert job["errors"][0]["code"] == "too_long_a_life"
    before = end_of(await at.stack(stack_id))
    await at.post(f"/stacks/{stack_id}/extend", {"ttl": "10m"}, 200)
    assert end_of(await at.stack(stack_id)) == before + timedelta(minutes=10)


async def test_a_players_page_says_when_it_opens_and_closes(vm: Machine) -> None:
    opens = later(3600)
    texts = {"later": hours(opens=opens), "notes": hours(SHARED, opens=opens)}
    texts |= {"open": hours(PLAIN + "extend: {by: 30m, times: 2}\n", closes=later(3000), notice="2h")}
    at = await vm.start(settings=settings(vm.folder, **texts))
    async with player(at, templates=["later", "notes", "open"]) as page:
        seen = await page.look()
        for name in ("later", "notes"):
            assert seen[name]["status"] == "none"
            assert seen[name]["problem"] == {"key": "template_closed", "player_message": f"This opens at {opens}."}
        await page.start("later", 409)
        assert not seen["open"].get("problem")
        await page.start("open")
        mine = await page.until("running", "open")
        assert (mine["notice"], mine["extensions_left"]) == (7200, 0)
        assert mine["seconds_left"] <= 3000

"""Messages to players, and what players read of what an organiser has done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from stackd.keys import digest
from stackd.play.messages import MOST_OF_A_KEY
from tests.harness import Client, Harness, Machine, harness, until
from tests.players import Browser, pass_time, player, settings

TENANTS = {"a": "sk-tenant-a-0123456789abcdef", "b": "sk-tenant-b-0123456789abcdef"}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path, settings(tmp_path)) as ready:
        yield ready


async def read(seat: Browser) -> list[str]:
    answer = (await seat.call("GET", "/play/stacks")).json
    return [each["text"] for each in answer["messages"]]


async def say(client: Client, text: str, **more: Any) -> str:
    return str((await client.post("/messages", {"text": text, **more}, 201))["message_id"])


async def test_a_message_reaches_those_whom_it_is_for_until_it_ends_or_is_deleted(at: Harness) -> None:
    other = {"labels": {"player": "seat-13", "room": "b12"}, "templates": ["web-1"]}
    async with player(at) as seat, player(at, **other) as neighbour:
        everybody = await say(at, "Welcome,\n  all of you")
        await say(at, "Room B12, ten minutes left", labels={"room": "b12"}, until="10m")
        await say(at, "Lab one has a mistake", template="lab-1")
        assert await read(seat) == ["Welcome, all of you", "Lab one has a mistake"]
        assert await read(neighbour) == ["Welcome, all of you", "Room B12, ten minutes left"]
        listed = (await at.get("/messages"))["messages"]
        assert [(each["labels"], each["template"]) for each in listed] == [
            ({}, ""),
            ({"room": "b12"}, ""),
            ({}, "lab-1"),
        ]
        assert (await at.call("DELETE", f"/messages/{everybody}")).status == 200
        assert (await at.call("DELETE", f"/messages/{everybody}")).status == 404
        pass_time(at, 601)
        assert await read(neighbour) == []
        assert await read(seat) == ["Lab one has a mistake"]

    def is_audited(read: dict[str, Any]) -> bool:
        return any(one["message"].endswith("to room=b12: Room B12, ten minutes left") for one in read["activity"])

    await until(lambda: at.get("/activity"), is_audited)


async def test_a_message_to_chosen_links_is_one_message_and_reaches_nobody_else(at: Harness) -> None:
    async with AsyncExitStack() as stack:
        seats = [await stack.enter_async_context(player(at, labels={"player": f"seat-{n}"})) for n in range(3)]
        opened = {"labels": {}, "each": "visitor", "total": 5, "name": "Workshop"}
        visitors = [await stack.enter_async_context(player(at, **opened)) for _ in range(2)]
        ids = [(await seat.call("GET", "/play/stacks")).json["link"]["id"] for seat in (*seats, *visitors)]
        chosen = [*ids[:2], ids[3], ids[4].partition("/")[0]]
        message = await say(at, "Come to the front", links=chosen)
        has = [bool(await read(seat)) for seat in (*seats, *visitors)]
        assert has == [True, True, False, True, True]
        (listed,) = (await at.get("/messages"))["messages"]
        assert (listed["message_id"], listed["links"]) == (message, sorted(chosen))
        await at.call("DELETE", f"/messages/{message}")
        assert await read(seats[0]) == []


async def test_a_message_survives_a_restart(vm: Machine) -> None:
    vm.options |= {"settings": settings(vm.folder)}
    at = await vm.start()
    await say(at, "Back at ten")
    await vm.stop()
    at = await vm.start()
    async with player(at) as seat:
        assert await read(seat) == ["Back at ten"]


async def test_a_tenant_reaches_its_own_players_and_nobody_elses(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    entry = '[[auth.keys]]\nname = "{0}"\nsha256 = "{1}"\nscope = "tenant"\nlabels = {{ event = "{0}" }}\n'
    config.write_text("".join(entry.format(name, digest(key).hex()) for name, key in TENANTS.items()))
    async with harness(tmp_path, settings(tmp_path), config=config) as at:
        a, b = (Client(session=at.session, url=at.url, key=key) for key in TENANTS.values())
        async with player(a) as mine, player(b) as theirs, player(at) as operators:
            own, general = await say(a, "To A"), await say(at, "To all")
            their_link = (await theirs.call("GET", "/play/stacks")).json["link"]["id"]
            await say(a, "To a link of B's", links=[their_link])
            await say(at, "To B", labels={"event": "b"})
            assert await read(mine) == ["To A", "To all"]
            assert await read(theirs) == ["To all", "To B"]
            assert await read(operators) == ["To all"]
            seen = [(each["text"], each["labels"]) for each in (await b.get("/messages"))["messages"]]
            assert seen == [("To all", {}), ("To B", {})], "what its players may read"
            assert (await b.call("DELETE", f"/messages/{own}")).status == 404
            assert (await b.call("DELETE", f"/messages/{general}")).status == 403
            await a.refused(400, "", "/messages", {"text": "x", "labels": {"event": "b"}})
            assert (await at.call("DELETE", f"/messages/{own}")).status == 200


async def test_a_wrong_message_is_refused(at: Harness) -> None:
    wrong: tuple[tuple[str, dict[str, Any]], ...] = (
        *(("text", {"text": text}) for text in (" ", "x" * 501)),
        ('there is no "nothing"', {"text": "x", "template": "nothing"}),
        *(("until", {"text": "x", "until": end}) for end in ("2026-03-01T17:00:00", "2020-03-01T17:00:00Z", "soon")),
        ("labels", {"text": "x", "labels": {"stackd.io/x": "y"}}),
        *(("links", {"text": "x", "links": links}) for links in (["seat-12"], [])),
    )
    for field, body in wrong:
        await at.refused(400, field, "/messages", body)
    assert (await at.get("/messages"))["messages"] == []


async def test_there_are_few_messages_at_a_time(at: Harness) -> None:
    for number in range(MOST_OF_A_KEY):
        await say(at, str(number), until="1m")
    await at.refused(409, "", "/messages", {"text": "one more"})
    pass_time(at, 61)
    await say(at, "one more")
    async with player(at) as seat:
        assert await read(seat) == ["one more"]


async def test_a_player_reads_what_an_organiser_has_done_with_the_stack_and_not_what_is_their_own(at: Harness) -> None:
    async with player(at) as seat:
        name = (await seat.start())["name"]
        assert (await seat.until("running"))["organiser"] is None
        await seat.call("POST", f"/play/stacks/{name}/restart")
        await seat.call("POST", f"/play/stacks/{name}/extend")
        assert (await seat.until("running"))["organiser"] is None
        await at.post(f"/stacks/{name}/extend", {"ttl": "5m"}, 200)
        assert (await seat.look())["lab-1"]["organiser"] == "extend"
        await at.post(f"/stacks/{name}/restart", None, 200)
        assert (await seat.until("running"))["organiser"] == "restart"
        await seat.call("POST", f"/play/stacks/{name}/extend")
        assert (await seat.look())["lab-1"]["organiser"] is None, "the player has seen it"
        await at.post(f"/stacks/{name}/restart", None, 200)
        await seat.until("running")
        pass_time(at, 601)
        assert (await seat.look())["lab-1"]["organiser"] is None

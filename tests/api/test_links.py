"""Links: a player without a key starts, extends, restarts and stops stacks of some templates, and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stackd.keys import ApiKey, digest
from tests.harness import Client, Harness, Machine, eventually, harness, until
from tests.players import OTHER_SECRET, SECRET, browser, make_link, player, settings, token_of
from tests.templates import PLAIN

TENANT = "sk-tenant-a-0123456789abcdef"


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    ends = PLAIN.replace("nginx:stable", "registry.example/exit0:1")
    async with harness(tmp_path, settings(tmp_path, lab_3=ends)) as ready:
        yield ready


async def links_of(client: Client) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await client.get("/links"))["links"]
    return listed


async def test_a_player_starts_a_stack_and_reads_what_its_template_shows(at: Harness) -> None:
    async with player(at) as seat:
        before = await seat.look()
        assert [(name, before[name]["status"]) for name in sorted(before)] == [(f"lab-{n}", "none") for n in (1, 2, 3)]
        lab = before["lab-1"]
        assert (lab["title"], lab["description"], lab["category"]) == ("Lab one", "Find *it*.", "web")
        await seat.start()
        entry = await seat.until("running")
        stack = await at.stack(entry["name"])
        assert stack["labels"] == {"player": "seat-12", "challenge": "web-1", "kind": "web"}
        assert entry["addresses"][0]["text"] == f"{stack['node_public_ip']}:{stack['ports'][0]['node_port']}"
        assert entry["addresses"][0]["href"].startswith("http://")
        assert [value["name"] for value in entry["values"]] == ["FLAG"]
        assert entry["values"][0]["value"].startswith("flag{")
        assert 3500 < entry["seconds_left"] <= 3600
        assert (entry["extension_seconds"], entry["extensions_left"]) == (1800, 2)
        assert (await at.timeline(entry["name"]))[0]["by"] == "link Seat 12"


async def test_an_extension_is_the_templates_and_counted_across_a_loss_of_the_file(vm: Machine) -> None:
    vm.options |= {"settings": settings(vm.folder)}
    at = await vm.start()
    link = await make_link(at)
    async with browser(at) as seat:
        await seat.enter(link)
        name = (await seat.start())["name"]
        before = (await seat.until("running"))["seconds_left"]
        entry = (await seat.call("POST", f"/play/stacks/{name}/extend")).json
        assert (entry["extensions_left"], entry["seconds_left"] > before + 1700) == (1, True)
        await vm.lose_file()
        at = await vm.start()
        seat.url = at.url  # its session goes on, although no file knows of it or of the link
        assert (await seat.until("running"))["extensions_left"] == 1
        assert await at.get("/links") == {"links": []}
        await seat.enter(link)
        replies = await asyncio.gather(*(seat.call("POST", f"/play/stacks/{name}/extend") for _ in range(3)))
        assert sorted(reply.status for reply in replies) == [200, 409, 409]
        assert {reply.json.get("code") for reply in replies} == {None, "too_long_a_life"}
        assert (await seat.look())["lab-1"]["extensions_left"] == 0


async def test_a_restart_keeps_the_address_and_a_stop_ends_the_stack(at: Harness) -> None:
    async with player(at) as seat:
        name = (await seat.start())["name"]
        before = await seat.until("running")
        again = (await seat.call("POST", f"/play/stacks/{name}/restart")).json
        assert (again["name"], again["status"]) == (name, "restarting")
        assert (await seat.until("running"))["addresses"] == before["addresses"]
        stopped = (await seat.call("DELETE", f"/play/stacks/{name}")).json
        assert (stopped["status"], stopped["name"], stopped["template"]) == ("none", "", "lab-1")
        assert await at.listed() == []


async def test_a_second_start_of_a_template_returns_the_stack_that_there_is(at: Harness) -> None:
    """Somebody presses twice, and in another tab."""
    async with player(at, stacks=5) as seat:
        entries = await asyncio.gather(*(seat.call("POST", "/play/stacks", {"template": "lab-1"}) for _ in range(5)))
        assert sorted(reply.status for reply in entries) == [200, 200, 200, 200, 201]
        assert len({reply.json["name"] for reply in entries}) == 1
        assert len(await at.listed()) == 1


async def test_a_press_that_is_sent_again_starts_nothing_else(at: Harness) -> None:
    async with player(at) as seat:
        press = {"Idempotency-Key": "press-1"}
        first, again = [await seat.call("POST", "/play/stacks", {"template": "lab-1"}, press) for _ in range(2)]
        assert (first.status, again.status, again.json["name"]) == (201, 201, first.json["name"])
        await seat.call("DELETE", f"/play/stacks/{first.json['name']}")
        assert (await seat.call("POST", "/play/stacks", {"template": "lab-1"}, press)).code == "answer_gone"
        assert await at.listed() == []


async def test_at_the_limit_another_stack_makes_way_if_the_player_says_so(at: Harness) -> None:
    async with player(at) as seat:
        name = (await seat.start())["name"]
        other = (await seat.look())["lab-2"]
        assert (other["status"], other["others"]) == ("none", [{"name": name, "title": "Lab one"}])
        async with player(at, name="Seat 12 again") as again:
            assert (await again.look())["lab-1"]["name"] == name
            assert (await again.call("POST", "/play/stacks", {"template": "lab-2"})).code == "label_limit_reached"
        impossible = await seat.call("POST", "/play/stacks", {"template": "web-1", "replace": name})
        assert (impossible.code, await at.listed()) == ("template_not_found", [name])
        entry = await seat.start("lab-2", replace=name)
        assert await at.listed() == [entry["name"]]
        assert (await seat.start("lab-2", 200, replace=name))["name"] == entry["name"]  # the answer was lost


async def test_each_stack_that_counts_is_shown(at: Harness) -> None:
    """Also a second one of a template, which an organiser has created: the player has to be able to stop either of them."""
    async with player(at, labels={"player": "seat-12"}, stacks=2) as seat:
        mine = (await seat.start())["name"]
        other = (await at.create({"template": "lab-1", "labels": {"player": "seat-12"}}))["stack_id"]
        for name in (mine, other):
            await at.until_status(name, "running")
        shown = [one for one in (await seat.call("GET", "/play/stacks")).json["stacks"] if one["template"] == "lab-1"]
        assert [one["name"] for one in shown] == [mine, other]
        await seat.call("DELETE", f"/play/stacks/{other}")
        assert (await seat.look())["lab-1"]["name"] == mine


async def test_a_restart_of_an_ended_stack_counts_again(at: Harness) -> None:
    """Otherwise a player with one stack would have as many as ended in time."""
    async with player(at) as seat:
        first = (await seat.start("lab-3"))["name"]
        problem = (await seat.until("failed", "lab-3"))["problem"]
        assert (problem["key"], problem["restart"]) == ("ended", True)
        await until(lambda: at.stack(first), lambda stack: stack["ended"])
        await seat.start("lab-2")
        reply = await seat.call("POST", f"/play/stacks/{first}/restart")
        assert (reply.status, reply.code) == (409, "label_limit_reached")
        answer = (await seat.call("GET", "/play/stacks")).json
        assert sum(bool(entry["name"]) for entry in answer["stacks"]) == 2
        assert (answer["link"]["used"], answer["link"]["stacks"]) == (1, 1)


async def test_links_that_a_tenant_makes_have_its_labels_and_its_templates(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    entry = '[[auth.keys]]\nname = "{0}"\nsha256 = "{1}"\nscope = "tenant"\nlabels = {{ event = "{0}" }}\n'
    other = TENANT.replace("-a-", "-b-")
    first, second = entry.format("a", digest(TENANT).hex()), entry.format("b", digest(other).hex())
    config.write_text(f"{first}templates = ['lab-*', 'web-1']\n{second}")
    async with harness(tmp_path, settings(tmp_path), config=config) as at:
        a, b = (Client(session=at.session, url=at.url, key=key) for key in (TENANT, other))
        seven = {"labels": {"player": "7"}}
        for labels in ({"event": "b", "player": "7"}, {"event": "a"}):
            await a.refused(400, "labels", "/links", {"labels": labels})
        for wide in ("*", "lab-?", "db"):
            await a.refused(400, "may use lab-*, web-1", "/links", seven | {"templates": [wide]})
        link = await make_link(a, **seven, templates=["lab-1", "web-1"])
        all_of_a = await make_link(a, labels={"player": "8"}, templates=[])
        async with browser(at) as seat, browser(at) as eight:
            await seat.enter(link)
            await eight.enter(all_of_a)
            assert set(await seat.look()) == {"lab-1", "web-1"}
            assert set(await eight.look()) == {"lab-1", "lab-2", "web-1"}
            name = (await seat.start())["name"]
            assert (await a.stack(name))["labels"]["event"] == "a"
            assert (await b.call("GET", f"/stacks/{name}")).status == 404
        assert [one["link_id"] for one in await links_of(a)] == [link["link_id"], all_of_a["link_id"]]
        assert await links_of(b) == []
        assert (await b.call("DELETE", f"/links/{link['link_id']}")).code == "link_not_found"


async def test_a_label_limit_counts_a_players_stacks_as_those_of_the_key_that_made_the_link(tmp_path: Path) -> None:
    limits = {"STACKD_LIMITS__STACKS_PER_LABEL": "event=2", "STACKD_LIMITS__CREATES_PER_LABEL": "player=3/h"}
    async with harness(tmp_path, settings(tmp_path) | limits) as at:
        labels = {"event": "a"}
        one, two = labels | {"player": "1"}, labels | {"player": "2"}
        async with player(at, labels=one) as first, player(at, labels=two, stacks=2) as second:
            name = (await first.start())["name"]
            await second.start()
            full = await second.call("POST", "/play/stacks", {"template": "lab-2"})
            assert (full.status, full.code) == (409, "label_limit_reached")
            for code in ("", "", "label_rate_exceeded"):
                await first.until("running")
                assert (await first.call("POST", f"/play/stacks/{name}/restart")).json.get("code", "") == code


async def test_links_come_in_pages_and_as_a_whole_in_pieces(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stackd.play.links.READ_AT_ONCE", 3)
    monkeypatch.setattr("stackd.web.bodies.RENDER_AT_ONCE", 2)
    made = [(await make_link(at, labels={"player": str(number)}))["link_id"] for number in range(10)]
    assert [one["link_id"] for one in (await at.get("/links"))["links"]] == made
    pages, query = list[list[str]](), "?limit=4"
    while query:
        page = await at.get(f"/links{query}")
        pages.append([one["link_id"] for one in page["links"]])
        query = page["next_cursor"] and f"?limit=4&cursor={page['next_cursor']}"
    assert pages == [made[:4], made[4:8], made[8:]]
    assert (await at.get("/links?limit=10"))["next_cursor"] is None
    for wrong in ("limit=0", "limit=1001", "cursor=x"):
        assert (await at.call("GET", f"/links?{wrong}")).status == 400


async def test_a_wrong_link_is_refused_with_the_field_that_is_wrong(at: Harness) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        *(("labels", {"labels": labels}) for labels in ({}, {"player": ""})),
        *(("expires", {"expires": life}) for life in ("0s", "9000d")),
        *(("stacks", {"stacks": number}) for number in (0, "1", True)),
        ("total", {"total": 5}),
        ("total", {"labels": {}, "each": "visitor"}),
        ("each", {"each": "player", "total": 5}),
        ("player", {"each": "visitor", "total": 5}),
        ("templates", {"templates": "lab-*"}),
        *(("templates[0]", {"templates": [name]}) for name in ("", "*" * 64)),
        *(("name", {"name": name}) for name in ("a\nb", "x" * 41)),
        ("pod_specs", {"pod_specs": True}),
        ("too long", {"labels": {f"label-{n}": "x" * 63 for n in range(16)}, "templates": ["x" * 63] * 16}),
    ]
    body = {"labels": {"player": "seat-12"}, "templates": ["lab-*"], "name": "Seat 12"}
    for words, changes in wrong:
        await at.refused(400, words, "/links", body | changes)


async def test_without_a_secret_or_an_address_there_are_no_links(tmp_path: Path) -> None:
    whole = settings(tmp_path)
    for missing in ("SECRET", "URL"):
        part = {name: value for name, value in whole.items() if name != f"STACKD_PLAY__{missing}"}
        async with harness(tmp_path, part) as at:
            reply = await at.refused(409, missing.lower(), "/links", {"labels": {"player": "7"}})
            assert reply.code == "play_not_configured"


async def test_a_reload_with_another_secret_ends_all_links_unless_the_old_one_is_kept(tmp_path: Path) -> None:
    edited = {"STACKD_PLAY__SECRET": f"{OTHER_SECRET} {SECRET}"}
    async with harness(tmp_path, settings(tmp_path), edited=edited) as at, browser(at) as seat:
        old = await make_link(at)
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: at.daemon.context.config.play.secret.get_secret_value().startswith(OTHER_SECRET))
        new = await make_link(at)
        assert token_of(new).partition(".")[0] != token_of(old).partition(".")[0]
        assert (await seat.open(old)).status == (await seat.open(new)).status == 204
        await seat.open(old)
        edited["STACKD_PLAY__SECRET"] = OTHER_SECRET
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: at.daemon.context.config.play.secret.get_secret_value() == OTHER_SECRET)
        for refused in (await seat.call("GET", "/play/stacks"), await seat.open(old)):
            assert (refused.status, refused.code) == (401, "link_invalid")
        assert (await seat.open(new)).status == 204


async def test_a_shared_stack_of_the_links_templates_is_shown_and_cannot_be_changed(tmp_path: Path) -> None:
    everybodys = PLAIN.replace("ttl: 1h\n", "") + "shared: true\n"
    async with harness(tmp_path, settings(tmp_path, lab_9=everybodys)) as at, player(at) as seat:
        entry = await seat.until("shared", "lab-9")
        assert entry["addresses"][0]["text"] == (await at.stack(entry["name"]))["addresses"][0]["text"]
        assert entry["since"] >= 0
        for method, path in (("POST", "/restart"), ("POST", "/extend"), ("DELETE", "")):
            reply = await seat.call(method, f"/play/stacks/{entry['name']}{path}")
            assert (reply.status, reply.code) == (403, "shared_stack")
        assert (await seat.call("POST", "/play/stacks", {"template": "lab-9"})).status == 409


async def test_the_page_says_why_a_stack_has_ended_unless_the_player_has_stopped_it(tmp_path: Path) -> None:
    short = PLAIN.replace("ttl: 1h", "ttl: 1s")
    async with harness(tmp_path, settings(tmp_path, lab_2=short)) as at, player(at) as seat:
        await seat.start("lab-2")
        assert (await seat.until("none", "lab-2"))["problem"] == {"key": "expired"}
        for end, why in (("DELETE", {"key": "organiser"}), ("stop", None)):
            name = (await seat.start("lab-1"))["name"]
            if end == "stop":
                await seat.call("DELETE", f"/play/stacks/{name}")
            else:
                await at.delete(name)
            assert (await seat.until("none"))["problem"] == why


async def test_a_start_goes_on_if_the_player_leaves_and_is_shown_meanwhile(at: Harness) -> None:
    """A page gives up after some seconds, and asks what there is."""
    async with player(at) as seat:
        async with at.no_create_slots():
            press = asyncio.create_task(seat.call("POST", "/play/stacks", {"template": "lab-1"}))
            entry = await seat.until("starting")
            assert entry["pending"]
            assert not press.done()
            press.cancel()
            await asyncio.wait([press])
        assert (await seat.until("running"))["name"] == entry["name"]


async def test_a_stack_whose_labels_change_is_another_players_from_then_on(at: Harness) -> None:
    async with player(at) as first, player(at, labels={"player": "seat-13"}) as second:
        await first.start()
        stack_id = (await first.until("running"))["name"]
        assert (await at.call("PATCH", f"/stacks/{stack_id}", {"labels": {"player": "seat-13"}})).status == 200
        assert (await first.look())["lab-1"]["status"] == "none"
        assert (await second.look())["lab-1"]["name"] == stack_id


async def test_the_list_says_who_made_a_link_and_when_it_was_opened_and_used_last_and_not_its_token(
    vm: Machine,
) -> None:
    vm.options |= {"settings": settings(vm.folder)}
    at = await vm.start()
    link, other = await make_link(at, stacks=3), await make_link(at, labels={"player": "seat-13"})
    async with browser(at) as seat:
        await seat.enter(link)
        await seat.look()
    opened, never = await links_of(at)
    assert token_of(link) not in str(opened)
    expected = {"name": "Seat 12", "labels": {"player": "seat-12"}, "templates": ["lab-*"], "stacks": 3}
    expected |= {"link_id": link["link_id"], "by": "environment", "revoked": False, "expires_at": link["expires_at"]}
    assert opened.items() >= expected.items()
    assert link["expires_at"] > opened["seen_at"] >= opened["opened_at"] >= opened["created_at"]
    assert (never["link_id"], never.get("opened_at"), never.get("seen_at")) == (other["link_id"], None, None)
    at = await vm.start()
    assert (await links_of(at)) == [opened, never]
    async with browser(at) as seat:
        await seat.enter(link)
    later, _ = await links_of(at)
    assert (later["opened_at"], later["seen_at"] > opened["seen_at"]) == (opened["opened_at"], True)
    await at.daemon.schedule.now("visits")
    assert (await links_of(at))[0] == later, "it is in the file"


async def test_an_organiser_reads_the_page_of_a_link_without_its_values(at: Harness) -> None:
    tenant = ApiKey(name="b", sha256=digest(TENANT), scope="tenant", labels={"class": "b"})
    at.put_keys_in_force(*at.config.auth.keys, tenant)
    link = await make_link(at)
    async with browser(at) as seat:
        await seat.enter(link)
        await seat.start()
        own = await seat.until("running")
        page = await at.get(f"/play/links/{link['link_id']}")
        (seen,) = [entry for entry in page["stacks"] if entry["template"] == "lab-1"]
        assert page["link"]["name"] == "Seat 12"
        assert seen == own | {"values": [], "seconds_left": seen["seconds_left"]}
        reply = await at.call("GET", f"/play/links/{link['link_id']}", key=TENANT)
        assert (reply.status, reply.code) == (404, "link_not_found")
        assert (await seat.call("GET", f"/play/links/{link['link_id']}")).status == 401, "a player reads no other's"


async def test_a_visitor_of_an_open_link_has_a_name_to_read_out(at: Harness) -> None:
    async with player(at, labels={}, each="visitor", total=5, name="Workshop") as seat:
        await seat.start("lab-2")
        shown = (await seat.call("GET", "/play/stacks")).json["link"]
        (stack,) = (await at.get("/stacks"))["stacks"]
        visitor = stack["labels"]["player"]
        assert shown["name"] == f"Workshop {visitor[:4].upper()}"
        page = await at.get(f"/play/links/{shown['id']}")
        assert [entry["name"] for entry in page["stacks"] if entry["name"]] == [stack["stack_id"]]

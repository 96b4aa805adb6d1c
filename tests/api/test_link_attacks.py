"""What somebody may try who has a link, a browser that has opened one, or neither."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from yarl import URL

from stackd.keys import ApiKey, digest
from stackd.play import ROUTES, Players
from stackd.play.players import (
    ALL_WRONG_CODES_A_MINUTE,
    REQUESTS_A_MINUTE,
    VISITORS_A_MINUTE,
    WRONG_CODES_A_MINUTE,
)
from stackd.play.tokens import Signer
from stackd.store.links import Link
from tests.harness import KEY, Client, Harness, Machine, harness, seed
from tests.players import OTHER_SECRET, OWN_PAGE, SECRET, browser, make_link, pass_time, player, settings, token_of
from tests.templates import PLAIN

OPEN: dict[str, Any] = {"labels": {}, "each": "visitor", "total": 3, "name": "Workshop"}
NO_STACK = "stack-0000000000000000"
TENANTS = {"a": "sk-tenant-a-0123456789abcdef", "b": "sk-tenant-b-0123456789abcdef"}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    async with harness(tmp_path, settings(tmp_path)) as ready:
        yield ready


async def test_another_players_stack_does_not_exist(at: Harness) -> None:
    async with player(at) as seat, player(at, labels={"player": "seat-13"}) as other:
        name = (await seat.start())["name"]
        before = await at.until_status(name, "running")
        assert (await other.look())["lab-1"]["name"] == ""
        for method, path in (("POST", "/extend"), ("POST", "/restart"), ("DELETE", "")):
            theirs, nothing = [await other.call(method, f"/play/stacks/{one}{path}") for one in (name, NO_STACK)]
            assert (theirs.status, theirs.text.replace(name, NO_STACK)) == (nothing.status, nothing.text)
            assert theirs.code == "stack_not_found"
        await other.start(replace=name)
        assert await at.stack(name) == before


def forged(token: str) -> dict[str, str]:
    key_id, payload, signature = token.split(".")
    longer = base64.urlsafe_b64encode(base64.urlsafe_b64decode(payload + "==").replace(b"seat-12", b"seat-13")).decode()
    stranger = Link(link_id="link-0", name="x", labels={"player": "seat-12"}, templates=(), stacks=9, expires_at=2**62)
    return {
        "other labels": f"{key_id}.{longer.rstrip('=')}.{signature}",
        "no signature": f"{key_id}.{payload}.",
        "no secret": f".{payload}.{signature}",
        "truncated": token[:-2],
        "another spelling": token + "=",
        "padding": f"{key_id}.{payload}=.{signature}",
        "one more part": f"{token}.{signature}",
        "another secret": Signer([OTHER_SECRET]).token(stranger),
        "another secret with our id": f"{key_id}.{Signer([OTHER_SECRET]).token(stranger).partition('.')[2]}",
        "the session instead of the token": Signer([SECRET]).session(stranger, token),
        "empty": "",
        "long": token + "A" * 5000,
        "not ASCII": token[:-1] + "é",
        "an API key": KEY,
    }


def two_tenants(folder: Path) -> Path:
    config = folder / "config.toml"
    entry = '[[auth.keys]]\nname = "{0}"\nsha256 = "{1}"\nscope = "tenant"\nlabels = {{ event = "{0}" }}\n'
    entries = (entry.format(event, digest(key).hex()) for event, key in TENANTS.items())
    rights = "templates = ['lab-*']\ntemplates_write = true\n"
    config.write_text(rights.join(entries) + rights + "[limits]\nstacks_per_label = { player = 1 }\n")
    return config


async def test_a_link_is_the_operators_or_that_of_the_tenant_whose_labels_it_has(tmp_path: Path) -> None:
    """Player 7 of the operator's is not player 7 of an event, and no tenant can stand in a player's way."""
    async with harness(tmp_path, settings(tmp_path), config=two_tenants(tmp_path)) as at, browser(at) as of_b:
        a, b = (Client(session=at.session, url=at.url, key=key) for key in TENANTS.values())
        body = {"labels": {"player": "7"}, "template": "lab-1"}
        theirs = [(await tenant.post("/stacks", body, 201))["stack_id"] for tenant in (a, b)]
        assert (await a.call("PUT", "/templates/lab-9", f"{PLAIN}title: Send money\n".encode())).status == 201
        await of_b.enter(await make_link(b, labels={"player": "7"}))
        async with player(at, labels={"player": "7", "event": "a"}) as of_a, player(at, labels={"player": "7"}) as seat:
            seen = [await one.look() for one in (of_a, of_b, seat)]
            assert [one["lab-1"]["name"] for one in seen] == [*theirs, ""]
            assert ["lab-9" in one for one in seen] == [True, False, False]
            for stack_id in theirs:
                for method, path in (("DELETE", ""), ("POST", "/restart"), ("POST", "/extend")):
                    assert (await seat.call(method, f"/play/stacks/{stack_id}{path}")).status == 404
            assert (await seat.start())["name"] not in theirs


async def test_the_label_of_open_links_is_theirs_alone(at: Harness) -> None:
    """An open link counts its stacks by it."""
    why = "is the label of open links"
    for name in ("link", "Link"):
        labels = {"labels": {name: "link-0123456789abcdef", "player": "7"}}
        await at.refused(400, why, "/stacks", seed() | labels)
        await at.refused(400, why, "/stacks/batch", {"action": "create", "template": "lab-1", "each": [labels]})
        await at.refused(400, why, "/links", labels)
        text = PLAIN.replace("challenge: web-1", f"{name}: x")
        reply = await at.call("PUT", "/templates/lab-7", text.encode())
        assert (reply.status, why in reply.text) == (400, True), reply.text
        with pytest.raises(ValueError, match=why):
            ApiKey(name="t", sha256=digest("t" * 20), scope="tenant", labels={name: "x"})


async def test_a_forged_token_or_session_opens_nothing(at: Harness) -> None:
    token = token_of(await make_link(at))
    async with browser(at) as seat:
        for what, text in forged(token).items():
            reply = await seat.call("POST", "/play/session", {"token": text})
            assert (reply.status, reply.code) == (401, "link_invalid"), what
            assert "Set-Cookie" not in reply.headers
        for what, text in forged(token).items() | {"the token": token}.items():
            if what != "the session instead of the token" and text.isascii():
                reply = await seat.call("GET", "/play/stacks", headers={"Cookie": f"stackd-play={text}"})
                assert (reply.status, reply.code) == (401, "link_invalid"), what
        for copied in (f"{token}.", f" {token}\n", f"{token}),"):
            assert (await seat.call("POST", "/play/session", {"token": copied})).status == 204, "from a sentence"


async def test_a_link_ends_when_it_expires_and_so_does_its_session(at: Harness) -> None:
    link = await make_link(at, expires="1h")
    async with browser(at) as seat:
        reply = await seat.open(link)
        kept = int(dict(part.strip().partition("=")[::2] for part in reply.headers["Set-Cookie"].split(";"))["Max-Age"])
        assert kept > 3600 + 86_400, "so that an open page is told what has happened, and not that there is no session"
        pass_time(at, 3601)
        reply = await seat.call("GET", "/play/stacks", headers={"Cookie": "stackd-play=" + session_of(at, link)})
        assert (reply.status, reply.code) == (401, "link_expired")
        assert (await seat.open(link)).code == "link_expired"


def session_of(at: Harness, link: dict[str, Any]) -> str:
    signer = cast(Players, at.daemon.api.players).signer
    return signer.session(signer.read_token(token_of(link)), token_of(link))


async def test_a_revoked_link_ends_at_once_with_its_sessions_and_keeps_its_stacks(at: Harness) -> None:
    link = await make_link(at)
    async with browser(at) as seat, player(at, labels={"player": "13"}) as other:
        await seat.enter(link)
        name = (await seat.start())["name"]
        reply = await at.call("DELETE", f"/links/{link['link_id']}")
        assert reply.json == {"link_id": link["link_id"], "revoked": True}
        await other.start("lab-2")
        for refused in (await seat.call("GET", "/play/stacks"), await seat.open(link)):
            assert (refused.status, refused.code) == (401, "link_revoked")
        assert name in await at.listed()
    assert (await at.call("DELETE", f"/links/{link['link_id']}")).status == 200


async def test_a_revocation_survives_a_restart_and_the_loss_of_the_file(vm: Machine) -> None:
    vm.options |= {"settings": settings(vm.folder)}
    at = await vm.start()
    link, second = await make_link(at), await make_link(at)
    assert (await at.call("DELETE", f"/links/{link['link_id']}")).status == 200
    for lose in (False, True):
        if lose:
            await vm.lose_file()
        at = await vm.start()
        async with browser(at) as seat:
            assert (await seat.open(link)).code == "link_revoked"
            assert (await seat.open(second)).status == 204
    # By its id, also where the file does not know it; and a second loss does not undo the first revocation.
    assert (await at.call("DELETE", f"/links/{second['link_id']}")).status == 200
    await vm.lose_file()
    at = await vm.start()
    async with browser(at) as seat:
        assert [(await seat.open(one)).code for one in (link, second)] == ["link_revoked", "link_revoked"]


async def test_no_tenant_uses_up_the_revocations_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stackd.store.links.MOST_REVOKED", 6)
    monkeypatch.setattr("stackd.store.links.RESERVED", 2)  # so each of two tenants has two
    async with harness(tmp_path, settings(tmp_path), config=two_tenants(tmp_path)) as at:
        a, b = (Client(session=at.session, url=at.url, key=key) for key in TENANTS.values())
        of_a, of_b, of_admin = [
            [(await make_link(each, labels={"player": "7"}))["link_id"] for _ in range(3)] for each in (a, b, at)
        ]
        for tenant, (first, second, third) in ((a, of_a), (b, of_b)):
            for link_id in (first, second, first):
                assert (await tenant.call("DELETE", f"/links/{link_id}")).status == 200
            await tenant.refused(409, "an admin's key can revoke this one", f"/links/{third}", method="DELETE")
        for link_id in (of_a[2], of_admin[0]):
            assert (await at.call("DELETE", f"/links/{link_id}")).status == 200
        await at.refused(409, "replace the secret", f"/links/{of_admin[1]}", method="DELETE")


async def test_a_revocation_that_only_the_file_has_fails(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stackd.play.links.WRITE_SECONDS", 1.0)
    link = await make_link(at)
    at.faults.add_fault(action="status", verb="update", resource="leases")
    before = at.counts.total("update", "leases")
    await at.refused(503, "does not have that yet", f"/links/{link['link_id']}", method="DELETE")
    assert at.counts.total("update", "leases") - before < 20, "it is not asked again and again without a pause"
    monkeypatch.undo()
    async with browser(at) as seat:
        assert (await seat.open(link)).code == "link_revoked"
    at.faults.clear()
    for link_id, status in ((link["link_id"], 200), ("link-0123456789abcdef", 200), ("link-x", 404), ("nothing", 404)):
        assert (await at.call("DELETE", f"/links/{link_id}")).status == status


OTHER_PAGES: dict[str, dict[str, str]] = {
    "a form": {},
    "another site": OWN_PAGE | {"Sec-Fetch-Site": "cross-site"},
    "another port of this host": OWN_PAGE | {"Sec-Fetch-Site": "same-site"},
    "another origin": OWN_PAGE | {"Origin": "https://evil.example"},
    "a stack on this host": OWN_PAGE | {"Origin": "http://127.0.0.1:31001"},
    "a sandbox": OWN_PAGE | {"Origin": "null"},
}


async def test_another_sites_page_does_nothing_for_a_player_and_the_own_one_in_each_browser(at: Harness) -> None:
    """New browsers say where a request comes from, old ones only its origin; a proxy may replace Host."""
    link = await make_link(at, labels={"player": "attacker"})
    async with player(at) as seat:
        for what, seat.headers in OTHER_PAGES.items():
            for method, path, body in (
                ("POST", "/play/stacks", {"template": "lab-1"}),
                ("DELETE", f"/play/stacks/{NO_STACK}", None),
                ("POST", "/play/session", {"token": token_of(link)}),
                ("DELETE", "/play/session", None),
            ):
                reply = await seat.call(method, path, body)
                assert (reply.status, reply.code) == (403, "cross_site"), (what, method, path)
                assert "Set-Cookie" not in reply.headers
        assert await at.listed() == []
        for headers in (
            {"Sec-Fetch-Site": "same-origin", "Origin": "https://stackd.example"},
            {"Origin": at.url},
            {"Origin": "http://stackd.example"},
        ):
            seat.headers = OWN_PAGE | headers
            assert (await seat.call("POST", "/play/stacks", {"template": "lab-1"})).status in (200, 201)


async def test_the_cookie_is_hidden_from_scripts_other_sites_and_other_routes(tmp_path: Path) -> None:
    for scheme, name, path in (("http", "stackd-play", "/play"), ("https", "__Host-stackd-play", "/")):
        secure, folder = scheme == "https", tmp_path / name
        folder.mkdir()
        async with harness(folder, settings(folder, f"{scheme}://stackd.example")) as at, browser(at) as seat:
            link = await make_link(at)
            text, *attributes = (await seat.open(link)).headers["Set-Cookie"].split("; ")
            assert text.startswith(f"{name}=")
            assert {"HttpOnly", "SameSite=Strict", f"Path={path}"} <= set(attributes)
            assert ("Secure" in attributes) is secure
            assert not any(each.startswith("Domain") for each in attributes)
            if secure:  # what another host could set is not taken
                cookie = {"Cookie": f"stackd-play={session_of(at, link)}"}
                async with browser(at) as other:
                    assert (await other.call("GET", "/play/stacks", headers=cookie)).status == 401


async def test_a_page_of_one_link_does_not_act_with_the_session_of_another(at: Harness) -> None:
    """A stack at a name below the same domain could set its cookie, so that the player works in the attacker's stacks."""
    one, other = [session_of(at, await make_link(at, labels={"player": each})) for each in ("a", "b")]
    async with browser(at) as seat:
        reply = await seat.call("GET", "/play/stacks", headers={"Cookie": f"stackd-play={one}; stackd-play={other}"})
        assert (reply.status, reply.code) == (401, "unauthenticated")
    async with browser(at) as seat:
        await seat.enter(await make_link(at))
        mine = {"X-Play": (await seat.call("GET", "/play/stacks")).json["link"]["id"]}
        await seat.start("lab-1")
        await seat.enter(await make_link(at, labels={"player": "seat-13"}))
        for method, body in (("GET", None), ("POST", {"template": "lab-2"})):
            reply = await seat.call(method, "/play/stacks", body, mine)
            assert (reply.status, reply.code) == (401, "link_replaced")
        assert (await seat.call("GET", "/play/stacks")).status == 200, "a page of a platform may show what there is"
        assert len(await at.listed()) == 1


async def test_a_session_and_a_token_open_no_other_route_and_an_api_key_none_of_players(at: Harness) -> None:
    link = await make_link(at)
    session, token = session_of(at, link), token_of(link)
    own = OWN_PAGE | {"Cookie": f"stackd-play={session}"}
    for route in ROUTES:
        path = re.sub(r"\{\w+\}", "one", route.path)
        if route.players:
            reply = await at.call(route.method, path, headers=OWN_PAGE)
            assert (reply.status, reply.code) == (401, "unauthenticated"), route.path
        elif not route.public and route.method != "*":
            for key in (None, session, token):
                assert (await at.call(route.method, path, key=key, headers=own)).status in (401, 429), route.path


async def test_no_token_or_session_is_in_a_log_or_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    audit = {"STACKD_LOG__AUDIT": str(tmp_path / "audit.jsonl"), "STACKD_LOG__LEVEL": "debug"}
    async with harness(tmp_path, settings(tmp_path) | audit) as at, browser(at) as seat:
        link = await make_link(at)
        session, token = session_of(at, link), token_of(link)
        await seat.enter(link)
        await seat.start()
        for text in (token, token[:-2]):
            await seat.call("POST", "/play/session", {"token": text, "more": 1})
            await seat.call("GET", f"/play/{text}")
            await at.call("GET", "/stacks", key=text)
        activity = (await at.call("GET", "/activity")).text
        await seat.type(link["code"])
    assert link["code"] not in activity + caplog.text
    secrets = [part for text in (token, session) for part in text.split(".")[1:]]
    files = {file.name: file.read_bytes().decode(errors="replace") for file in tmp_path.iterdir() if file.is_file()}
    assert "link Seat 12" in caplog.text
    assert "link Seat 12" in files["audit.jsonl"]
    for name, text in ({"log": caplog.text, "activity": activity} | files).items():
        assert not [one for one in secrets if one[:40] in text], name


async def test_an_error_tells_a_player_nothing_of_the_operators(at: Harness) -> None:
    async with player(at) as seat:
        for reply in (
            await seat.call("POST", "/play/stacks", {"template": "db"}),
            await seat.call("POST", "/play/stacks", {"template": 7}),
            await seat.call("POST", "/play/stacks", {"template": "lab-1", "labels": {}}),
            await seat.call("DELETE", f"/play/stacks/{NO_STACK}"),
        ):
            assert reply.status in (400, 404)
            assert reply.json.keys() <= {"error", "code", "player_message"}
            assert reply.error == reply.for_players


async def test_a_link_that_is_passed_on_to_a_hundred_gives_no_more_stacks(at: Harness) -> None:
    link = await make_link(at)
    async with browser(at) as seat:
        for _ in range(100):
            assert (await seat.open(link)).status == 204
        starts = await asyncio.gather(
            *(seat.call("POST", "/play/stacks", {"template": f"lab-{1 + number % 2}"}) for number in range(40))
        )
        # 429: more connections than a player may have.
        assert {reply.status for reply in starts} <= {200, 201, 409, 429}
        assert len(await at.listed()) == 1


async def test_a_player_who_asks_all_the_time_waits_and_nobody_else_does(at: Harness) -> None:
    async with player(at) as seat, player(at, labels={"player": "13"}) as other:
        statuses = []
        while 429 not in statuses:
            statuses.append((await seat.call("GET", "/play/stacks")).status)
        assert REQUESTS_A_MINUTE - 10 < len(statuses) < 3 * REQUESTS_A_MINUTE
        assert set(await other.look()) == {"lab-1", "lab-2"}


async def test_a_player_has_few_connections(at: Harness) -> None:
    async with player(at) as seat:
        session = seat.session.cookie_jar.filter_cookies(URL(at.url) / "play")
        cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in session.items())
        request = f"GET /play/stacks HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n\r\n".encode()
        opened, statuses = [], []
        for _ in range(18):
            reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
            opened.append(writer)
            writer.write(request)
            statuses.append(int((await reader.readline()).split()[1]))
        assert statuses.count(200) >= 14
        assert statuses[-1] == 429
        for writer in opened:
            writer.close()


async def test_a_huge_body_is_refused_before_and_after_the_session_is_known(at: Harness) -> None:
    async with player(at) as seat:
        for path in ("/play/session", "/play/stacks", f"/play/stacks/{NO_STACK}/extend"):
            reply = await seat.call("POST", path, {"token": "x" * 20_000})
            assert (reply.status, reply.code) == (413, "request_too_large"), path


async def test_everybody_who_opens_an_open_link_is_a_player_of_their_own(at: Harness) -> None:
    link = await make_link(at, **OPEN)
    async with browser(at) as one, browser(at) as other:
        await one.enter(link)
        await other.enter(link)
        await one.start()
        assert (await other.look())["lab-1"]["status"] == "none"
        await other.start()
        labels = [stack["labels"] for stack in [await at.stack(each) for each in await at.listed()]]
        assert {each["link"] for each in labels} == {link["link_id"]}
        assert len({each["player"] for each in labels}) == 2
        assert (await one.open(link)).status == 204
        assert (await one.look())["lab-1"]["status"] != "none"


async def test_all_visitors_together_have_no_more_than_the_total(at: Harness) -> None:
    link = await make_link(at, **OPEN | {"total": 1})
    async with browser(at) as one, browser(at) as other:
        await one.enter(link)
        await other.enter(link)
        await one.start()
        full = await other.call("POST", "/play/stacks", {"template": "lab-1"})
        assert (full.status, full.code) == (503, "max_stacks_reached")


async def test_one_address_brings_so_many_new_visitors_a_minute(at: Harness) -> None:
    link = await make_link(at, **OPEN)
    opened = 0
    async with browser(at) as seat:
        while (reply := await seat.open(link)).status == 204:
            seat.session.cookie_jar.clear()
            opened += 1
    assert VISITORS_A_MINUTE - 1 <= opened < 3 * VISITORS_A_MINUTE
    assert reply.code == "too_many_visitors"


PROXIED = {"STACKD_SERVER__TRUSTED_PROXIES": '["127.0.0.1"]'}


def coming_from(address: str) -> dict[str, str]:
    """The headers of a page whose requests a proxy forwards from this address."""
    return {"X-Play": "1", "X-Forwarded-For": address}


async def test_a_short_code_opens_the_link_however_it_is_typed(at: Harness) -> None:
    link = await make_link(at)
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}", link["code"])
    as_read = link["code"].lower().replace("-", "").replace("0", "o").replace("1", "l")
    for code in (link["code"], f" {as_read[:2]} {as_read[2:]}. ", as_read.replace("l", "I")):
        async with browser(at) as seat:
            assert (await seat.type(code)).status == 204
            assert (await seat.call("GET", "/play/stacks")).json["link"]["id"] == link["link_id"]
            assert (await seat.start(status=200 if await at.listed() else 201))["template"] == "lab-1"
    assert len(await at.listed()) == 1, "who types the code is the player of the link"


async def test_a_code_has_what_its_link_has_after_a_restart_and_with_another_secret_nothing(vm: Machine) -> None:
    vm.options |= {"settings": settings(vm.folder)}
    at = await vm.start()
    link, public = await make_link(at, expires="1h"), await make_link(at, **OPEN)
    helper = await at.post("/links", {"labels": {}, "scope": "read", "name": "Alice"}, 201)
    assert "code" not in helper
    await vm.stop()
    kept = settings(vm.folder, secret=f"{OTHER_SECRET} {SECRET}")
    at = await vm.start(settings=kept)
    async with browser(at) as seat, browser(at) as one, browser(at) as other:
        assert (await seat.type(link["code"])).status == 204
        for visitor in (one, other):
            assert (await visitor.type(public["code"])).status == 204
            await visitor.start()
        assert len(await at.listed()) == 2, "each who types the code of an open link is a player"
        await at.call("DELETE", f"/links/{public['link_id']}")
        assert (await other.type(public["code"])).code == "link_revoked"
        pass_time(at, 3601)
        assert (await seat.type(link["code"])).code in ("link_expired", "code_invalid")
    await vm.stop()
    at = await vm.start(settings=settings(vm.folder, secret=OTHER_SECRET))
    async with browser(at) as seat:
        assert (await seat.type(public["code"])).code == "code_invalid"


async def test_wrong_codes_are_few_at_each_address_and_keep_nobody_else_waiting(tmp_path: Path) -> None:
    async with harness(tmp_path, settings(tmp_path) | PROXIED) as at:
        link = await make_link(at)
        async with browser(at, headers=coming_from("192.0.2.1")) as guesser:
            tries = [(await guesser.type(f"0000-{number:04}")).code for number in range(3 * WRONG_CODES_A_MINUTE)]
            assert WRONG_CODES_A_MINUTE <= tries.count("code_invalid") < len(tries)
            assert tries[-1] == (await guesser.type(link["code"])).code == "too_many_wrong_codes", "not told apart"
            assert (await guesser.open(link)).status == 204, "the link itself needs no guess"
        async with browser(at, headers=coming_from("192.0.2.2")) as seat:
            assert (await seat.type(link["code"])).status == 204


async def test_wrong_codes_of_many_addresses_are_bounded_and_a_classroom_is_not_kept_waiting(tmp_path: Path) -> None:
    async with harness(tmp_path, settings(tmp_path) | PROXIED) as at:
        link = await make_link(at)
        async with browser(at, headers=coming_from("2001:db8::1")) as first:
            await first.enter(link)
        async with browser(at) as guesser:
            refused = 0
            for host in range(2 * ALL_WRONG_CODES_A_MINUTE):
                guesser.headers = coming_from(f"198.51.{host // 250}.{host % 250}")
                refused += (await guesser.type("0000-0000")).code == "too_many_wrong_codes"
            assert refused >= ALL_WRONG_CODES_A_MINUTE // 2
        async with browser(at, headers=coming_from("192.0.2.9")) as stranger:
            assert (await stranger.type(link["code"])).code == "too_many_wrong_codes"
        async with browser(at, headers=coming_from("2001:db8::2")) as classmate:
            assert (await classmate.type(link["code"])).status == 204


async def test_codes_that_are_guessed_at_the_same_time_count_each(at: Harness) -> None:
    async with browser(at) as seat:
        replies = await asyncio.gather(*(seat.type(f"0000-{n:04}") for n in range(3 * WRONG_CODES_A_MINUTE)))
    assert [reply.code for reply in replies].count("code_invalid") <= WRONG_CODES_A_MINUTE + 2

"""``stackd links …``: a link for each player of a class, as CSV and as a sheet to print; and the secret that signs them."""

from __future__ import annotations

import csv
import html
import json
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import harness
from tests.players import browser, settings
from tests.raw import saying
from tests.unit.cli.conftest import Shell

PLAYERS = "Player;Name;Mail\nseat-1;Mia Meier;mia@school.example\nseat-2;=1+1;\n"


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with harness(tmp_path, settings(tmp_path)) as at:
        yield Shell(at=at, home=tmp_path)


async def good(shell: Shell, *words: str, stdin: str | None = None) -> str:
    result = await shell.any_command("links", *words, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


async def failing(shell: Shell, *words: str, stdin: str | None = None) -> str:
    result = await shell.any_command("links", *words, stdin=stdin)
    assert result.exit_code != 0, result.output
    return result.stderr


async def test_each_player_of_a_file_gets_a_link_that_opens_the_page(shell: Shell) -> None:
    words = ("create", "--template", "lab-*", "--expires", "7d", "--label", "room=b12", "--players", "-")
    rows = list(csv.DictReader((await good(shell, *words, stdin=PLAYERS)).splitlines()))
    assert [[*row] for row in rows] == [["Player", "Name", "Mail", "link_id", "url", "expires_at", "code"]] * 2
    assert [(row["Player"], row["Name"], row["Mail"]) for row in rows] == [
        ("seat-1", "Mia Meier", "mia@school.example"),
        ("seat-2", "'=1+1", ""),
    ]
    async with browser(shell.at) as seat:
        await seat.enter({"url": rows[0]["url"]})
        name = (await seat.start())["name"]
    labels = (await shell.at.stack(name))["labels"]
    assert (labels["player"], labels["room"]) == ("seat-1", "b12")
    listed = [line.split("\t") for line in (await good(shell, "list")).splitlines()]
    assert listed[1][:4] == [rows[1]["link_id"], "=1+1", "player=seat-2 room=b12", "lab-*"]
    assert await good(shell, "revoke", rows[1]["link_id"]) == f"{rows[1]['link_id']}\trevoked\n"
    assert "link not found" in await failing(shell, "revoke", "link-none")
    document = json.loads(await good(shell, "list", "--json"))["links"]
    assert [one["revoked"] for one in document] == [False, True]
    assert not any("#" in json.dumps(one) for one in document), "nobody is shown a link again"


async def test_a_sheet_has_a_code_for_each_link_and_loads_nothing(shell: Shell) -> None:
    sheet = await good(shell, "create", "--players", "-", "--html", stdin="player,name\nseat-1,<b>Mia</b>\nseat-2,\n")
    assert sheet.count("<svg") == sheet.count("<section>") == 2
    assert ("&lt;b&gt;Mia&lt;/b&gt;" in sheet, "<script" in sheet) == (True, False)
    assert set(re.findall(r'(?:src|href)="([^#"]*)', sheet)) == {"http://stackd.example/play"}


async def test_the_links_of_a_class_are_revoked_together(shell: Shell) -> None:
    players = "player\nseat-1\nseat-2\n"
    for room in ("b12", "c1"):
        await good(shell, "create", "-t", "lab-*", "--label", f"room={room}", "--players", "-", stdin=players)
    await good(shell, "create", "-t", "web-*", "--label", "player=seat-9")

    async def working() -> int:
        return sum(not one["revoked"] for one in json.loads(await good(shell, "list", "--json"))["links"])

    assert "2 links; confirm with --yes" in await failing(shell, "revoke", "--label", "room=b12")
    for words in (("--template", "none", "--yes"), (), ("link-1", "--all")):
        await failing(shell, "revoke", *words)
    assert await working() == 5
    for chosen, left in ((("--label", "room=b12"), 3), (("--template", "lab-*"), 1), (("--all",), 0)):
        await good(shell, "revoke", *chosen, "--yes")
        assert await working() == left


async def test_an_extension_names_the_links_that_end_earlier(shell: Shell) -> None:
    for seat, expires in (("1", "10m"), ("2", "10m"), ("2", "7d"), ("3", "10m")):
        words = ("create", "-t", "lab-1", "--label", f"player={seat}", "--name", f"Seat {seat}", "--expires", expires)
        await good(shell, *words)
    ids = [(await shell.at.create({"template": "lab-1"}, labels={"player": seat}))["stack_id"] for seat in "12"]
    for chosen in ([ids[0]], ["--template", "lab-1"]):
        result = await shell.any_command("stacks", "extend", *chosen, "30m")
        assert result.exit_code == 0, result.output
        assert "1 link will end before the stack: Seat 1. An extension extends no link" in result.stderr
    assert "link" not in (await shell.any_command("stacks", "restart", ids[0])).stderr


async def test_the_roster_says_who_has_not_started_and_how_the_others_are(shell: Shell) -> None:
    async def roster(*words: str) -> list[tuple[str, str, bool]]:
        result = await shell.any_command("players", *words, "--json")
        assert result.exit_code == 0, result.output
        rows = json.loads(result.stdout)["players"]
        return [(row["name"], row["status"], bool(row.get("addresses"))) for row in rows]

    rows = list(csv.DictReader((await good(shell, "create", "--players", "-", stdin=PLAYERS)).splitlines()))
    assert await roster() == [("Mia Meier", "not started", False), ("=1+1", "not started", False)]
    async with browser(shell.at) as seat:
        await seat.enter({"url": rows[0]["url"]})
        name = (await seat.start())["name"]
    await shell.at.until_status(name, "running")
    await shell.at.create()
    assert await roster() == [("Mia Meier", "running", True), ("=1+1", "not started", False)]
    assert await roster("--not-started") == await roster("--label", "player=seat-2") == [("=1+1", "not started", False)]
    assert "Mia Meier\t" in (await shell.any_command("players")).stdout
    (line,) = [line.split("\t") for line in (await shell.good("list", "-o", "wide")).splitlines() if name in line]
    assert {"Mia Meier", "lab-1"} <= {*line}
    await good(shell, "create", "-t", "web-*", "--label", "player=other", "--name", "Other")
    assert ("Other", "not started", False) not in await roster("--template", "lab-1", "--not-started")
    assert await roster("--template", "web-1", "--label", "player=other") == [("Other", "not started", False)]


def table(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines(), delimiter=";"))


async def test_a_file_of_links_and_the_sheet_have_the_same_and_a_second_run_keeps_them(
    shell: Shell, tmp_path: Path
) -> None:
    file, page = tmp_path / "links.csv", tmp_path / "sheet.html"
    players = "Name;Mail\nMia Meier;mia@school.example\nJürgen Ä.;juergen@school.example\n"
    words = ["create", "--template", "lab-*", "--players", "-", "--player-column", "mail", "--csv", str(file)]
    await good(shell, *words, "--sheet", str(page), stdin=players)
    first = table(file)
    assert [row["Name"] for row in first] == ["Mia Meier", "Jürgen Ä."]
    there = json.loads(await good(shell, "list", "--json"))["links"]
    assert [(one["name"], one["player_name"]) for one in there] == [(row["Name"], row["Mail"]) for row in first]
    assert (page.read_text().count("<svg"), stat.S_IMODE(file.stat().st_mode)) == (2, 0o600)
    assert all(html.escape(row["url"]) in page.read_text() for row in first)
    more = players + "Ada;ada@school.example\n"
    await good(shell, *words, stdin=more)
    assert [row["url"] for row in table(file)[:2]] == [row["url"] for row in first]
    await good(shell, *words, "--new", stdin=more)
    listed = json.loads(await good(shell, "list", "--json"))["links"]
    kept = {one["link_id"] for one in listed if not one["revoked"]}
    assert (len(listed), {row["link_id"] for row in table(file)}) == (6, kept)
    file.unlink()
    assert "lacks the links of 3 players" in await failing(shell, *words, stdin=more)
    assert not file.exists()
    nowhere = ["links", "create", "--players", "-", "--csv", str(tmp_path / "none" / "links.csv")]
    refused = await shell.any_command(*nowhere, stdin="player\nseat-9\n")
    assert str(refused.exception).endswith("none/links.csv'")
    assert len(json.loads(await good(shell, "list", "--json"))["links"]) == len(listed), "nothing was made"


async def test_what_was_made_before_an_error_is_in_the_file_and_the_next_run_makes_the_rest(
    shell: Shell, tmp_path: Path
) -> None:
    """The file always has the columns and the players of the newest list, and loses no link that works."""
    file = tmp_path / "links.csv"

    async def create(players: str, *answers: bytes) -> tuple[int, list[tuple[str, ...]]]:
        async with saying(*answers) as url:
            words = ("links", "create", "--players", "-", "--csv", str(file))
            result = await shell.any_command(*words, stdin=players, STACKD_URL=url)
        if result.exit_code:
            assert f"{len(answers) - 2} of " in result.stderr, result.stderr
            assert "made and in the file" in result.stderr
        delimiter = players.removeprefix("player")[0].strip() or ","
        rows = csv.DictReader(file.read_text().splitlines(), delimiter=delimiter)
        return result.exit_code, [(row["player"], row.get("name", ""), row["url"][-2:]) for row in rows]

    one, two, three = [(f"seat-{number}", "", f"#{number}") for number in (1, 2, 3)]
    assert await create(THREE, listed(), link(1), link(2), BROKEN) == (1, [one, two, ("seat-3", "", "")])
    assert await create(THREE, listed(1, 2), link(3)) == (0, [one, two, three])
    named = "player;name\nseat-1;Mia\nseat-4;Ada\nseat-5;Ben\n"
    now = [("seat-1", "Mia", "#1"), ("seat-4", "Ada", "#4"), ("seat-5", "Ben", "")]
    assert await create(named, listed(1, 2, 3), link(4), BROKEN) == (1, [*now, two, three])
    ben = ("seat-5", "Ben", "#5")
    assert await create(named, listed(1, 3, 4), link(5)) == (0, [*now[:2], ben, three]), "2 is revoked"


def listed(*numbers: int) -> bytes:
    """The links of these seats, as stackd lists them."""
    same = {"name": "", "templates": [], "stacks": 1, "by": "", "revoked": False}
    same |= {"created_at": "2029-01-01T00:00:00Z", "expires_at": "2030-01-01T00:00:00Z"}
    seats = ({"link_id": f"link-{number}", "labels": {"player": f"seat-{number}"}} for number in numbers)
    return reply(200, {"links": [same | seat for seat in seats]})


def reply(status: int, body: dict[str, Any], more: str = "") -> bytes:
    text = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n{more}"
    return f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text


def link(number: int) -> bytes:
    made = {"link_id": f"link-{number}", "url": f"http://x/play#{number}", "name": f"seat-{number}"}
    return reply(201, {**made, "expires_at": "2030-01-01T00:00:00Z"})


THREE = "player\nseat-1\nseat-2\nseat-3\n"
BUSY = reply(429, {"error": "too fast", "code": "too_many_requests"}, "Retry-After: 1\r\n")
BROKEN = reply(500, {"error": "internal server error", "code": "internal_error"})


async def test_a_class_gets_its_links_however_slowly_the_key_may_make_them(shell: Shell) -> None:
    async with saying(link(1), BUSY, link(2), link(3)) as url:
        words = ("create", "--players", "-")
        result = await shell.any_command("links", *words, stdin=THREE, STACKD_URL=url)
    assert (result.exit_code, result.stdout.count("http://x/play#")) == (0, 3)
    assert "too fast: the next link is made in 1 s" in result.stderr


@pytest.mark.parametrize("form", [(), ("--html",), ("--json",), ("-o", "jsonl")])
async def test_no_link_that_was_made_is_lost_with_an_error(shell: Shell, form: tuple[str, ...]) -> None:
    """stackd shows it to nobody again."""
    async with saying(link(1), link(2), BROKEN) as url:
        result = await shell.any_command("links", "create", "--players", "-", *form, stdin=THREE, STACKD_URL=url)
    assert (result.exit_code, "internal server error" in result.stderr) == (1, True)
    assert "2 of 3 links are made and printed" in result.stderr
    assert all(f"http://x/play#{number}" in result.stdout for number in (1, 2))
    if "--json" in form:
        assert [one["player"] for one in json.loads(result.stdout)["links"]] == ["seat-1", "seat-2"]

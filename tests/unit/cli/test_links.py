"""``stackd links …``: a link for each player of a class, as CSV and as a sheet to print; and the secret that signs them."""

from __future__ import annotations

import csv
import json
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.config import load
from tests.harness import harness
from tests.players import browser, settings
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
    assert [[*row] for row in rows] == [["Player", "Name", "Mail", "link_id", "url", "expires_at"]] * 2
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
    assert [line[:4] for line in listed] == [
        [rows[0]["link_id"], "Mia Meier", "player=seat-1 room=b12", "lab-*"],
        [rows[1]["link_id"], "=1+1", "player=seat-2 room=b12", "lab-*"],
    ]
    assert await good(shell, "revoke", rows[1]["link_id"]) == f"{rows[1]['link_id']}\trevoked\n"
    assert "link not found" in await failing(shell, "revoke", "link-none")
    document = json.loads(await good(shell, "list", "--json"))["links"]
    assert [one["revoked"] for one in document] == [False, True]
    assert not any("#" in json.dumps(one) for one in document), "nobody is shown a link again"


async def test_a_sheet_has_a_code_for_each_link_and_loads_nothing(shell: Shell) -> None:
    sheet = await good(shell, "create", "--players", "-", "--html", stdin="player,name\nseat-1,<b>Mia</b>\nseat-2,\n")
    assert sheet.count("<svg") == sheet.count("<section>") == 2
    assert "&lt;b&gt;Mia&lt;/b&gt;" in sheet
    assert "<h2>seat-2</h2>" in sheet
    assert "<script" not in sheet
    assert len(re.findall(r"until \d{4}-\d\d-\d\d \d\d:\d\d<", sheet)) == 2, "as people read a time"
    assert set(re.findall(r'(?:src|href)="([^#"]*)', sheet)) == {"http://stackd.example/play"}


async def test_one_link_and_an_open_one_are_printed_alone(shell: Shell) -> None:
    url = await good(shell, "create", "--label", "player=seat-12", "--name", "Seat 12", "--stacks", "2")
    assert re.fullmatch(r"http://stackd\.example/play#\S+\n", url)
    link = json.loads(
        await good(shell, "create", "--visitors", "50", "--name", "Workshop", "--expires", "4h", "--json")
    )["links"][0]
    assert (link["name"], "#" in link["url"]) == ("Workshop", True)
    kept = {one["name"]: one for one in json.loads(await good(shell, "list", "--json"))["links"]}
    assert (kept["Seat 12"]["stacks"], kept["Workshop"]["each"], kept["Workshop"]["total"]) == (2, "visitor", 50)
    assert "labels" in await failing(shell, "create", "--name", "nobody")
    assert "there is no template nope" in await failing(shell, "create", "--template", "nope", "--label", "team=7")
    said = await failing(shell, "create", "--players", "-", stdin="seat,name\n1,Mia\n")
    assert '-:1: there is no column "player", only seat, name' in said
    assert "leave out --name" in await failing(shell, "create", "--players", "-", "--name", "x", stdin="a")


async def test_a_rotation_ends_all_links_or_keeps_them_once(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "etc" / "config.toml"
    config.parent.mkdir()
    config.write_text('[play]\nurl = "https://stackd.example"\n')
    file = config.with_name("play-secret")

    def secret() -> list[str]:
        loaded = load(config, {"STACKD_AUTH__ENABLED": "false"}, config.parent, cluster=False)
        return loaded.config.play.secret.get_secret_value().split()

    assert "there is no" in await failing(shell, "rotate", "--config", str(tmp_path / "nowhere" / "config.toml"))
    words = ("rotate", "--config", str(config))
    said = await good(shell, *words)
    assert f"{file} has a new secret\n" in said
    assert "stackd reload" in said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (first,) = secret()
    assert first not in said
    assert "earlier links go on" in await good(shell, *words, "--keep")
    second, kept = secret()
    assert (kept, second != first) == (first, True)
    assert (await shell.any_command("links", *words, stdin="n\n")).exit_code == 1
    assert secret() == [second, first]
    await good(shell, *words, "--yes")
    assert not {first, second} & set(secret())

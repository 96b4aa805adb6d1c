"""``--players FILE``: what spreadsheets write is read, and what is no list of players is refused with its line."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from stackd.cli.players import label_of, read_players
from stackd.contract import BARE_KEY

TABLE = "Name;Player\nMüller, Mia;seat-1\n\nLi;seat-2\n"
READ = [("seat-1", "Müller, Mia", 2), ("seat-2", "Li", 4)]


def seen(file: Path) -> list[tuple[str, str, int]]:
    return [(one.player, one.columns.get("Name", ""), one.line) for one in read_players(str(file))[0]]


def refusal(file: Path, data: bytes) -> str:
    file.write_bytes(data)
    with pytest.raises(click.UsageError) as refused:
        read_players(str(file))
    return str(refused.value).removeprefix(str(file.parent) + "/")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "class.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_a_spreadsheet_saves_is_read(file: Path, encoding: str, end: str) -> None:
    file.write_bytes(TABLE.replace("\n", end).encode(encoding))
    assert seen(file) == READ


@pytest.mark.parametrize("table", [TABLE.replace(";", "\t"), 'Name,player\n"Müller, Mia",seat-1\n\nLi,seat-2,\n'])
def test_cells_are_separated_by_semicolons_commas_or_tabs(file: Path, table: str) -> None:
    file.write_text(table)
    assert seen(file) == READ
    file.write_text('"sep=;"\n' + TABLE)  # as some spreadsheets write it
    assert seen(file) == [(player, name, line + 1) for player, name, line in READ]


def test_a_line_is_what_ends_with_a_line_end_outside_of_quotes(file: Path) -> None:
    file.write_text('player,Name\nseat-1,a\u2028b\u0085c\nseat-2,"Li\nWei"\nseat-3,\n')
    assert seen(file) == [("seat-1", "a\u2028b\u0085c", 2), ("seat-2", "Li\nWei", 3), ("seat-3", "", 5)]


@pytest.mark.parametrize(
    ("data", "line", "why"),
    [
        *((text.encode(), 1, 'one column "player" is expected') for text in ("Student\nada\n", "Player;player\na;b\n", "")),
        (b"name,player\nMeier, Mia,seat-1\n", 2, "3 cells where the head has 2"), (b"player\na\nb\x81\n", 3, "this is no text"),
        ("player\nseat\u2028-1\n".encode(), 2, "player 'seat\\u2028-1'"),
        ("player\na\n".encode("utf-16-le"), 1, "this is no text"),
        (b'player\na\n"b\nc\n', 3, "a quote"), (b'player\n"a"b\n', 2, "a quote"),
        (b"player,name\nseat-1,Mia\nseat-1,Mia\nSEAT-1,Mia\n", 4, "SEAT-1 stands in line 2, too"),
        (b"player\nmia@school.example\nMia@school.example\n", 3, "Mia@school.example stands in line 2, too"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_players_is_refused_with_its_line(file: Path, data: bytes, line: int, why: str) -> None:
    said = refusal(file, data)
    assert (said.startswith(f"class.csv:{line}: "), why in said) == (True, True), said


def test_whoever_is_no_label_gets_one_that_is_always_the_same(file: Path) -> None:
    assert label_of("seat-1") == "seat-1"
    called = ["mia@school.example", "Mia@school.example", "Müller, Mia", "Jürgen", "李", "x" * 80]
    labels = [label_of(one) for one in called]
    assert labels == [label_of(one) for one in called]
    assert len({one.lower() for one in labels}) == len(called)
    assert all(re.fullmatch(BARE_KEY, one) for one in labels), labels
    assert labels[0].startswith("mia-school-example-")
    file.write_text("Mail\nmia@school.example\n")
    ((only,), _) = read_players(str(file), "mail")
    assert (only.player, only.called) == (labels[0], "mia@school.example")


def test_all_mistakes_are_told_at_once_and_who_stands_there_twice_counts_once(file: Path) -> None:
    file.write_text("player,name\nseat-1,Mia\nseat-1,Mia\n")
    assert [one.player for one in read_players(str(file))[0]] == ["seat-1"]
    said = refusal(file, b"player,name\nseat-1,Mia\nseat-1,Ben\n,Ada\nTim,Tim,Tim\n").splitlines()
    assert [line.partition(": ")[0] for line in said] == ["class.csv:3", f"{file}:4", f"{file}:5"]

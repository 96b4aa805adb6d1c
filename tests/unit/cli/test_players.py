"""``--players FILE``: what spreadsheets write is read, and what is no list of players is refused with its line."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from stackd.cli.players import read_players

TABLE = "Name;Player\nMüller, Mia;seat-1\n\nLi;seat-2\n"
READ = [("seat-1", "Müller, Mia", 2), ("seat-2", "Li", 4)]


def seen(file: Path) -> list[tuple[str, str, int]]:
    return [(one.player, one.columns.get("Name", ""), one.line) for one in read_players(str(file))]


def refusal(file: Path, data: bytes) -> str:
    file.write_bytes(data)
    with pytest.raises(click.UsageError) as refused:
        read_players(str(file))
    return str(refused.value).removeprefix(str(file.parent) + "/")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "class.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_a_spreadsheet_saves_is_read(file: Path, encoding: str, end: str) -> None:
    file.write_bytes(TABLE.replace("\n", end).encode(encoding))
    assert seen(file) == READ


@pytest.mark.parametrize("table", [TABLE.replace(";", "\t"), 'name,player\n"Müller, Mia",seat-1\n\nLi,seat-2,\n'])
def test_cells_are_separated_by_semicolons_commas_or_tabs(file: Path, table: str) -> None:
    file.write_text(table.replace("name", "Name"))
    assert seen(file) == READ


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
def test_a_line_that_names_the_separator_is_no_column(file: Path, first: str) -> None:
    file.write_text(f"{first}\n{TABLE}")
    assert seen(file) == [(player, name, line + 1) for player, name, line in READ]


def test_a_line_is_what_ends_with_a_line_end_outside_of_quotes(file: Path) -> None:
    file.write_text('player,Name\nseat-1,a\u2028b\u0085c\nseat-2,"Li\nWei"\nseat-3,\n')
    assert seen(file) == [("seat-1", "a\u2028b\u0085c", 2), ("seat-2", "Li\nWei", 3), ("seat-3", "", 5)]


def test_no_head_and_no_shifted_cell_is_taken_for_a_player(file: Path) -> None:
    for text in ("Student\nada\n", "ada\nbob\n", "Player;player\na;b\n", ""):
        said = refusal(file, text.encode())
        assert 'class.csv:1: one column "player" is expected, not ' in said
        assert 'put a line "player" above a list without a head' in said
    said = refusal(file, b"name,player\nMeier, Mia,seat-1\n")
    assert said.startswith(
        "class.csv:2: 3 cells where the head has 2; put a cell that has a separator in it into quotes"
    )
    assert refusal(file, "player\nseat\u2028-1\n".encode()).startswith("class.csv:2: player 'seat\\u2028-1': letters")


def test_what_cannot_be_read_names_the_line_and_the_remedy(file: Path) -> None:
    remedy = 'this is not UTF-8; save the file as "CSV UTF-8", and try again'
    assert refusal(file, TABLE.encode("cp1252")) == f"class.csv:2: {remedy}"
    assert refusal(file, "player\na\n".encode("utf-16-le")) == f"class.csv:1: {remedy}"
    for text, line in (('player\na\n"b\nc\n', 3), ('player\n"a"b\n', 2)):
        assert f"class.csv:{line}: " in (said := refusal(file, text.encode()))
        assert "a quote" in said

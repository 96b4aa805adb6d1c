"""``stackd flags …``: whose is a value, one or a column of a file; and all values, for a grader."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import harness
from tests.templates import BODY, WEB, folder_with
from tests.unit.cli.conftest import Shell


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with harness(tmp_path, folder_with(tmp_path, web_1=WEB)) as at:
        yield Shell(at=at, home=tmp_path)


async def test_each_answer_of_a_class_gets_the_stack_whose_it_is(shell: Shell) -> None:
    first, second = [await shell.at.create(BODY, labels={"player": f"seat-{number}"}) for number in (1, 2)]
    answers = f"Name;Answer\nMia;{first['values']['FLAG']}\nBen;{first['values']['FLAG']}\nAda;flag{{guess}}\nTim;\n"
    result = await shell.any_command("flags", "check", "-", "--column", "answer", stdin=answers)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(result.stdout.splitlines(), delimiter=";"))
    assert [(row["Name"], row["stack_id"], "player=seat-1" in row["labels"], row["is_there"]) for row in rows] == [
        ("Mia", first["stack_id"], True, "yes"),
        ("Ben", first["stack_id"], True, "yes"),
        ("Ada", "", False, ""),
        ("Tim", "", False, ""),
    ]
    exported = shell.home / "answers.csv"
    exported.write_bytes(f"sep=;\nName;Flag\nJürgen;{first['values']['FLAG']}\n".encode("cp1252"))
    result = await shell.any_command("flags", "check", str(exported))
    assert result.stdout_bytes.startswith("sep=;\nName;Flag;stack_id;labels;is_there\nJürgen;".encode("cp1252"))
    result = await shell.any_command("flags", "check", "-", stdin=answers)
    assert (result.exit_code, 'one column "flag" is expected' in result.stderr) == (2, True), result.output
    for value, code in ((f" {second['values']['FLAG']}\n", 0), ("nobody's", 1)):
        result = await shell.any_command("flags", "find", value, "-o", "name")
        assert (result.exit_code, result.stdout.split()) == (code, [] if code else [second["stack_id"]])
        assert await (await shell.process("flags", "find", value)).wait() == code


async def test_a_grader_gets_all_values_of_a_template(shell: Shell) -> None:
    made = await shell.at.create(BODY, labels={"player": "seat-1"})
    await shell.at.create()
    result = await shell.any_command("flags", "export", "--template", "web-1")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert {row["name"]: row["value"] for row in rows} == made["values"]
    assert {(row["stack_id"], row["template"]) for row in rows} == {(made["stack_id"], "web-1")}

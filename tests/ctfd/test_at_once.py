"""Two workers of CTFd that come to the same thing at the same moment, on the databases that events use."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

from tests.ctfd.conftest import Source

SCRIPT = Path(__file__).parent / "at_once.py"


async def inside(source: Source, folder: Path, database: str, *cases: str) -> Any:
    """What the cases of the script find in a CTFd with the plugin."""
    copy, python = source
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "SECRET_KEY": "of-a-test", "UPDATE_CHECK": "false",
        "DATABASE_URL": database, "UPLOAD_FOLDER": str(folder), "LOG_FOLDER": str(folder), "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        python, SCRIPT, *cases, cwd=copy, env=environment, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out.decode().splitlines()[-1])


async def test_who_comes_second_gets_no_error_and_makes_no_second_row(source: Source, tmp_path: Path) -> None:
    await nothing_goes_wrong(source, tmp_path, f"sqlite:///{tmp_path}/ctfd.db")


async def test_neither_on_mariadb(source: Source, mariadb: str, tmp_path: Path) -> None:
    await nothing_goes_wrong(source, tmp_path, mariadb)


async def nothing_goes_wrong(source: Source, folder: Path, database: str) -> None:
    found = await inside(source, folder, database, "name", "tables", "generated", "extended", "given_up", "pressed")
    assert found["name"]["names"] == found["name"]["kept"] * 2, "both know their stacks by the only name"
    assert found["tables"] == [None, None]
    assert found["generated"] == {"saved": [None, None], "listed": 1}
    assert found["pressed"] == []
    assert found["extended"] == 1, "an answer that two workers have counts once"
    assert found["given_up"] == "stop", "a create without an answer may still make a stack"

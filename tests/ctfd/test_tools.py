"""What organisers use beside the pages: ctfcli, and the environment of CTFd.

STACKD_TEST_CTFCLI names the command ``ctf``.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ctfd.conftest import API, CHALLENGE, PASSWORD, TENANT, Ctfd, Source, ctfd_running, flag_of, set_up
from tests.ctfd.misbehaving import Misbehaving
from tests.harness import Harness

EXTRA = {name: value for name, value in CHALLENGE.items() if name.startswith("stackd_")} | {
    "function": "linear", "initial": 500, "decay": 10, "minimum": 100, "stackd_stop_when_solved": True,
    "stackd_cost": 3, "stackd_opens": "2025-02-10T09:00+01:00", "stackd_closes": "",
}  # fmt: skip
AS_COLUMNS = {
    name if name.startswith("stackd_") else f"stackd_{name}": value for name, value in EXTRA.items()
}  # how CTFd's API returns them
NEW_COLUMNS = (
    "problem", "phase", "phase_since", "running_since", "amount", "updated", "organiser", "organiser_at", "hopeless", "batch",
    "unseen",
)  # fmt: skip
GENERATED = {"type": "stackd", "content": "stackd generates a flag for each account", "data": ""}


async def whole(ctfd: Ctfd, challenge: int) -> dict[str, Any]:
    """The plugin's fields of a challenge, as an admin gets them from the API."""
    shown = await ctfd.admin.data("GET", f"/api/v1/challenges/{challenge}")
    return {name: value for name, value in shown.items() if name.startswith("stackd_")}


async def test_a_challenge_stays_whole_with_ctfcli(ctfd: Ctfd, tmp_path: Path) -> None:
    command = os.environ.get("STACKD_TEST_CTFCLI")
    if not command:
        pytest.skip("STACKD_TEST_CTFCLI does not name the command ctf")
    token = await ctfd.admin.data("POST", "/api/v1/tokens", {"description": "a test"})
    described = tmp_path / "event" / "web" / "challenge.yml"
    described.parent.mkdir(parents=True)
    (tmp_path / "event" / ".ctf").mkdir()
    (tmp_path / "event" / ".ctf" / "config").write_text(
        f"[config]\nurl = {ctfd.url}/\naccess_token = {token['value']}\n[challenges]\nweb = web\n"
    )
    fields: dict[str, Any] = {
        "name": "Web", "author": "us", "category": "web", "description": "Find it.\nIt is there.", "attribution": "",
        "value": 500, "type": "stackd", "extra": EXTRA, "flags": [GENERATED], "state": "visible", "version": "0.1",
    }  # fmt: skip
    if "logic" in await ctfd.admin.data("GET", f"/api/v1/challenges/{await ctfd.challenge(name='Other')}"):
        fields["logic"] = "any"  # of CTFd 3.8
    described.write_text(yaml.safe_dump(fields))

    async def ctf(*words: str) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        process = await asyncio.create_subprocess_exec(
            command, "challenge", *words, "web", cwd=tmp_path / "event", env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()

    await ctf("install")
    assert await whole(ctfd, 2) == AS_COLUMNS
    await ctf("verify")
    await ctfd.admin.data("PATCH", "/api/v1/challenges/2", {"description": "Find it soon."})
    await ctf("mirror")
    mirrored = yaml.safe_load(described.read_text())
    assert (mirrored["description"], mirrored["extra"]) == ("Find it soon.", EXTRA)
    assert mirrored["flags"] == [GENERATED]
    await ctfd.admin.data("PATCH", "/api/v1/challenges/2", {"stackd_ttl": "5m", "function": "static"})
    await ctf("sync", *([] if "logic" in fields else ["--ignore=solution"]))  # CTFd 3.7 has no solutions
    assert await whole(ctfd, 2) == AS_COLUMNS
    await ctf("verify")
    listed = await ctfd.admin.data("GET", "/api/v1/challenges/2/flags")
    assert [flag["type"] for flag in listed] == ["stackd"], "one entry, however often it was sent"


async def test_the_api_has_the_forms_defaults_and_takes_back_what_it_returns(ctfd: Ctfd) -> None:
    challenge = await ctfd.challenge(**EXTRA)
    fields = await whole(ctfd, challenge)
    assert fields == AS_COLUMNS
    plain = {"name": "Copy", "category": "web", "value": 500, "state": "visible", "type": "stackd"}
    copy = await ctfd.admin.data("POST", "/api/v1/challenges", {**plain, **fields})
    assert await whole(ctfd, copy["id"]) == AS_COLUMNS
    made = await ctfd.admin.data("POST", "/api/v1/challenges", {**plain, "stackd_template": "web-1"})
    assert (made["stackd_extension"], made["stackd_extensions"], made["stackd_value"]) == ("30m", 2, "FLAG")
    shown = await (await ctfd.player("ada")).data("GET", f"/api/v1/challenges/{made['id']}")
    assert not any(name.startswith("stackd_") for name in shown), "for organisers only"


async def test_an_import_has_all_of_an_export(source: Source, mariadb: str, stackd: Harness, tmp_path: Path) -> None:
    async with ctfd_running(source, tmp_path / "ctfd", stackd=stackd.url, DATABASE_URL=mariadb) as ctfd:
        await set_up(ctfd)
        challenge = await ctfd.challenge(**EXTRA)
        player = await ctfd.player("ada")
        await player.start(challenge)
        flag = await flag_of(stackd, (await stackd.until_listed(1))[0])
        async with ctfd.admin.session.get("/admin/export") as archive:
            (tmp_path / "export.zip").write_bytes(await archive.read())
        await ctfd.admin.data("PATCH", f"/api/v1/challenges/{challenge}", {"stackd_ttl": "5m", "function": "static"})
    async with ctfd_running(
        source, tmp_path / "ctfd", stackd=stackd.url, DATABASE_URL=mariadb, imported=tmp_path / "export.zip"
    ) as ctfd:  # CTFd imports into MySQL and MariaDB only
        ctfd.admin = await ctfd.person("/login", name="admin", password=PASSWORD)
        assert await whole(ctfd, challenge) == AS_COLUMNS
        player = await ctfd.person("/login", name="ada", password=PASSWORD)
        assert (await player.press(challenge))["status"] == "running", "the instance is known, too"
        assert await player.submit(challenge, flag) == "correct"


async def test_earlier_tables_get_the_new_columns(source: Source, stackd: Harness, tmp_path: Path) -> None:
    folder = tmp_path / "ctfd"
    async with ctfd_running(source, folder, stackd=stackd.url) as ctfd:
        await set_up(ctfd)
        challenge = await ctfd.challenge()
        await (await ctfd.player("ada")).start(challenge)
    with closing(sqlite3.connect(folder / "ctfd.db")) as file, file:
        for column in NEW_COLUMNS:
            file.execute(f"ALTER TABLE stackd_instances DROP COLUMN {column}")
        for column in ("opens", "closes", "cost"):
            file.execute(f"ALTER TABLE stackd_challenge DROP COLUMN stackd_{column}")
        for table in ("batches", "left"):
            file.execute(f"DROP TABLE stackd_{table}")
    async with ctfd_running(source, folder, stackd=stackd.url) as ctfd:
        player = await ctfd.person("/login", name="ada", password=PASSWORD)
        await player.until(challenge, status="running", problem=None)
        await player.press(challenge, "restart")
        await player.until(challenge, status="running", pending=False)
        await player.press(challenge, "stop")
        await stackd.until_listed(0)


async def test_a_key_in_the_environment_goes_to_no_other_address(
    source: Source, stackd: Harness, tmp_path: Path
) -> None:
    async with Misbehaving("401") as elsewhere:
        async with ctfd_running(source, tmp_path / "ctfd", stackd="") as ctfd:
            await set_up(ctfd)
            path = f"{API}/settings"
            status, answer = await ctfd.admin.call("PATCH", path, {"stackd_url": elsewhere.url})
            why = "STACKD_KEY is in the environment of CTFd, so STACKD_URL has to be there, too."
            assert (status, answer["errors"][""]) == (400, [why])
            await ctfd.admin.call("PATCH", "/api/v1/configs", {"stackd_url": elsewhere.url})  # past the page
            lines = await ctfd.admin.data("POST", f"{API}/test", {})
            assert (lines[0]["ok"], lines[0]["text"]) == (False, why)
            assert elsewhere.requests == []
        async with ctfd_running(source, tmp_path / "ctfd", stackd="", key="") as ctfd:
            ctfd.admin = await ctfd.person("/login", name="admin", password=PASSWORD)
            await ctfd.configure(stackd_url=stackd.url, stackd_key=TENANT)
            lines = await ctfd.admin.data("POST", f"{API}/test", {})
            assert [line["ok"] for line in lines] == [True, True], lines

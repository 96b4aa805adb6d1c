"""What organisers use beside the pages: ctfcli, and the environment of CTFd.

STACKD_TEST_CTFCLI names the command ``ctf``.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ctfd.conftest import CHALLENGE, PASSWORD, TENANT, Ctfd, ctfd_running, set_up
from tests.ctfd.misbehaving import Misbehaving
from tests.harness import Harness

EXTRA = {name: value for name, value in CHALLENGE.items() if name.startswith("stackd_")} | {
    "function": "linear", "initial": 500, "decay": 10, "minimum": 100,
}  # fmt: skip


async def test_the_mirror_of_ctfcli_keeps_all_fields(ctfd: Ctfd, tmp_path: Path) -> None:
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
        "name": "Web", "author": "us", "category": "web", "description": "Find it.", "value": 500, "type": "stackd",
        "extra": EXTRA, "state": "visible", "version": "0.1",
    }  # fmt: skip
    described.write_text(yaml.safe_dump(fields))

    async def ctf(*words: str) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        process = await asyncio.create_subprocess_exec(
            command, "challenge", *words, "web", cwd=tmp_path / "event", env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()

    await ctf("install")
    await ctfd.admin.data("PATCH", "/api/v1/challenges/1", {"description": "Find it soon."})
    await ctf("mirror")
    mirrored = yaml.safe_load(described.read_text())
    assert (mirrored["description"], mirrored["extra"]) == ("Find it soon.", EXTRA)
    await ctf("verify")
    lines = await ctfd.admin.data("POST", "/api/v1/stackd/admin/test", {})
    assert lines[1] == {"ok": True, "text": "Web: would start"}


async def test_a_key_in_the_environment_goes_to_no_address_of_the_page(
    source: tuple[Path, Path], stackd: Harness, tmp_path: Path
) -> None:
    async with Misbehaving("401") as elsewhere:
        async with ctfd_running(source, tmp_path / "ctfd", stackd="") as ctfd:
            await set_up(ctfd)
            path = "/api/v1/stackd/admin/settings"
            status, answer = await ctfd.admin.call("PATCH", path, {"stackd_url": elsewhere.url})
            why = "STACKD_KEY is in the environment of CTFd, so STACKD_URL has to be there, too."
            assert (status, answer["errors"][""]) == (400, [why])
            await ctfd.admin.call("PATCH", "/api/v1/configs", {"stackd_url": elsewhere.url})  # past the page
            lines = await ctfd.admin.data("POST", "/api/v1/stackd/admin/test", {})
            assert lines[0]["ok"] is False
            assert lines[0]["text"] == why
            async with ctfd.admin.session.get("/admin/stackd") as page:
                assert why in await page.text()
            assert elsewhere.requests == []
        async with ctfd_running(source, tmp_path / "ctfd", stackd="", key="") as ctfd:
            ctfd.admin = await ctfd.person("/login", name="admin", password=PASSWORD)
            saved = {"stackd_url": stackd.url, "stackd_key": TENANT}
            await ctfd.admin.data("PATCH", "/api/v1/stackd/admin/settings", saved)
            lines = await ctfd.admin.data("POST", "/api/v1/stackd/admin/test", {})
            assert [line["ok"] for line in lines] == [True, True], "both are on the page"

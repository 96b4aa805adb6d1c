"""The demo takes its configuration from the environment, and says so if its address is in use."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import aiohttp
import pytest

from tests.docs.markdown import ROOT, blocks
from tests.ports import free_port
from tests.templates import PLAIN

PAGE = ROOT / "docs" / "demo.md"
SETTINGS = {
    "STACKD_SERVER__PORT": "1",
    "STACKD_AUTH__KEY": "sk-of-the-environment-0123",
    "STACKD_STACKS__TTL": "59m",
    "STACKD_CLUSTER__MODE": "kubeconfig",  # these two have no effect
    "STACKD_CLUSTER__KUBECONFIG": "/nowhere/at/all",
}
PROGRAM = "from stackd.cli import main\nmain()\n"


@pytest.mark.timeout(300)
async def test_the_printed_commands_and_those_of_its_page_work_in_their_order(tmp_path: Path) -> None:
    """Each line that the demo prints below its table, and each block of docs/demo.md, as a user would type them."""
    program = tmp_path / ".venv" / "bin" / "stackd"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n{PROGRAM}")
    program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STACKD_")}
    environment |= SETTINGS | {"STACKD_ROUTES__HTTP_PORT": str(free_port())}
    process = await asyncio.create_subprocess_exec(
        program, "demo", "--port", "0", stdout=PIPE, cwd=tmp_path, env=environment
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            text = (await process.stdout.readuntil(b"Stop with Ctrl-C.")).decode()
        address, key, templates = (
            re.findall(rf"  {name} +(\S+)", text)[0] for name in ("address", "API key", "templates")
        )
        printed = re.findall(r"^  ((?:export|curl|\.venv/bin/stackd) .*)", text, re.MULTILINE)
        assert key == SETTINGS["STACKD_AUTH__KEY"]
        assert len(printed) == len(re.findall(r"^  \S", text, re.MULTILINE)) - 4, "all but the address and so on"
        async with aiohttp.ClientSession(headers={"X-API-KEY": key}) as session, asyncio.timeout(240):
            while (await session.get(f"{address}/readyz")).status != 200:
                await asyncio.sleep(0.05)
            said = await run(tmp_path, "\n".join(printed).replace("--stacks 50", "--stacks 2 --hold 0s"))
            for part in ("answering on node port", "FLAG=flag{", "It holds", "5 deleted\t", f"{address}/play#"):
                assert part in said
            assert (await (await session.get(f"{address}/templates")).json())["templates"][0]["ttl"] == "59m"
            of_page = (one.text.replace('"seconds": 10', '"seconds": 1') for one in blocks(PAGE) if "demo" in one.marks)
            assert "node_deleted" in await run(tmp_path, "\n".join([printed[0], *of_page]))
            Path(templates, "web.yaml").write_text(PLAIN)
            process.send_signal(signal.SIGHUP)
            while '"web"' not in await (await session.get(f"{address}/templates")).text():
                assert process.returncode is None
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
        assert "nothing is left" in out.decode()
        assert not Path(templates).exists()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def run(folder: Path, script: str) -> str:
    """What the commands print, each of which must succeed."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    shell = await asyncio.create_subprocess_exec(
        "bash", "-euc", script, stdout=PIPE, stderr=STDOUT, cwd=folder, env=env
    )
    out, _ = await shell.communicate()
    assert shell.returncode == 0, out.decode()
    return out.decode()

"""The demo takes its configuration from the environment, and names the process that already uses its address."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from stackd.doctor.local import port_holder
from stackd.embedded.podstatus import behaviour
from tests.api.test_templates import PLAIN
from tests.docs.markdown import ROOT, blocks
from tests.ports import free_port

SCRIPT = ROOT / "stackd.py"
PAGE = ROOT / "docs" / "demo.md"
PROGRAM = "from stackd.cli import main\nmain()\n"


@asynccontextmanager
async def demo(*words: str, **environment: str) -> AsyncIterator[tuple[Process, dict[str, str]]]:
    """The demo's process, and the values that its instructions print."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), "demo", *words, stdout=PIPE, stderr=PIPE, env=os.environ | environment
    )
    assert process.stdout is not None
    said: dict[str, str] = {}
    try:
        async with asyncio.timeout(60):
            async for line in process.stdout:
                if match := re.match(r"  (address|API key|dashboard) +(\S+)", line.decode()):
                    said[match[1]] = match[2]
                if "Ctrl-C" in line.decode():
                    break
        yield process, said
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_environment_configures_the_demo_but_for_its_cluster(tmp_path: Path) -> None:
    port = free_port()
    key = "sk-of-the-environment-0123"
    given = {
        "STACKD_SERVER__PORT": str(port),
        "STACKD_STACKS__TTL": "5m",
        "STACKD_STACKS__NAMESPACE": "arena",
        "STACKD_AUTH__KEY": key,
        "STACKD_CLUSTER__MODE": "kubeconfig",
        "STACKD_CLUSTER__KUBECONFIG": "/nowhere/at/all",
        "STACKD_API_KEY": "",
    }
    async with demo(**given) as (process, said), aiohttp.ClientSession(headers={"X-API-KEY": key}) as session:
        assert said["address"] == f"http://127.0.0.1:{port}"
        assert said["API key"] == key
        body = {
            "target_port": [{"container_port": 80, "protocol": "TCP"}],
            "pod_spec": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n"
            "    image: nginx\n    ports: [{containerPort: 80}]\n"
            "    resources: {limits: {cpu: 100m, memory: 64Mi}}\n",
        }
        async with asyncio.timeout(60):
            while (answer := await session.post(f"{said['address']}/stacks", json=body)).status == 503:
                await answer.release()
        stack = await answer.json()
        assert answer.status == 201, stack
        assert stack["namespace"] == "arena"
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
        assert process.returncode == 0
        assert "nothing is left" in out.decode()


async def test_a_port_that_is_taken_is_said_with_who_has_it_and_how_to_choose_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(os.getpid()) in port_holder(port)
        assert port_holder(free_port()) == ""
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPT), "demo", stdout=PIPE, stderr=PIPE,
            env=os.environ | {"STACKD_SERVER__PORT": str(port)},
        )  # fmt: skip
        _, said = await process.communicate()
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: address already in use by process {os.getpid()} (" in said.decode()
    assert "choose another port with server.port or STACKD_SERVER__PORT" in said.decode()
    assert "Traceback" not in said.decode()


@pytest.mark.timeout(300)
async def test_the_printed_commands_and_those_of_its_page_work_in_their_order(tmp_path: Path) -> None:
    """Each line that the demo prints below its table, and each block of docs/demo.md, as a user would type them."""
    program = tmp_path / ".venv" / "bin" / "stackd"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n{PROGRAM}")
    program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STACKD_")}
    process = await asyncio.create_subprocess_exec(
        program,
        "demo",
        "--port",
        "0",
        stdout=PIPE,
        cwd=tmp_path,
        env=environment | {"STACKD_SERVER__PORT": "1", "STACKD_ROUTES__HTTP_PORT": str(free_port())},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            text = (await process.stdout.readuntil(b"Stop with Ctrl-C.")).decode()
        address, key, templates = (
            re.search(rf"  {name} +(\S+)", text)[1]  # type: ignore[index]
            for name in ("address", "API key", "templates")
        )
        printed = re.findall(r"^  ((?:export|curl|\.venv/bin/stackd) .*)", text, re.MULTILINE)
        assert len(printed) == len(re.findall(r"^  \S", text, re.MULTILINE)) - 4, "all but the address and so on"
        async with aiohttp.ClientSession(headers={"X-API-KEY": key}) as session, asyncio.timeout(240):
            while (await session.get(f"{address}/readyz")).status != 200:
                await asyncio.sleep(0.05)
            said = await run(tmp_path, "\n".join(printed).replace("--stacks 50", "--stacks 2 --hold 0s"))
            for part in (
                "answering on node port",
                "FLAG=flag{",
                "challenge=crashing",
                "It holds",
                "answering as stack-",
                "5 deleted\t",
            ):
                assert part in said
            exported = "PATH=$PWD/.venv/bin:$PATH\n" + printed[0]
            said = await run(
                tmp_path, "\n".join([exported, *(one.text for one in blocks(PAGE) if "demo" in one.marks)])
            )
            assert "node_deleted" in said
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
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-euc",
        script,
        stdout=PIPE,
        stderr=STDOUT,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
    )
    out, _ = await shell.communicate()
    assert shell.returncode == 0, out.decode()
    return out.decode()


def test_the_images_of_the_page_do_something() -> None:
    images = set(re.findall(r"registry\.example/[\w-]+", PAGE.read_text()))
    assert len(images) > 10
    assert [image for image in images if behaviour({"image": image}) == behaviour({"image": "nginx"})] == []

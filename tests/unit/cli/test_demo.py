"""The demo takes its configuration from the environment, and names the process that already uses its address."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from stackd.doctor.local import port_holder
from tests.api.test_templates import PLAIN
from tests.ports import free_port

SCRIPT = Path(__file__).parents[3] / "stackd.py"


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


async def test_the_printed_commands_work_one_after_the_other_and_a_sighup_reloads_the_templates(tmp_path: Path) -> None:
    """`stackd` was not on the PATH, the rehearsal refused because of the stack just made, and SIGHUP ended the demo."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), "demo", "--port", "0",
        stdout=PIPE, env=os.environ | {
            "STACKD_TEMPLATES__DIRECTORY": str(tmp_path), "STACKD_SERVER__PORT": "1", "PATH": "/usr/bin:/bin",
        },
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            text = (await process.stdout.readuntil(b"Stop with Ctrl-C.")).decode()
            create = next(line for line in text.splitlines() if " -d @" in line)
            rehearse = text[text.index("    STACKD_URL=") : text.index("\n\n  Stop")].replace(
                "--stacks 50", "--stacks 2"
            )
            run = await asyncio.create_subprocess_shell(
                f"{create.replace('curl', 'curl --fail --retry 9 --retry-all-errors')} && {rehearse}",
                stdout=PIPE, stderr=PIPE, env={"PATH": "/usr/bin:/bin"},
            )  # fmt: skip
            out, err = await run.communicate()
            assert run.returncode == 0, out.decode() + err.decode()
            (tmp_path / "web.yaml").write_text(PLAIN)
            process.send_signal(signal.SIGHUP)
            address, key = (re.search(rf"  {name} +(\S+)", text)[1] for name in ("address", "API key"))  # type: ignore[index]
            async with aiohttp.ClientSession(headers={"X-API-KEY": key}) as session:
                while "web" not in await (await session.get(f"{address}/templates")).text():
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
    finally:
        process.kill()
        await process.wait()

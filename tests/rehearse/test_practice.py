"""For practice: a demo with a size and a pace, and a rehearsal on it, both as commands."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

from stackd.cli import serve
from stackd.embedded import EmbeddedOptions
from stackd.units import parse_duration
from tests.harness import seed
from tests.rehearse.conftest import STACKD

SECONDS = 60
ADDRESS, KEY = re.compile(r"address +(http\S+)"), re.compile(r"API key +(\S+)")


async def test_a_rehearsal_on_a_demo_tells_its_size_and_pace(tmp_path: Path) -> None:
    pod, report = tmp_path / "pod.yaml", tmp_path / "report.html"
    pod.write_text(seed()["pod_spec"])
    size = ("--nodes", "3", "--node-cpu", "2", "--start-delay", "400ms", "--pull", "4s")
    demo = await asyncio.create_subprocess_exec(*STACKD, "demo", "--port", "0", *size, stdout=asyncio.subprocess.PIPE)
    assert demo.stdout is not None
    try:
        async with asyncio.timeout(SECONDS):
            welcome = (await demo.stdout.readuntil(b"Stop with Ctrl-C.")).decode()
        url, key = (pattern.findall(welcome)[0] for pattern in (ADDRESS, KEY))
        where = os.environ | {"STACKD_URL": url, "STACKD_API_KEY": key}

        code, figures = await rehearse(where, "--stacks", "12", "--file", str(pod), "--report", str(report))
        assert code == 0
        assert {node["name"] for node in figures["nodes"]} == {f"embedded-worker{n}" for n in ("", 2, 3)}
        assert figures["stages"]["running"]["p50"] >= 4 + 0.4, "every node has pulled the image first"
        assert report.read_text().startswith("<!doctype html>")

        code, figures = await rehearse(where, "--stacks", "12", "--file", str(pod), "--expect", "running-max=100ms")
        assert code == 1
        assert 0.4 <= figures["stages"]["running"]["p50"] < 4, "the nodes have the image now"

        code, _ = await rehearse(where, "--stacks", "90", "--file", str(pod))
        assert code == 1, "three nodes of two CPUs have room for sixty"
    finally:
        demo.send_signal(signal.SIGINT)
        await demo.wait()


def test_the_usual_size_is_that_of_an_embedded_cluster() -> None:
    usual = EmbeddedOptions()
    assert len(usual.nodes) == serve.NODES
    assert usual.start_delay == parse_duration(serve.START_DELAY)
    assert usual.pull == parse_duration(serve.PULL)


async def rehearse(where: dict[str, str], *words: str) -> tuple[int | None, Any]:
    """The exit code and the figures of a rehearsal in one burst."""
    command = await asyncio.create_subprocess_exec(
        *STACKD, "rehearse", "--burst", "--hold", "0s", "--json", *words, env=where, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(SECONDS):
        said, _ = await command.communicate()
    return command.returncode, json.loads(said or b"{}")

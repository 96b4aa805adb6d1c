"""Daemons as processes: each is a fork of one that has imported everything, so it starts in 30 ms. ``kill -9`` is real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LISTENING = "listening on "
CLOCK = "STACKD_FAULTS_CLOCK"
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["uvloop", "stackd.cli.machine", "stackd.cli.process", "stackd.daemon", __name__])


class Process:
    """One daemon; ``exited`` gets its exit code once it has ended and all its output has been read."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.lines: list[str] = []
        self.url = ""
        self.killed = False
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self.listening: asyncio.Future[None] = self._loop.create_future()
        self._output, theirs = FORKSERVER.Pipe(duplex=False)
        self._process = FORKSERVER.Process(target=_serve, args=(environment, folder, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0
        self._loop.add_reader(self._output.fileno(), self._read)

    @property
    def alive(self) -> bool:
        return not self.exited.done()

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def records(self) -> list[dict[str, Any]]:
        """The log records; a line that is no JSON is a record of level ``raw``."""
        return [_record(line) for line in self.lines]

    def _read(self) -> None:
        data = os.read(self._output.fileno(), 1 << 16)
        *lines, self._rest = (self._rest + (data or b"\n")).split(b"\n")
        for line in filter(None, lines):
            self._take(line.decode(errors="replace"))
        if not data:
            self._loop.remove_reader(self._output.fileno())
            self._output.close()
            self._process.join()
            assert self._process.exitcode is not None
            self.exited.set_result(self._process.exitcode)
            self.listening.cancel()

    def _take(self, line: str) -> None:
        self.lines.append(line)
        if LISTENING in line and not self.listening.done():
            self.url = f"http://{line.split(LISTENING, 1)[1].split(',', 1)[0]}"
            self.listening.set_result(None)


def _record(line: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"level": "raw", "message": line}
    return record


def _serve(environment: dict[str, str], folder: Path, output: Connection) -> None:
    """Run ``stackd serve`` in the forked process."""
    from stackd.cli import main as command
    from tests.faults import skew

    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if path := os.environ.pop(CLOCK, ""):
        skew.install(path)
    command(["serve"])

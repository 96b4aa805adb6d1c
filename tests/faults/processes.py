"""Daemons as processes: started, watched, killed.

Owns: a process' life and output. Does not know why it is started or killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
READ_BYTES = 1 << 16
LISTENING = "listening on "


class ForkServer:
    """The client of ``tests.faults.forkserver``, for one thread; its calls block for some milliseconds."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.faults.forkserver", str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        theirs.close()
        self._control = ours

    def start(self, environment: dict[str, str], folder: Path) -> Process:
        """Start a daemon."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, True)
        order = {"do": "start", "environment": environment, "folder": str(folder)}
        socket.send_fds(self._control, [json.dumps(order).encode()], [writing])
        os.close(writing)
        return Process(int(self._control.recv(64)), reading, self)

    def ended(self, pid: int) -> int:
        """The exit code of a daemon that has ended; minus the signal's number if a signal has ended it."""
        self._control.send(json.dumps({"do": "wait", "pid": pid}).encode())
        return int(self._control.recv(64))

    def close(self) -> None:
        """End everything that the fork server has started."""
        self._control.close()
        self._process.wait()


class Process:
    """One daemon; ``exited`` gets its exit code once it has ended and all its output has been read."""

    def __init__(self, pid: int, output: int, forkserver: ForkServer) -> None:
        self.pid = pid
        self.lines: list[str] = []
        self.url = ""
        self.killed = False
        self._output = output
        self._forkserver = forkserver
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self.listening: asyncio.Future[str] = self._loop.create_future()
        self._loop.add_reader(output, self._read)

    @property
    def alive(self) -> bool:
        """Whether it is not known to have ended."""
        return not self.exited.done()

    def starved(self) -> float:
        """Seconds for which its event loop, or ours, was ready to run but had no CPU; 0 if the kernel does not say.

        The daemon is not to blame for what a busy machine takes from it.
        """
        return sum(_waited_for_cpu(pid) for pid in (self.pid, os.getpid()))

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process still exists."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def said(self) -> list[dict[str, Any]]:
        """The log records; a line that is no JSON is a record of level ``raw``."""
        return [_record(line) for line in self.lines]

    def _read(self) -> None:
        try:
            data = os.read(self._output, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._take(line.decode(errors="replace"))
            return
        self._loop.remove_reader(self._output)
        os.close(self._output)
        if self._rest:
            self._take(self._rest.decode(errors="replace"))
        if not self.exited.done():
            self.exited.set_result(self._forkserver.ended(self.pid))
        if not self.listening.done():
            self.listening.cancel()

    def _take(self, line: str) -> None:
        self.lines.append(line)
        if LISTENING in line and not self.listening.done():
            address = line.split(LISTENING, 1)[1].split(",", 1)[0]
            self.url = f"http://{address}"
            self.listening.set_result(self.url)


def _waited_for_cpu(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _record(line: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"level": "raw", "message": line}
    return record

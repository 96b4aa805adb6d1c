"""Daemons as processes: each is a fork of one that has imported everything, so it starts in 30 ms. ``kill -9`` is real.

As ``python -m tests.faults.process FD`` this is that process: it forks daemons, and reports how each one ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ORDER_BYTES = 1 << 16
LISTENING = "listening on "
CLOCK = "STACKD_FAULTS_CLOCK"


class ForkServer:
    """For one thread; its calls block for some milliseconds."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.faults.process", str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        theirs.close()

    def start(self, environment: dict[str, str], folder: Path) -> Process:
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, True)
        order = json.dumps([environment, str(folder)]).encode()
        socket.send_fds(self._control, [order], [writing])
        os.close(writing)
        return Process(int(self._control.recv(64)), reading, self)

    def ended(self, pid: int) -> int:
        """The exit code of a daemon that has ended; minus the signal's number if a signal has ended it."""
        self._control.send(json.dumps(pid).encode())
        return int(self._control.recv(64))

    def close(self) -> None:
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
        self.listening: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(output, self._read)

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
        try:
            data = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + (data or b"\n")).split(b"\n")
        for line in lines:
            if line:
                self._take(line.decode(errors="replace"))
        if not data:
            self._loop.remove_reader(self._output)
            os.close(self._output)
            self.exited.set_result(self._forkserver.ended(self.pid))
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


# ---- the process that is forked


def main() -> None:
    """Obey orders until the other end of the socket is closed; then end every daemon that was started here."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _import_everything()
    gc.freeze()
    living: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, ORDER_BYTES, 1)
        if not message:
            break
        order = json.loads(message)
        if isinstance(order, int):
            _, status = os.waitpid(order, 0)
            living.discard(order)
            answer = os.waitstatus_to_exitcode(status)
        else:
            environment, folder = order
            answer = os.fork() or _daemon(environment, folder, descriptors[0], control)
            os.close(descriptors[0])
            living.add(answer)
        control.send(str(answer).encode())
    for pid in living:
        os.kill(pid, signal.SIGKILL)


def _import_everything() -> None:
    import uvloop  # noqa: F401

    import stackd.cli.machine
    import stackd.cli.process
    import stackd.daemon  # noqa: F401


def _daemon(environment: dict[str, str], folder: str, output: int, control: socket.socket) -> int:
    """Run ``stackd serve`` in the forked process; never returns."""
    code = 70
    try:
        control.close()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        code = _serve()
    except BaseException:  # noqa: BLE001 - the root of a process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _serve() -> int:
    from stackd.cli import main as command
    from tests.faults import skew

    if path := os.environ.pop(CLOCK, ""):
        skew.install(path)
    try:
        command(["serve"])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    main()

"""The fork server, like that of multiprocessing: a process that has imported stackd; each daemon is a fork of it.

A fork is a process of its own, with its own pid, files and event loop: ``kill -9`` is real. It runs the same as
``python stackd.py serve``.

Owns: the orders: start a daemon, and report how one ended. Runs as ``python -m tests.faults.forkserver FD``.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

ORDER_BYTES = 1 << 16
CLOCK = "STACKD_FAULTS_CLOCK"
HOST = "STACKD_FAULTS_HOST"


def main() -> None:
    """Obey orders until the other end of the socket is closed; then end every process that was started here."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _import_everything()
    gc.freeze()
    living: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, ORDER_BYTES, 1)
        if not message:
            break
        order = json.loads(message)
        if order["do"] == "start":
            pid = _fork(order, descriptors[0], control)
            os.close(descriptors[0])
            living.add(pid)
            control.send(str(pid).encode())
        else:
            _, status = os.waitpid(order["pid"], 0)
            living.discard(order["pid"])
            control.send(str(os.waitstatus_to_exitcode(status)).encode())
    for pid in living:
        os.kill(pid, signal.SIGKILL)


def _import_everything() -> None:
    import uvloop  # noqa: F401

    import stackd.cli.machine
    import stackd.cli.process
    import stackd.daemon  # noqa: F401


def _fork(order: dict[str, Any], output: int, control: socket.socket) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        control.close()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["environment"])
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
    if name := os.environ.pop(HOST, ""):
        socket.gethostname = lambda: name
    try:
        command(["serve"])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    main()

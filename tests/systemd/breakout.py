"""Tries to break out of the service's sandbox from inside; prints what succeeded as JSON. The unit itself runs it."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from stackd.clock import boot_id

STATE = Path(os.environ.get("STATE_DIRECTORY", "."))
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
PTRACE_ATTACH = 16
libc = ctypes.CDLL(None, use_errno=True)


def succeeded(code: int) -> bool:
    if code < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return True


def write(path: str) -> Callable[[], object]:
    return lambda: Path(path).write_text("x")


def read(path: str) -> Callable[[], object]:
    return lambda: Path(path).read_bytes()


def program(mode: int) -> Path:
    path = STATE / "program"
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(mode)
    return path


def see_other_processes() -> None:
    if all(Path(f"/proc/{one}").stat().st_uid == os.getuid() for one in os.listdir("/proc") if one.isdecimal()):
        raise PermissionError("no other process is to be seen")


ATTEMPTS: dict[str, Callable[[], object]] = {
    "write /etc": write("/etc/stackd-was-here"),
    "write /usr": write("/usr/stackd-was-here"),
    "write the configuration": write("/etc/stackd/config.toml"),
    "write the program": write(f"{sys.prefix}/pyvenv.cfg"),
    "read the shadow file": read("/etc/shadow"),
    "read the credential's source": read("/etc/stackd/api-key"),
    "list home directories": lambda: os.listdir("/root"),
    "read the journal's files": lambda: os.listdir("/var/log/journal"),
    "see other processes": see_other_processes,
    "signal the manager": lambda: os.kill(1, 0),
    "trace the manager": lambda: succeeded(libc.ptrace(PTRACE_ATTACH, 1, 0, 0)),
    "unshare mounts": lambda: succeeded(libc.unshare(CLONE_NEWNS)),
    "unshare users": lambda: succeeded(libc.unshare(CLONE_NEWUSER)),
    "mount": lambda: succeeded(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
    "become root": lambda: os.setuid(0),
    "raise its priority": lambda: os.nice(-5),
    "change the clock": lambda: succeeded(libc.settimeofday(b"\0" * 16, None)),
    "change a kernel setting": write("/proc/sys/kernel/hostname"),
    "open a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "open a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "open a device": read("/dev/mem"),
    "map writable code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    "set the setuid bit": lambda: program(0o4755),
    "run a program that it wrote": lambda: subprocess.run([str(program(0o755))], check=True),
}


def know_this_start_of_the_machine() -> None:
    """By reading stackd's boot id, since the kernel's file for it is hidden here."""
    if len(boot_id()) != 32:
        raise OSError("the start of the machine is not known")


ALLOWED: dict[str, Callable[[], object]] = {
    "write its state": lambda: (STATE / "allowed").write_text("x"),
    "read its configuration": read("/etc/stackd/config.toml"),
    "open a TCP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "know this start of the machine": know_this_start_of_the_machine,
}


def main() -> None:
    outcome = {"broke out": _done(ATTEMPTS), "allowed": _done(ALLOWED)}
    (STATE / "breakout.json").write_text(json.dumps(outcome))


def _done(attempts: dict[str, Callable[[], object]]) -> list[str]:
    done = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except (OSError, subprocess.SubprocessError):
            continue
        done.append(name)
    return done


if __name__ == "__main__":
    main()

"""What surrounds the process: the service manager, the sockets that it hands over, and where the configuration is read.

Owns: the protocol with the manager (sd_notify, LISTEN_FDS, descriptor store); without a manager every call does
nothing. Owns, too, which sockets are listened on: those that the manager kept over a restart, if they are still at the
configured address; otherwise new ones, which the manager is asked to keep.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stackd.config import Config, LoadedConfig
from stackd.config.credentials import handed_over
from stackd.printable import printable
from stackd.upkeep.build import Build
from stackd.web.serving import are_at, listen

log = logging.getLogger(__name__)

# The name under which the manager keeps our own listening sockets.
KEPT = "stackd-api"
FIRST_DESCRIPTOR: Final = 3
# How long a send waits at most: the manager's queue may be full for a moment.
SEND_SECONDS: Final = 1.0


class Notifier:
    """Notifies the service manager at ``address``; nobody if that is empty.

    ``watchdog`` is the time in seconds within which it expects to be notified, 0 if it does not.
    """

    def __init__(self, address: str = "", *, watchdog: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog
        self._status = ""

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """The manager that started this process; its variables are removed, so that no child process can notify it."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = microseconds.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, watchdog=int(microseconds) / 1e6 if address and ours else 0.0)

    def ready(self, status: str) -> None:
        self._with_status("READY=1\n", status)

    def status(self, status: str) -> None:
        """Send a status line, if it differs from the last."""
        if status != self._status:
            self._with_status("", status)

    def stopping(self, status: str) -> None:
        self._with_status("STOPPING=1\n", status)

    def _with_status(self, state: str, status: str) -> None:
        self._status = status
        # A line end would begin another assignment, and the text may come from a stranger.
        self._send(f"{state}STATUS={printable(status.replace(chr(10), ' '))}")

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """The start or stop under way may take this much longer, from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def keep(self, listening: socket.socket, name: str) -> None:
        """Have the manager keep a copy of the socket over a restart of the service, until the service is stopped."""
        self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", listening)

    def forget(self, name: str) -> None:
        """Have the manager drop what it keeps under that name."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _send(self, message: str, passed: socket.socket | None = None) -> None:
        if not self._address:
            return
        rights = [] if passed is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed.fileno()]))]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.settimeout(SEND_SECONDS)
                line.connect(self._address)
                line.sendmsg([message.encode()], rights)
        except OSError as error:
            log.warning("the service manager cannot be told %r: %s", message.partition("\n")[0], error)


def inherited(environ: MutableMapping[str, str]) -> tuple[socket.socket, ...]:
    """Our own listening sockets, which the manager has kept for this process; their variables are removed.

    Anything else that was handed over is closed.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return ()
    sockets: list[socket.socket] = []
    for descriptor, name in enumerate(names[: int(count)], FIRST_DESCRIPTOR):
        listening = _listening(descriptor) if name == KEPT else None
        if listening is not None:
            sockets.append(listening)
            continue
        log.warning("descriptor %d (%s) that was handed over is none of stackd's listening sockets", descriptor, name)
        with contextlib.suppress(OSError):
            os.close(descriptor)
    return tuple(sockets)


def _listening(descriptor: int) -> socket.socket | None:
    try:
        one = socket.socket(fileno=descriptor)
    except OSError:
        return None
    if one.type == socket.SOCK_STREAM and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        one.setblocking(False)
        os.set_inheritable(descriptor, False)
        return one
    one.detach()
    return None


@dataclass(slots=True, kw_only=True)
class ProcessContext:
    """``can_keep``: the manager keeps sockets over a restart (``FileDescriptorStoreMax=``).

    ``again`` reads the configuration again. ``credentials``: the folder with those of the start, ``handed_over`` the one into
    which the manager puts them at a reload. ``restarts``: the next stop is for a restart. ``stays``: the process starts another
    daemon, with the same sockets, when another stackd owns the stacks. ``build``: the one that the process runs.
    """

    notifier: Notifier = field(default_factory=Notifier)
    inherited: tuple[socket.socket, ...] = ()
    can_keep: bool = False
    again: Callable[[], LoadedConfig] | None = None
    handed_over: Path | None = None
    credentials: Path | None = None
    stays: bool = False
    restarts: bool = False
    build: Build = field(default_factory=Build)
    _own: list[socket.socket] = field(default_factory=list)

    @classmethod
    def of_process(cls, environ: MutableMapping[str, str], again: Callable[[], LoadedConfig] | None) -> ProcessContext:
        """What the environment says; variables that are meant for this process alone are removed."""
        store_size, folder = environ.pop("FDSTORE", ""), environ.get("CREDENTIALS_DIRECTORY")
        return cls(
            notifier=Notifier.from_environment(environ),
            inherited=inherited(environ),
            can_keep=store_size.isdecimal() and int(store_size) > 0,
            again=again,
            handed_over=handed_over(environ) if folder else None,
            credentials=Path(folder) if folder else None,
            stays=True,
        )

    def sockets(self, config: Config) -> list[socket.socket]:
        """Copies, for one daemon, of the sockets to listen on. Raises OSError if the address is taken."""
        if not self._own and are_at(self.inherited, config):
            self._own = [*self.inherited]
        if not self._own:
            if self.inherited:
                self.notifier.forget(KEPT)
            for each in self.inherited:
                with contextlib.suppress(OSError):
                    # The manager has a copy until it gets to dropping it; only a socket that listens blocks the port.
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
            self._own = listen(config)
            for each in self._own if self.can_keep else ():
                self.notifier.keep(each, KEPT)
        return [each.dup() for each in self._own]

    def close(self) -> None:
        """Close the process's own sockets: no other daemon will listen on them here."""
        while self._own:
            self._own.pop().close()

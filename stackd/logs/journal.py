"""The journal's native protocol: one datagram per record, with its fields; a sealed memory file if it is too large.

Owns: how a record becomes the journal's fields. A send never waits: if the journal accepts nothing, the record goes to
standard error instead, which the journal reads too.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Final, TextIO

from stackd.logs.formats import fields_of, lines_of

SOCKET: Final = "/run/systemd/journal/socket"
IDENTIFIER: Final = "stackd"
SEND_BUFFER: Final = 8 << 20
SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
TOO_LARGE: Final = frozenset({errno.EMSGSIZE, errno.ENOBUFS})


def is_journal(environ: Mapping[str, str], stream: TextIO) -> bool:
    """Whether the stream leads to the journal, as the service manager says in ``JOURNAL_STREAM``."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(stat.st_dev), str(stat.st_ino))


def priority(level: int) -> int:
    """The syslog priority of a level."""
    if level >= logging.CRITICAL:
        return 2
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def encode(fields: Mapping[str, str]) -> bytes:
    """Fields in the native form: ``NAME=value``, or with an explicit length if the value has line breaks."""
    return b"".join(_encoded(fields))


def _encoded(fields: Mapping[str, str]) -> Iterator[bytes]:
    for name, value in fields.items():
        raw = value.encode("utf-8", "backslashreplace")
        if b"\n" in raw:
            yield name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
        else:
            yield name.encode() + b"=" + raw + b"\n"


def _say(record: logging.LogRecord) -> None:
    """Write to standard error, where a line may start with its priority ``<N>``: no text may begin a line itself."""
    text = "".join(f"<{priority(record.levelno)}>{line}\n" for line in lines_of(record))
    with contextlib.suppress(OSError, ValueError):  # there is nowhere left to report to
        sys.stderr.write(text)


class JournalHandler(logging.Handler):
    """Sends records to the journal at ``address``."""

    def __init__(self, address: str = SOCKET) -> None:
        super().__init__()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            fields = self._fields(record)
        except (TypeError, ValueError):
            self.handleError(record)
            return
        try:
            self._send(encode(fields))
        except OSError:
            _say(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        return {
            "MESSAGE": message,
            "PRIORITY": str(priority(record.levelno)),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            **{name.upper(): str(value) for name, value in fields_of(record).items()},
        }

    def _send(self, payload: bytes) -> None:
        try:
            self._socket.sendto(payload, self._address)
        except OSError as error:
            if error.errno not in TOO_LARGE:
                raise
            self._send_file(payload)

    def _send_file(self, payload: bytes) -> None:
        descriptor = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(descriptor, payload)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
            rights = array.array("i", [descriptor])
            self._socket.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], 0, self._address)
        finally:
            os.close(descriptor)

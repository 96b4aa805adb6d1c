"""The daemon of this machine, and who listens where it should: its key goes to nobody else.

Owns: reading the kernel's tables of listening sockets (``/proc/net/tcp``). While stackd is stopped, any user may listen on
its port; so the socket must belong to root, to this process's user, or to the service's user.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import ssl
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stackd.client import ClientError

if TYPE_CHECKING:
    from stackd.client import AsyncClient

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

PROC: Final = Path("/proc")
LISTEN: Final = "0A"
SERVICE_STATE: Final = Path("/var/lib/stackd")
SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDaemon:
    """The daemon of this machine: its address, a key (or an empty text), and the path of its state."""

    host: str
    port: int
    key: str = field(repr=False)
    secure: bool = False
    state: str = ""

    @property
    def url(self) -> str:
        """The address at which it is reached from here."""
        return url_of(self.host, self.port, secure=self.secure)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """For TLS: its certificate is for the name that clients use, not for this address. ``require_own`` is stricter."""
        if not self.secure or not _tables():
            return None
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def require_own(self) -> None:
        """Raise ClientError if what listens there may be another user's; to be called with each new connection."""
        if not _tables():
            return
        owners = {row.uid for row in listeners(self.port, self.host)}
        if not owners:
            raise ClientError(f"no process of this machine listens at {self.url}; the key was not sent{_NAME_IT}")
        if strangers := owners - {0, os.geteuid(), *_service_user(self.state)}:
            who = ", ".join(map(user_name, sorted(strangers)))
            raise ClientError(
                f"what listens at {self.url} belongs to the user {who}, and not to stackd; the key was not sent{_NAME_IT}"
            )

    def client(self, timeout: float | None = SECONDS) -> AsyncClient:
        """A client that sends the key to nobody else, and each request once; the caller closes it."""
        from stackd.client import AsyncClient
        from stackd.client.attempts import NO_RETRIES

        return AsyncClient(
            self.url,
            self.key,
            retries=NO_RETRIES,
            ssl_context=self.tls,
            check_peer=self.require_own,
            timeout=timeout,
        )


_NAME_IT: Final = " (if it is stackd, name it with --url)"


def url_of(host: str, port: object, *, secure: bool) -> str:
    """The address at which a daemon that listens there is reached from here."""
    address = _address(host)
    if address is None:
        name = host
    elif address.version == 4:
        name = "127.0.0.1" if address.is_unspecified else str(address)
    else:
        name = "[::1]" if address.is_unspecified else f"[{address}]"
    return f"{'https' if secure else 'http'}://{name}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A listening socket: its address, its user, and its inode."""

    address: IpAddress
    uid: int
    inode: str


def listeners(port: int, host: str = "", proc: Path = PROC) -> list[Listener]:
    """The sockets that listen on the port; with ``host``, those that get connections to that address."""
    found = [row for table in ("tcp", "tcp6") for row in _listening(proc / "net" / table, port)]
    wanted = _address(host)
    if wanted is None:
        return found
    if wanted.is_unspecified:
        wanted = ipaddress.ip_address("127.0.0.1" if wanted.version == 4 else "::1")
    return [row for row in found if row.address.is_unspecified or row.address == wanted]


def port_holder(port: int, proc: Path = PROC) -> str:
    """The process that listens on the port, ``process 4711 (nginx)``; empty if this user cannot see it."""
    sockets = {f"socket:[{row.inode}]" for row in listeners(port, proc=proc)}
    for folder in proc.iterdir() if sockets else ():
        if not folder.name.isdecimal():
            continue
        try:
            if any(os.readlink(file) in sockets for file in (folder / "fd").iterdir()):
                return f"process {folder.name} ({_name_of(folder)})"
        except OSError:
            continue  # it has ended, or belongs to another user
    return ""


def user_name(uid: int) -> str:
    """The user's name, or else the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _tables() -> bool:
    return (PROC / "net/tcp").exists()


def _listening(table: Path, port: int) -> Iterator[Listener]:
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return
    for row in rows:
        address, _, number = row[1].rpartition(":")
        if row[3] == LISTEN and int(number, 16) == port:
            yield Listener(address=_of_kernel(address), uid=int(row[7]), inode=row[9])


def _of_kernel(digits: str) -> IpAddress:
    """The address from the kernel's hexadecimal words, each in the byte order of this machine."""
    words = (bytes.fromhex(digits[at : at + 8]) for at in range(0, len(digits), 8))
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    address = ipaddress.ip_address(packed)
    return getattr(address, "ipv4_mapped", None) or address


def _address(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _service_user(state: str) -> Iterator[int]:
    """The user to whom the state's folder belongs."""
    folder = Path(state).parent if Path(state).is_absolute() else SERVICE_STATE
    with suppress(OSError):
        yield folder.stat().st_uid


def _name_of(folder: Path) -> str:
    """The command line, cut to 60 characters; the process's name if there is none."""
    words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    text = " ".join(filter(None, words))
    return text if len(text) <= 60 else text[:59] + "…" if text else (folder / "comm").read_text().strip()

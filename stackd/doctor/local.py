"""The daemon of this machine, and who listens where it should: its key goes to nobody else.

Owns: reading the kernel's tables of listening sockets (``/proc/net/tcp``). While stackd is stopped, any user may listen on
its port; so each socket on that port, whatever its address, must belong to root, to this process's user, or to the
service's user.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stackd.client import ClientError
from stackd.files import user_name

if TYPE_CHECKING:
    from stackd.client import AsyncClient

TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
LISTEN: Final = "0A"
SERVICE_STATE: Final = Path("/var/lib/stackd")
SECONDS: Final = 5.0
_NAME_IT: Final = " (if it is stackd, name it with --url)"


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
        if not self.secure or not TABLES[0].exists():
            return None
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def require_own(self) -> None:
        """Raise ClientError if what listens there may be another user's; to be called with each new connection."""
        if not TABLES[0].exists():
            return
        owners = {uid for table in TABLES for uid in listeners(self.port, table)}
        if not owners:
            raise ClientError(f"no process of this machine listens at {self.url}; the key was not sent{_NAME_IT}")
        state = Path(self.state).parent if os.path.isabs(self.state) else SERVICE_STATE
        with suppress(OSError):
            owners.discard(state.stat().st_uid)
        if strangers := owners - {0, os.geteuid()}:
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


def url_of(host: str, port: object, *, secure: bool) -> str:
    """The address at which a daemon that listens there is reached from here."""
    with suppress(ValueError):  # a name
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    return f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def listeners(port: int, table: Path) -> list[int]:
    """The users whose sockets listen on the port, by the kernel's table."""
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [int(row[7]) for row in rows if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port]

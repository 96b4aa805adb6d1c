"""Free ports for programs that must know their port before they listen, and an address that only this process uses."""

from __future__ import annotations

import itertools
import os
import secrets
import socket
from collections.abc import Iterator

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw")) % 10
OURS = range(20_000 + 1000 * WORKER, 21_000 + 1000 * WORKER)
"""Below the node ports and below the ephemeral ports of the system, so that nothing takes one by chance; those of each process
of one run of the tests are its own."""

_FIRST = secrets.randbelow(len(OURS))
_IN_TURN: Iterator[int] = itertools.cycle([*OURS[_FIRST:], *OURS[:_FIRST]])

OWN_LOOPBACK = f"127.{64 + (os.getpid() >> 16) % 128}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
"""The node ports of another run of the tests answer at another address."""


def free_port() -> int:
    """A port that nobody listens on now, and that nobody gets by chance, nor a later call of this process."""
    while True:
        port = next(_IN_TURN)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port

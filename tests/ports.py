"""Free ports for programs that must know their port before they listen, and an address that only this process uses."""

from __future__ import annotations

import os
import secrets
import socket

OURS = range(20_000, 30_000)
"""Below the node ports and below the ephemeral ports of the system, so that nothing takes one by chance."""

OWN_LOOPBACK = f"127.{64 + (os.getpid() >> 16) % 128}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
"""The node ports of another run of the tests answer at another address."""


def free_port() -> int:
    """A port that nobody listens on now, and that nobody gets by chance."""
    while True:
        port = OURS[secrets.randbelow(len(OURS))]
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port

"""Free ports for programs that must know their port before they listen."""

from __future__ import annotations

import secrets
import socket

OURS = range(20_000, 30_000)
"""Below the node ports and below the ephemeral ports of the system, so that nothing takes one by chance."""


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

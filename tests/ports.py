"""Ports for what has to be told its port before it listens."""

from __future__ import annotations

import secrets
import socket

OURS = range(20_000, 30_000)
"""Below node ports, and below those that the system gives to whoever asks for any: other tests get none of these meanwhile."""


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody listens on now, and that nobody gets by chance."""
    while True:
        port = OURS[secrets.randbelow(len(OURS))]
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port

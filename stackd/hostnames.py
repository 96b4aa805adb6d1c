"""The names at which routed ports are reached: ``PREFIX-TOKEN.DOMAIN``. Whoever knows one may use it.

Owns: a name is one DNS label before the domain, and its token has 80 random bits that nothing else tells.
"""

from __future__ import annotations

import base64
import re
import secrets
from typing import Final

TOKEN_BYTES: Final = 10
LONGEST_LABEL: Final = 63
LONGEST_PREFIX: Final = LONGEST_LABEL - 1 - TOKEN_BYTES * 8 // 5
LONGEST_DOMAIN: Final = 253 - LONGEST_LABEL - 1
DEFAULT_PREFIX: Final = "stack"


def prefix_from(name: str) -> str:
    """The prefix that is made of a template's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:LONGEST_PREFIX].strip("-") or DEFAULT_PREFIX


def new_hostname(prefix: str, domain: str) -> str:
    """A name that nobody can guess."""
    token = base64.b32encode(secrets.token_bytes(TOKEN_BYTES)).decode().lower()
    return f"{prefix}-{token}.{domain}"


def renamed(host: str) -> str:
    """Another name like this one; a port after it stays."""
    label, _, domain = host.partition(".")
    return new_hostname(label.rpartition("-")[0], domain)

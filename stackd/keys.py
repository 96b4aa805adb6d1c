"""API keys: how a key is made, and what is kept of it.

Owns: the form of a key and its hash. Does not know where keys come from (``config``) or how requests carry them
(``web``). A key's text exists only while it is read or printed. Everything else holds only its SHA-256.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PREFIX: Final = "sk-"
DIGEST_BYTES: Final = 32

SHORTEST: Final = 16
"""The fewest characters of a key's text. A shorter key can be guessed, even with few tries."""

Scope = Literal["admin", "read", "metrics"]
"""``read`` reads everything; ``metrics`` reads ``/metrics`` and ``/healthz``, and so no tenant's pod spec."""


def digest(plaintext: str) -> bytes:
    """The SHA-256 of a key's text; only this is compared and kept. Accepts any text, even if it is not valid UTF-8."""
    return hashlib.sha256(plaintext.encode(errors="surrogatepass")).digest()


def new_key() -> tuple[str, str]:
    """A fresh key of 192 random bits and its SHA-256 in hex: ``("sk-…", "…")``."""
    plaintext = PREFIX + secrets.token_hex(24)
    return plaintext, digest(plaintext).hex()


def _digest_from_hex(value: object) -> object:
    """Turn 64 hex digits into bytes. The error never quotes the value, which may be a key put there by mistake."""
    if not isinstance(value, str):
        return value
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        raw = b""
    if len(raw) != DIGEST_BYTES or len(value) != 2 * DIGEST_BYTES:
        raise ValueError("this is not a SHA-256")
    return raw


class ApiKey(BaseModel):
    """A key that is accepted: its name for the log, its hash, and what it allows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(
        max_length=64,
        pattern=r"^[^\p{C}\p{Z}]+(?: [^\p{C}\p{Z}]+)*$",
        description="a name of at most 64 printable characters and single spaces",
    )
    sha256: Annotated[bytes, BeforeValidator(_digest_from_hex)] = Field(
        repr=False, description="a SHA-256 in 64 hex digits"
    )
    scope: Scope = Field(default="admin", description="a scope")

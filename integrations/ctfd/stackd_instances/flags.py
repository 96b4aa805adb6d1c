"""Flags of stacks: only their hashes are kept. Knows nothing of CTFd or the database."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable


def hashed(salt: str, flag: str) -> str:
    """The hash of a flag; ``salt`` is the challenge's own random text, so equal flags of two challenges differ."""
    return hashlib.sha256(f"{salt}\0{flag.strip()}".encode("utf-8", "surrogatepass")).hexdigest()


def is_one_of(answer: str, hashes: Iterable[str], salt: str) -> bool:
    """Whether the answer is one of the flags, in a time that does not depend on where they differ. "" is none."""
    sent = hashed(salt, answer)
    equal = [hmac.compare_digest(sent, one) for one in hashes]
    return any(equal) and bool(answer.strip())

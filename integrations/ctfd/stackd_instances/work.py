"""A proof of work for each start, if the settings ask for one: it costs a browser a moment, and a flood of accounts a lot.

CTFd has no captcha of its own that a plugin could use.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from CTFd.cache import cache
from CTFd.utils.security.signing import BadSignature, SignatureExpired, serialize, unserialize

from . import settings
from .access import Account, Refused

VALID = 600
"""Seconds from the question until the answer must be here."""


def needed(account: Account, challenge_id: int) -> dict[str, Any] | None:
    """A question for a start: find a number of which the SHA-256 of "question:number" begins with so many zero bits."""
    bits = settings.number(settings.WORK)
    return {"challenge": serialize([account.key, challenge_id, secrets.token_hex(8)]), "bits": bits} if bits else None


def check(account: Account, challenge_id: int, work: Any) -> None:
    """Raise Refused, with another question, unless the work was done for this start, and for no other one."""
    question = needed(account, challenge_id)
    if question is None:
        return
    asked, nonce = (
        (str(work.get(part) or "") for part in ("challenge", "nonce")) if isinstance(work, dict) else ("", "")
    )
    digest = hashlib.sha256(f"{asked}:{nonce}".encode("utf-8", "surrogatepass")).digest()
    used = f"stackd_work_{hashlib.sha256(asked.encode('utf-8', 'surrogatepass')).hexdigest()}"
    try:
        is_ours = unserialize(asked, max_age=VALID)[:2] == [account.key, challenge_id]
    except (BadSignature, SignatureExpired, TypeError, ValueError):
        is_ours = False
    if not is_ours or int.from_bytes(digest, "big") >> (256 - question["bits"]) or cache.get(used):
        raise Refused("Your browser has to prove that it is one. Please try again.", 403, "work", **question)
    cache.set(used, 1, timeout=VALID)

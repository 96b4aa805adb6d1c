"""What an answer of stackd means: for players a key and a sentence, for the worker whether to try again.

Knows nothing of CTFd or the database. The players' pages have a text for each key (``assets/locale``); the sentence is
stackd's own, for a key that they do not know. stackd's ``error`` and ``detail`` name configuration keys and ids: they go to
organisers only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LATER = ("label_limit_reached", "stack_creating")
"""Codes of what may succeed later although the answer has no Retry-After."""
LONGEST_PAUSE = 15
"""Seconds that the worker waits at most between two attempts, whatever ``Retry-After`` says."""


@dataclass(frozen=True)
class Verdict:
    """A reason: its key, the sentence for players, and whether the same request may succeed later."""

    key: str
    sentence: str = ""
    retry: bool = False


BROKEN = Verdict("broken")


def verdict(status: int, code: str = "", player_message: str = "") -> Verdict:
    """What a refusal means; the status 0 is no answer."""
    retry = status in (0, 429) or status >= 500 or code in LATER
    if status in (401, 403):
        return Verdict("closed")
    if code and player_message:
        return Verdict(code, player_message, retry)
    return Verdict("silent", retry=True) if retry else BROKEN


def phase(stack: Mapping[str, Any]) -> str:
    """What is being done for a stack that starts: find a place, prepare it there, or pull the image again; "" for others."""
    if stack.get("status") != "creating":
        return ""
    if stack.get("problem"):
        return "pull_again"
    return "prepare" if stack.get("node_id") else "place"


def trouble(stack: Mapping[str, Any]) -> Mapping[str, Any]:
    """What stackd says is wrong with a stack that does not start; empty if nothing is."""
    return {} if stack.get("status") == "creating" else stack.get("problem") or {}


def member(message: str) -> str:
    """The member of a stack of several pods that stackd's message is about, with or without its reason before it:
    ``Error: container db/app ended …``; "" for the first pod."""
    found = re.match(r"(?:\w+: )?(?:container ([a-z0-9-]+)/|member ([a-z0-9-]+): )", message)
    return (found[1] or found[2]) if found else ""


def pause(attempts: int, retry_after: int = 0) -> int:
    """Seconds until the next attempt, after so many."""
    return min(max(retry_after, 2 ** min(attempts, 4) // 2), LONGEST_PAUSE)


def diagnosis(status: int, sentence: str, code: str = "") -> str:
    """What is wrong, for organisers who test the connection."""
    what = {
        "labels_required": "Limits: stackd requires other labels",
        "templates_only": "Template: the key creates stacks from templates only",
        "template_not_found": "Template: there is none of this name for this key",
    }.get(code) or {
        0: "Address: no answer. Check the URL, and that CTFd's machine reaches it",
        401: "Key: stackd does not accept it. Check STACKD_KEY",
        403: "Scope: the key may not do this. It needs the scope tenant or admin",
        400: "Request",
        409: "Limits: a limit of stackd is reached",
        429: "Limits: stackd gets too many requests",
        503: "Capacity: stackd cannot create a stack now",
    }.get(status, f"stackd answered {status}")
    return f"{what} ({sentence})" if sentence else what

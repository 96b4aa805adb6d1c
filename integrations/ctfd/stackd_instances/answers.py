"""What an answer of stackd means: for the player in a sentence, for the worker whether to try again.

Knows nothing of CTFd or the database. stackd's own sentences name configuration keys and ids: they go to the log.
"""

from __future__ import annotations

from dataclasses import dataclass

BROKEN = "The organisers have to look at this challenge. Please tell them."
CLOSED = "Instances cannot be started at the moment. Please tell the organisers."
SILENT = "The instance server does not answer. Please try again in a minute."
FULL = "There is no room for your instance at the moment. Please try again in a minute."
BUSY = "Too many instances start at the moment. Please try again in a minute."
LIMIT = "You have as many instances as you may. Stop one first."
LONGEST = "Your instance cannot be extended any further."
STATE = "Your instance cannot do this now. Stop it and start a new one."
GONE = "Your instance has ended."

LONGEST_PAUSE = 15
"""Seconds that the worker waits at most between two attempts, whatever ``Retry-After`` says."""


@dataclass(frozen=True)
class Verdict:
    """``retry``: the same request may succeed later. ``sentence`` may be shown to players."""

    sentence: str
    retry: bool = False


REFUSALS = {
    "create": {400: Verdict(BROKEN), 404: Verdict(BROKEN), 409: Verdict(LIMIT, retry=True)},
    "extend": {400: Verdict(LONGEST), 404: Verdict(GONE), 409: Verdict(STATE)},
    "restart": {404: Verdict(GONE), 409: Verdict(STATE)},
}
EVERYWHERE = {
    0: Verdict(SILENT, retry=True),
    401: Verdict(CLOSED),
    403: Verdict(CLOSED),
    429: Verdict(BUSY, retry=True),
    503: Verdict(FULL, retry=True),
}


def verdict(action: str, status: int, player_message: str = "") -> Verdict:
    """What a refusal with this status means; 0 is no answer. stackd's own message for players, if there is one, comes first."""
    found = REFUSALS.get("extend" if action == "grant" else action, {}).get(status) or EVERYWHERE.get(status)
    if found is None:
        found = Verdict(SILENT, retry=True) if status >= 500 else Verdict(BROKEN)
    return Verdict(player_message, found.retry) if player_message else found


def pause(attempts: int, retry_after: int = 0) -> int:
    """Seconds until the next attempt, after so many."""
    return min(max(retry_after, 2 ** min(attempts, 4) // 2), LONGEST_PAUSE)


def diagnosis(status: int, sentence: str, code: str = "") -> str:
    """What is wrong, for organisers who test the connection."""
    what = {
        "labels_required": "Limits: stackd requires other labels",
        "templates_only": "Pod spec: the key creates stacks from templates only",
        "template_not_found": "Templates: there is no such template",
    }.get(code) or {
        0: "Address: no answer. Check the URL, and that CTFd's machine reaches it",
        401: "Key: stackd does not accept it. Check STACKD_KEY",
        403: "Scope: the key may not do this. It needs the scope tenant or admin",
        400: "Template or pod spec",
        409: "Limits: a limit of stackd is reached",
        429: "Limits: stackd gets too many requests",
        503: "Capacity: stackd cannot create a stack now",
    }.get(status, f"stackd answered {status}")
    return f"{what} ({sentence})" if sentence else what

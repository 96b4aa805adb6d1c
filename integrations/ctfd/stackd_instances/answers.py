"""What an answer of stackd means: for players a key and a sentence, for the worker whether to try again.

Knows nothing of CTFd or the database. Keys are translated by the players' pages (``assets/locale``); the sentences here are
for pages without the key. stackd's ``error`` and ``detail`` name configuration keys and ids: they go to organisers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXTS = {
    "broken": "The organisers have to look at this challenge. Please tell them.",
    "closed": "Instances cannot be started at the moment. Please tell the organisers.",
    "silent": "The instance server does not answer. Please try again in a minute.",
    "no_room": "There is no room for your instance at the moment. Please try again in a minute.",
    "busy": "Too many instances start at the moment. Please try again in a minute.",
    "limit": "You have as many instances as you may. Stop one first.",
    "no_more_extensions": "Your instance cannot be extended any further.",
    "state": "Your instance cannot do this now. Stop it and start a new one.",
    "ports_changed": "The challenge has changed. Stop your instance and start a new one.",
    "gone": "Your instance has ended.",
    "image": "This challenge's image cannot be loaded. The organisers have to look at it. Please tell them.",
    "config": "This challenge cannot be started as it is. The organisers have to look at it. Please tell them.",
    "crash": "Your instance has crashed. Restart it, or stop it and start a new one.",
    "memory": "Your instance ran out of memory. Restart it, or stop it and start a new one.",
    "ended": "Your instance has ended by itself. Restart it, or stop it and start a new one.",
    "node": "Your instance's machine is gone. Restart it, or stop it and start a new one.",
    "failed": "Your instance has stopped working. Restart it, or stop it and start a new one.",
    "expired": "Your instance has ended: its time was over.",
    "lost": "Your instance is gone. Start a new one.",
    "organiser": "The organisers have stopped your instance.",
    "event_over": "Your instance has ended with the event.",
    "solved": "Your instance was stopped: the challenge is solved.",
    "shared": "This challenge's instance does not work at the moment. It is being started again.",
    "replaced": "Your instance was stopped to start another one.",
}
"""A problem's sentence, by its key."""
HOPELESS = {"image", "config", "broken", "closed", "shared"}
"""Problems that no restart ends."""
REASONS = {
    **dict.fromkeys(("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"), "image"),
    **dict.fromkeys(("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"), "config"),
    **dict.fromkeys(("CrashLoopBackOff", "Error"), "crash"),
    "OOMKilled": "memory", "Completed": "ended", "NodeDeleted": "node",
}  # fmt: skip
"""The key of a stack's ``status_reason``."""
OF_STACKS = {*REASONS.values(), "failed"}
"""Problems that are over once the stack is well."""
LONGEST_PAUSE = 15
"""Seconds that the worker waits at most between two attempts, whatever ``Retry-After`` says."""


@dataclass(frozen=True)
class Verdict:
    """``retry``: the same request may succeed later. ``message`` is stackd's own for players, if there is one."""

    key: str
    retry: bool = False
    message: str = ""

    @property
    def sentence(self) -> str:
        """What players may read."""
        return self.message or TEXTS[self.key]


REFUSALS = {
    "create": {400: Verdict("broken"), 404: Verdict("broken"), 409: Verdict("limit", retry=True)},
    "extend": {400: Verdict("no_more_extensions"), 404: Verdict("gone"), 409: Verdict("state")},
    "restart": {404: Verdict("gone"), 409: Verdict("state")},
}
CODES = {"template_ports_changed": Verdict("ports_changed"), "stack_creating": Verdict("busy", retry=True)}
EVERYWHERE = {
    0: Verdict("silent", retry=True),
    401: Verdict("closed"),
    403: Verdict("closed"),
    429: Verdict("busy", retry=True),
    503: Verdict("no_room", retry=True),
}


def verdict(action: str, status: int, code: str = "", player_message: str = "") -> Verdict:
    """What a refusal means; the status 0 is no answer. What stackd itself says to players comes first."""
    of_action = REFUSALS.get("extend" if action == "grant" else action, {})
    found = CODES.get(code) or of_action.get(status) or EVERYWHERE.get(status)
    if found is None:
        found = Verdict("silent", retry=True) if status >= 500 else Verdict("broken")
    return Verdict(code or found.key, found.retry, player_message) if player_message else found


def failure(stack: Mapping[str, Any]) -> str:
    """The key of why a stack is not well; "" if it is, or still starts."""
    if stack.get("status") in ("creating", "running"):
        return ""
    return REASONS.get(str(stack.get("status_reason")), "ended" if stack.get("status") == "stopped" else "failed")


def phase(stack: Mapping[str, Any]) -> str:
    """What is being done for a stack that starts: find a place, prepare it there, or pull the image again; "" for others."""
    if stack.get("status") != "creating":
        return ""
    if REASONS.get(str(stack.get("status_reason"))) == "image":
        return "pull_again"
    return "prepare" if stack.get("node_id") else "place"


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

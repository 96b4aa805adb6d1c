"""What a stack is to people: where it is reached, what is wrong with it, and what it is called.

Every page, answer and program shows these; none works them out again. Pure: all of it follows from the row.
"""

from __future__ import annotations

from typing import Final

from stackd.codes import for_players
from stackd.contract import Address, Problem, ProblemKey, host_and_port
from stackd.kube.records import POD_DELETED
from stackd.model import CHECK_FAILED, NOT_READY, PortMapping, RoutedPort, Stack, StackStatus
from stackd.store import STOPPED_BY_USER

SCHEMES: Final = {80: "http", 8080: "http", 443: "https", 8443: "https"}
"""By container port: what a browser is offered as a link."""

REASONS: Final[dict[str, ProblemKey]] = {
    **dict.fromkeys(("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"), "image"),
    **dict.fromkeys(
        ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"), "config"
    ),
    **dict.fromkeys(("CrashLoopBackOff", "Error"), "crash"),
    **dict.fromkeys(("Completed", POD_DELETED), "ended"),
    "OOMKilled": "memory",
    STOPPED_BY_USER: "stopped",
}
UNUSABLE: Final[dict[str, ProblemKey]] = {NOT_READY: "not_ready", "Terminating": "not_ready", CHECK_FAILED: "unhealthy"}
"""Reasons of a stack that runs."""

GUIDE: Final = "troubleshooting#"
ANY_PART: Final = "a-stack-does-not-run"
MEMORY: Final = "container--was-killed-because-it-ran-out-of-memory-exit-code-"
PROBLEMS: Final[dict[ProblemKey, tuple[str, str]]] = {
    "image": ("The image of {} cannot be loaded.", "image--cannot-be-pulled"),
    "config": ("{} cannot be started as it is set up.", "container--cannot-be-started"),
    "no_address": ("{} has no address.", "node_public_ip-null"),
    "pull": ("The image of {} could not be loaded. It is tried again.", "image--cannot-be-pulled"),
    "crash": ("{} has crashed.", "container--ended-with-exit-code-"),
    "memory": ("{} ran out of memory.", MEMORY),
    "ended": ("{} has ended by itself.", ANY_PART),
    "node": ("The machine of {} is gone.", "node--has-been-deleted"),
    "stopped": ("{} was stopped.", ANY_PART),
    "failed": ("{} has stopped working.", ANY_PART),
    "not_ready": ("{} does not answer at the moment.", "it-runs-but-its-address-does-not-answer"),
    "unhealthy": ("{} does not work as it should.", "a-check-fails"),
}
"""The sentence about each, and the part of the guide; some reasons have a part of their own."""

PARTS_OF_REASONS: Final = {
    "CrashLoopBackOff": "container--ends-again-and-again--restarts",
    POD_DELETED: "the-pod-is-gone-from-the-cluster-and-stackd-did-not-delete-it",
}
NO_RESTART: Final = {"pull": "", **dict.fromkeys(("image", "config", "no_address"), "Please tell {host}.")}
"""What no restart ends, and what a player does about it instead."""


def addresses_of(stack: Stack) -> tuple[Address, ...]:
    """Where its ports are reached. What has ended has given its ports back."""
    return () if stack.ended else tuple(filter(None, (_address(stack, port) for port in stack.ports)))


def _address(stack: Stack, port: PortMapping) -> Address | None:
    """None for a port of a node without an address."""
    if isinstance(port, RoutedPort):
        text, url = port.url or port.host, port.url
    elif stack.node_public_ip:
        text = host_and_port(stack.node_public_ip, port.node_port)
        scheme = SCHEMES.get(port.container_port) if port.protocol == "TCP" else None
        url = f"{scheme}://{text}" if scheme else ""
    else:
        return None
    return Address(port=port.container_port, protocol=port.protocol, text=text, url=url)


def problem_of(stack: Stack) -> Problem | None:
    """Why it cannot be used; None while it can, starts, or is being deleted."""
    key = _problem_key(stack)
    if key is None or stack.deleting_since is not None:
        return None
    sentence, part = PROBLEMS[key]
    what = sentence.format(f"{_part(stack)}{'this' if stack.shared else 'your'} instance")
    if key in NO_RESTART:
        remedy = NO_RESTART[key]
    else:
        remedy = "It is being started again." if stack.shared else "Restart it, or stop it and start a new one."
    message = for_players(f"{what[0].upper()}{what[1:]} {remedy}".strip())
    part = PARTS_OF_REASONS.get(stack.status_reason, part)
    restart = key not in NO_RESTART and not stack.shared
    return Problem(key=key, player_message=message, restart=restart, guide=f"{GUIDE}{part}")


def _part(stack: Stack) -> str:
    """Which of the stack's pods its message is about, if it is a member."""
    about = [
        one.name
        for one in stack.members
        if stack.status_message.startswith((f"member {one.name}:", f"container {one.name}/"))
    ]
    return f"the part {about[0]} of " if about else ""


def _problem_key(stack: Stack) -> ProblemKey | None:
    reason = stack.status_reason
    if stack.status is StackStatus.CREATING:
        return "pull" if REASONS.get(reason) == "image" else None
    if stack.status is StackStatus.RUNNING:
        return UNUSABLE.get(reason) or (None if stack.node_public_ip or stack.routed else "no_address")
    return "node" if stack.status is StackStatus.NODE_DELETED else REASONS.get(reason, "failed")


def title_of(stack: Stack) -> str:
    """What people call it; empty if it was not made from a template."""
    return (stack.offer.title if stack.offer is not None else "") or stack.template or ""

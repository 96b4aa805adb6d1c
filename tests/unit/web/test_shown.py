"""What a stack is to people follows from its row: where it is reached, what is wrong with it, and what it is called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stackd.model import PortMapping, Route, RoutedPort, StackStatus
from stackd.web.pages import anchor, files
from stackd.web.shown import PARTS_OF_REASONS, addresses_of, problem_of
from stackd.web.shown import PROBLEMS as SENTENCES_AND_PARTS
from tests.store.building import new_stack

V6 = "2001:db8::7"
PORTS = (
    PortMapping(container_port=80, protocol="TCP", node_port=31001),
    PortMapping(container_port=22, protocol="TCP", node_port=31002),
    PortMapping(container_port=443, protocol="UDP", node_port=31003),
    RoutedPort(container_port=8080, protocol="TCP", route=Route.HTTPS, host="web.example"),
    RoutedPort(container_port=5432, protocol="TCP", route=Route.TLS, host="db.example:443"),
)


def test_each_port_has_an_address_ready_to_be_used() -> None:
    found = addresses_of(stack(ports=PORTS))
    assert [(each.port, each.protocol, each.text, each.url) for each in found] == [
        (80, "TCP", f"[{V6}]:31001", f"http://[{V6}]:31001"),
        (22, "TCP", f"[{V6}]:31002", ""),
        (443, "UDP", f"[{V6}]:31003", ""),
        (8080, "TCP", "https://web.example", "https://web.example"),
        (5432, "TCP", "db.example:443", ""),
    ]
    named = [each.port for each in addresses_of(stack(ports=PORTS, node_public_ip=None))]
    assert named == [8080, 5432], "a node without an address has only names"
    assert addresses_of(stack(ports=PORTS, ended=True)) == ()


def stack(**changes: Any) -> Any:
    return replace(new_stack(status=StackStatus.RUNNING), **{"node_public_ip": V6, **changes})


PROBLEMS = [
    ("running", "", None, True), ("running", "ServiceChanged", None, True), ("running", "NotReady", "not_ready", True),
    ("running", "CheckFailed", "unhealthy", True), ("creating", "", None, True), ("creating", "ErrImagePull", "pull", False),
    ("failed", "ImagePullBackOff", "image", False), ("failed", "CreateContainerConfigError", "config", False),
    ("failed", "CrashLoopBackOff", "crash", True), ("failed", "OOMKilled", "memory", True),
    ("failed", "SomethingNew", "failed", True), ("stopped", "Completed", "ended", True),
    ("stopped", "PodDeleted", "ended", True), ("stopped", "StoppedByUser", "stopped", True),
    ("node_deleted", "NodeDeleted", "node", True),
]  # fmt: skip


@pytest.mark.parametrize(("status", "reason", "key", "restart"), PROBLEMS)
def test_what_is_wrong_has_a_key_and_a_sentence_that_says_what_a_player_can_do(
    status: str, reason: str, key: str | None, restart: bool
) -> None:
    def seen(**more: Any) -> Any:
        return problem_of(stack(status=StackStatus(status), status_reason=reason, **more))

    problem = seen()
    assert (problem and problem.key) == key
    assert seen(deleting_since=1) is None
    if problem is None:
        return
    assert (problem.restart, "Restart it" in problem.player_message) == (restart, restart)
    shared = seen(serving=0)
    assert (shared.key, shared.restart, "your" in shared.player_message.lower()) == (key, False, False)


def test_a_stack_without_an_address_has_a_problem_unless_it_has_names() -> None:
    nowhere = problem_of(stack(node_public_ip=None))
    assert nowhere is not None
    assert (nowhere.key, nowhere.restart) == ("no_address", False)
    assert problem_of(stack(ports=PORTS, node_public_ip=None)) is None


def test_each_problem_leads_to_its_part_of_the_guide() -> None:
    lines = files()["guide/troubleshooting.md"].body.decode().splitlines()
    headings = {anchor(line.lstrip("# ")) for line in lines if line.startswith("#")}
    assert {*(part for _, part in SENTENCES_AND_PARTS.values()), *PARTS_OF_REASONS.values()} <= headings

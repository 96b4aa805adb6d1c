"""Stacks that vanish or are left behind, so that reconciliation holds them back."""

from __future__ import annotations

from typing import Any

from stackd.embedded.resources import PODS
from stackd.lifecycle.gate import FREE_ENDINGS
from tests.harness import Harness, until

MANY = FREE_ENDINGS + 4
OURS = {"app.kubernetes.io/managed-by": "stackd", "stackd.io/instance": "default"}
LEFT_BEHIND = ("stack-00000000000000aa", "stack-00000000000000bb", "stack-00000000000000cc")


async def running(at: Harness, count: int, body: dict[str, Any] | None = None) -> list[str]:
    ids = [(await at.create(body))["stack_id"] for _ in range(count)]
    for stack_id in ids:
        await at.until_status(stack_id, "running")
    return ids


async def plan(at: Harness) -> dict[str, Any]:
    shown: dict[str, Any] = await at.get("/reconcile")
    return shown


async def until_held(at: Harness, count: int) -> list[str]:
    """Return the stacks that are held back, once there are ``count``, and a pass could release them. After a new list, they are
    proven gone once more, and none is held meanwhile."""
    held = (await until(lambda: plan(at), lambda seen: len(seen["held"]) == count))["held"]
    await at.passes(3)
    await until(lambda: plan(at), lambda seen: seen["held"] == held)
    await until(lambda: at.call("GET", "/readyz"), lambda seen: seen.json.get("held") == held)
    return list(held)


def remove_pods(at: Harness, ids: list[str]) -> None:
    for stack_id in ids:
        at.cluster.store.remove(at.cluster.store.of(PODS).get("stacks", stack_id))


async def vanish(at: Harness, ids: list[str]) -> None:
    """Delete all these pods at once: the daemon learns of it from the list after a cut connection."""
    await at.faults.refuse()
    remove_pods(at, ids)
    at.faults.compact()
    await at.faults.listen()


async def leave_behind(at: Harness, name: str, labels: dict[str, str] = OURS, **metadata: Any) -> None:
    """A pod, of stackd by its labels, that has no row and no record."""
    spec = {"containers": [{"name": "app", "image": "nginx"}]}
    await at.apply("pods", name, labels=labels | {"stackd.io/stack": name}, spec=spec, **metadata)


async def unverify(at: Harness) -> None:
    """Let the daemon verify the cluster again, and get no answer: its passes are blocked."""
    at.faults.add_fault(action="status", verb="get", resource="namespaces", code=500)
    at.faults.compact()
    at.faults.drop_watches()
    await until(lambda: plan(at), lambda seen: seen["blocked"])

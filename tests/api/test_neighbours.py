"""A stack that waits for the cluster costs no other stack anything: nobody else waits or fails (invariant 12)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.harness import Harness, eventually

MANY = 40
"""More than the loop has slots."""


async def test_deletes_that_wait_for_somebodys_finalizer_delay_no_other_stack(at: Harness) -> None:
    at.give_kubernetes(timeout=60)
    other, *held = await at.running(), *[(await at.create())["stack_id"] for _ in range(MANY)]
    for stack_id in held:
        await at.patch("services", f"svc-{stack_id}", {"metadata": {"finalizers": ["example.com/hold"]}})
    deletes = [asyncio.create_task(at.call("DELETE", f"/stacks/{stack_id}")) for stack_id in held]
    await eventually(lambda: len(at.rows("SELECT 1 FROM stacks WHERE status_reason = 'DeletePending'")) == MANY)
    await at.do("extend", other, ttl="1m")
    await at.do("stop", other)
    await at.delete(await at.running())
    assert not any(deleting.done() for deleting in deletes), "all of that was quicker than one of the deletes"
    for stack_id in held:
        await at.patch("services", f"svc-{stack_id}", {"metadata": {"finalizers": None}})
    assert {(await deleting).status for deleting in deletes} == {200}, "the event that it is gone is enough"
    assert await at.listed() == [other]


async def test_a_slow_answer_about_one_pod_makes_no_other_status_late(at: Harness) -> None:
    """Somebody deletes a pod, and Kubernetes takes long to say that it is gone."""
    slow, starting = await at.running(), await at.running()
    at.faults.add_fault(action="hang", verb="get", resource="pods", name=slow)
    await at.delete_object("pods", slow)
    await eventually(lambda: at.counts.in_flight)
    await at.kubectl("PATCH", f"/api/v1/namespaces/stacks/pods/{starting}/status", {"status": {"phase": "Failed"}})
    await at.until_status(starting, "failed")
    assert (await at.stack(slow))["status"] == "running", "its end is not proven yet"
    at.faults.clear()
    await at.until_status(slow, "stopped")


async def test_whoever_comes_while_a_try_fails_gets_one_at_once(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cause is over by then; the delay after a failure is for those for whom nobody waits."""
    stack_id = await at.running()
    fault: dict[str, Any] = {"verb": "patch", "resource": "services", "name": f"svc-{stack_id}"}
    at.faults.add_fault(action="status", code=403, count=3, **fault)
    monkeypatch.setattr("stackd.workqueue.RetryPolicy.delay", lambda self, tries: 3600.0)
    assert (await at.call("POST", f"/stacks/{stack_id}/restart")).status == 503
    at.faults.clear()
    await at.do("restart", stack_id)

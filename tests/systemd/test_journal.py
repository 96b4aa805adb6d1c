"""The journal: each stack's whole story, with fields, and nothing that is not worth a line."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stackd.embedded import Fault
from tests.harness import eventually, request_for
from tests.systemd.service import UNIT, Service

pytestmark = pytest.mark.systemd


async def test_a_stack_is_followed_through_the_journal_by_its_id(service: Service) -> None:
    reply = await service.call("POST", "/stacks", request_for("registry.example/fail-3"))
    stack_id = reply.json["stack_id"]

    async def failed() -> bool:
        return bool((await service.call("GET", f"/stacks/{stack_id}")).json["status"] == "failed")

    await eventually(failed)
    assert (await service.call("DELETE", f"/stacks/{stack_id}")).status == 200
    records = await _records(service, f"STACK_ID={stack_id}")
    story = [record["MESSAGE"] for record in records]
    wanted = ["created on", "POST /stacks 201", "failed (Error)", "ports given back", "removed (request)"]
    assert [next((line for line in story if part in line), part) for part in wanted] == [
        line for part in wanted for line in story if part in line
    ]
    assert {record["PRIORITY"] for record in records} == {"6"}
    assert {record["_TRANSPORT"] for record in records} == {"journal"}
    created = next(record for record in records if "created on" in record["MESSAGE"])
    assert created["REQUEST_ID"] == reply.headers["X-Request-ID"]
    assert created["CODE_FUNC"]


async def test_the_request_log_has_fields_and_neither_bodies_nor_keys(service: Service) -> None:
    await service.call("POST", "/stacks", {"target_port": [], "pod_spec": "secret-of-the-body"})
    await service.call("GET", "/stacks/stack-0000000000000000", headers={"X-Request-ID": "from-the-client.1"})
    records = await _records(service, f"_SYSTEMD_UNIT={UNIT}", "LOGGER=stackd.request")
    refused, missing = records[-2:]
    assert (refused["METHOD"], refused["ROUTE"], refused["STATUS"]) == ("POST", "/stacks", "400")
    assert (missing["ROUTE"], missing["STATUS"]) == ("/stacks/{stack_id}", "404")
    assert missing["REQUEST_ID"] == "from-the-client.1"
    assert missing["STACK_ID"] == "stack-0000000000000000"
    assert missing["KEY_NAME"] == "credential"
    assert float(missing["DURATION_MS"]) < 1000
    assert "secret-of-the-body" not in str(records)
    assert service.key not in str(records)


async def test_a_batch_job_is_followed_by_its_id(service: Service) -> None:
    stack_id = (await service.create())["stack_id"]
    job_id = (await service.call("POST", "/stacks/batch-delete", {"stack_ids": [stack_id, "stack-none"]})).json[
        "job_id"
    ]

    async def finished() -> bool:
        return bool((await service.call("GET", f"/stacks/batch-delete/{job_id}")).json["status"] == "completed")

    await eventually(finished)
    story = [record["MESSAGE"] for record in await _records(service, f"JOB_ID={job_id}")]
    assert any("queued, delete 2 stacks" in line for line in story)
    assert any(f"{stack_id}: deleted by" in line for line in story)
    assert any("completed: delete: 1 done, 1 not found, 0 failed of 2" in line for line in story)


async def test_nothing_is_said_while_nothing_happens(service: Service) -> None:
    await service.create()
    await service.until(lambda state: state["StatusText"].startswith("ready: 1 "))

    async def running() -> bool:
        return bool((await service.stacks())[0]["status"] == "running")

    await eventually(running)
    before = len(await service.said(f"_SYSTEMD_UNIT={UNIT}"))
    await asyncio.sleep(2.0)  # four reconciliation passes
    assert len(await service.said(f"_SYSTEMD_UNIT={UNIT}")) == before


async def test_an_outage_is_not_told_a_hundred_times(service: Service) -> None:
    assert service.cluster is not None
    service.cluster.faults.add(Fault(action="status", code=500))
    for _ in range(60):
        await service.call("GET", "/stacks/stack-0000000000000000")
    records = await _records(service, f"_SYSTEMD_UNIT={UNIT}", "LOGGER=stackd.request", "STATUS=404")
    latest = [r for r in records if r["_PID"] == (await service.state())["MainPID"]]
    assert 1 <= len(latest) <= 12


async def _records(service: Service, *matches: str) -> list[dict[str, Any]]:
    return await asyncio.to_thread(service.machine.journal, *matches)

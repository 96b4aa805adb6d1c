"""The audit: refusals, reloads, changes of keys and takeovers, in GET /activity and in the file of ``log.audit``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from stackd.keys import ApiKey, digest
from stackd.lifecycle import audit
from stackd.model import AuditKind
from tests.document import activity
from tests.harness import KEY, READ_KEY, Harness, Machine, eventually, harness, until

READER = ApiKey(name="grafana", sha256=digest(READ_KEY), scope="read")


async def noted(at: Harness, action: str, count: int = 1) -> list[dict[str, Any]]:
    """The entries of that kind, once there are so many."""
    return await until(lambda: activity(at, f"?action={action}"), lambda found: len(found) >= count)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


async def test_a_refusal_names_its_key_and_a_tenant_sees_its_own(at: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tenant = ApiKey(name="t", sha256=digest("t" * 20), scope="tenant", labels={"a": "b"})
    at.put_keys_in_force(*at.config.auth.keys, READER, tenant)
    for key, request in ((READ_KEY, "POST /stacks"), ("t" * 20, "GET /metrics"), ("sk-wrong", "GET /stats")):
        method, path = request.split()
        await at.call(method, path, key=key)
    found = await noted(at, "refused", 3)
    assert sorted((one["by"], one["message"]) for one in found) == [
        ("anonymous", "401 for GET /stats, from 127.0.0.1"),
        ("grafana", "403 for POST /stacks, from 127.0.0.1"),
        ("t", "403 for GET /metrics, from 127.0.0.1"),
    ]
    assert {(one["status"], one["total"], one.get("stack_id")) for one in found} == {("failed", 0, None)}
    logged = {(vars(one)["key_name"], vars(one)["status"]) for one in caplog.records if one.name == "stackd.request"}
    assert logged == {("grafana", 403), ("t", 403), ("anonymous", 401)}
    at.daemon.context.audit.note(AuditKind.RELOAD, "of the operator", by=tenant.principal)
    await noted(at, "reload")
    seen = (await at.get("/activity", key="t" * 20))["activity"]
    assert [(entry["by"], entry["action"]) for entry in seen] == [("t", "refused")]


async def test_refusals_that_are_repeated_are_counted(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_REFUSALS", 2)
    at.put_keys_in_force(*at.config.auth.keys, READER)
    for path in ("/stacks", "/stacks/stack-1/stop", "/stacks/stack-2/stop", "/stacks/stack-1/start"):
        for _ in range(3):
            assert (await at.call("POST", path, key=READ_KEY)).status == 403
    await noted(at, "refused", 3)
    at.daemon.context.audit.count()  # the minute is over
    counted = {(one["message"], one.get("count", 1)) for one in await noted(at, "refused", 6)}
    assert counted == {
        *(("403 for POST /stacks, from 127.0.0.1", count) for count in (1, 2)),
        *(("403 for POST /stacks/{stack_id}/stop, from 127.0.0.1", count) for count in (1, 5)),
        *(("403 for several requests, from several", count) for count in (1, 2)),
    }


async def test_what_a_line_says_is_found_however_long_ago_it_was(at: Harness) -> None:
    at.put_keys_in_force(*at.config.auth.keys, ApiKey(name="Ada Lovelace", sha256=digest("a" * 20), scope="admin"))
    stack_id, other_id = [(await at.create(labels={"team": team}))["stack_id"] for team in ("Reds", "blues")]
    await at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "1h"}, key="a" * 20)
    job = (await at.call("POST", "/stacks/batch", {"action": "stop", "stack_ids": [stack_id]}, key="a" * 20)).json
    at.daemon.context.audit.note(AuditKind.RELOAD, "reloaded: 100% of _templates_")
    await noted(at, "reload")

    async def found(*texts: str) -> list[tuple[str, str]]:
        entries = await activity(at, "?" + urlencode([("find", text) for text in texts]))
        return [(one["action"], one.get("stack_id") or one.get("job_id") or "") for one in entries]

    assert await found("lovelace") == [("stop", job["job_id"]), ("extend", stack_id)]
    assert await found("Lovelace", "EXT") == [("extend", stack_id)]
    assert await found("team=reds") == [("stop", job["job_id"]), ("extend", stack_id), ("create", stack_id)]
    assert await found(other_id[6:]) == await found("blue") == [("create", other_id)]
    assert await found(job["job_id"]) == [("stop", job["job_id"])]
    assert await found("100%") == await found("_templates_") == await found("%") == [("reload", "")], "no pattern"
    assert await found("lovelace", "blue") == []
    for wrong in ("", "x" * 101):
        assert (await at.call("GET", f"/activity?find={wrong}")).status == 400


@pytest.mark.parametrize("name", ["stackd", "anonymous", "cluster"])
def test_no_key_has_a_name_of_stackds_own(name: str) -> None:
    with pytest.raises(ValueError, match="is a name of stackd's own"):
        ApiKey(name=name, sha256=digest(KEY))


async def test_the_file_has_a_line_for_each_change(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.write_text('{"time": "earlier"}\n')
    async with harness(tmp_path, {"STACKD_LOG__AUDIT": str(file)}) as at:
        stack_id = await at.running()
        for _ in range(3):
            await at.get("/stats")
            await at.do("stop", stack_id)
        assert (await at.call("POST", "/stacks", key="sk-wrong")).status == 401
        await at.refused(400, "", "/stacks", {"pod_spec": "rubbish"})
        file.rename(tmp_path / "rotated.jsonl")
        at.daemon.context.audit.note(AuditKind.RELOAD, "after the rotation")
        at.daemon.context.audit.count()
        await at.delete(stack_id)
        await eventually(lambda: len(lines(file)) == 3)
    earlier, *kept = lines(tmp_path / "rotated.jsonl")
    assert earlier == {"time": "earlier"}, "it is appended to"
    fields = ("kind", "route", "status", "count", "by", "stack_id")
    assert [tuple(map(one.get, fields)) for one in kept] == [
        ("change", "/stacks", 201, 1, "environment", stack_id),
        ("change", "/stacks/{stack_id}/stop", 200, 1, "environment", stack_id),
        ("refused", "/stacks", 401, 1, "anonymous", None),
    ]
    after, stops, deleted = lines(file)
    assert (after["kind"], after["by"], after["message"]) == ("reload", "stackd", "after the rotation")
    assert (stops["route"], stops["count"], deleted["method"]) == ("/stacks/{stack_id}/stop", 2, "DELETE")
    assert file.stat().st_mode & 0o777 == 0o600


async def test_the_file_has_what_was_answered_503_and_is_done_later(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    async with harness(tmp_path, {"STACKD_LOG__AUDIT": str(file)}) as at:
        deleted, extended = [await at.running() for _ in range(2)]
        at.faults.add_fault(action="status", verb="delete|patch|update", resource="pods|services", code=403)
        await at.refused(503, "keeps trying", f"/stacks/{deleted}", method="DELETE")
        await at.refused(503, "is extended until", f"/stacks/{extended}/extend", {"ttl": "10m"})
        await at.refused(409, "", f"/stacks/{deleted}/extend", {"ttl": "10m"})
        at.faults.clear()
        await at.until_listed(1)
        await eventually(lambda: len(lines(file)) == 4)
    later = [(one["kind"], one["method"], one["stack_id"], one["status"]) for one in lines(file)[2:]]
    assert later == [("change", "DELETE", deleted, 503), ("change", "POST", extended, 503)]


async def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "audit.jsonl"
    async with harness(tmp_path, {"STACKD_LOG__AUDIT": str(file)}) as at:
        file.mkdir()
        await at.running()
        await eventually(lambda: "the audit file of log.audit cannot be written: Is a directory" in caplog.text)
        file.rmdir()
        await at.running()
        await eventually(lambda: lines(file))


async def test_keys_that_changed_while_stackd_was_stopped_are_noted_by_name_and_digest(vm: Machine) -> None:
    at = await vm.start()
    other = digest(READ_KEY).hex()
    assert await activity(at) == [], "the first keys are no change"
    (vm.folder / "more.toml").write_text(
        f'[[auth.keys]]\nname = "ctfd"\nsha256 = "{other}"\nscope = "tenant"\nlabels = {{ event = "a" }}\npod_specs = false\n'
    )
    at = await vm.start(config=vm.folder / "more.toml")
    (one,) = await noted(at, "keys")
    assert (one["by"], one["message"]) == ("stackd", f"new: ctfd (tenant event=a no pod specs, {other[:8]})")
    at = await vm.start()
    assert (await noted(at, "keys", 2))[0]["message"].startswith("gone: ctfd (tenant")

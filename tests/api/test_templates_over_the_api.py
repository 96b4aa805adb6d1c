"""Templates over the API: who may write which, what is refused at which line, and what becomes of pools and stacks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner

from stackd.cli import stackd
from stackd.keys import digest
from tests.api.scenes import CI, OTHER, POOLED, USER, config, put
from tests.harness import KEY, Client, Harness, Machine, Machines, eventually, harness, lose_file, until
from tests.templates import BODY, PLAIN, WEB, folder_with, shown, take_away


@pytest.fixture
async def at(vm: Machine) -> Harness:
    settings = folder_with(vm.folder, filed=PLAIN)
    vm.options |= {"settings": settings, "config": config(vm.folder, vm.options.pop("limits", ""))}
    return await vm.start()


@pytest.fixture
def ci(at: Harness) -> Client:
    return Client(session=at.session, url=at.url, key=CI)


@pytest.fixture
def user(at: Harness) -> Client:
    return Client(session=at.session, url=at.url, key=USER)


@pytest.fixture
def other(at: Harness) -> Client:
    return Client(session=at.session, url=at.url, key=OTHER)


async def refused(at: Client, name: str, text: str, status: int, code: str) -> list[tuple[str, int | None, str]]:
    """The reasons of a PUT that has to be refused with this status and code."""
    reply = await put(at, name, text)
    assert (reply.status, reply.code) == (status, code), reply.text
    return reply.reasons if status == 400 else [("", None, reply.error)]


async def test_a_template_is_written_read_used_changed_and_deleted(at: Harness, ci: Client, vm: Machine) -> None:
    reply = await put(ci, "web-1", WEB)
    assert (reply.status, reply.json["source"], reply.json["written_by"]) == (201, "api", "ci")
    one = await ci.get("/templates/web-1")
    assert (one["text"], one["version"]) == (WEB, reply.json["version"])
    assert one | {"text": ""} == reply.json | {"text": "", "written_at": one["written_at"]}
    again = await put(ci, "web-1", WEB)
    assert (again.status, again.json["written_at"]) == (200, reply.json["written_at"]), "the same text changes nothing"
    made = await ci.post("/stacks", BODY, 201)
    assert (made["template"], len(made["values"])) == ("web-1", 2)
    changed = await put(at, "web-1", WEB.replace("ttl: 1h", "ttl: 2h"))
    assert (changed.status, changed.json["ttl"], changed.json["written_by"]) == (200, "2h", "environment")
    assert changed.json["version"] != reply.json["version"]
    for key, count in ((at, 2), (ci, 1)):
        await until(partial(key.get, "/activity?action=template"), lambda seen, n=count: len(seen["activity"]) == n)  # type: ignore[misc]
    at = await vm.start()
    assert (await shown(at))["web-1"]["version"] == changed.json["version"], "it outlives a restart"
    gone = await at.call("DELETE", "/templates/web-1")
    assert (gone.status, gone.json) == (200, {"deleted": True, "name": "web-1"})
    assert (await at.call("DELETE", "/templates/web-1")).code == "no_such_template"
    assert (await at.call("GET", "/templates/web-1")).status == 404
    await at.do("restart", made["stack_id"])
    await at.until_status(made["stack_id"], "running")


async def test_the_mistakes_of_a_text_are_those_of_a_file(at: Harness) -> None:
    text = "ttll: 1h\n" + WEB.replace("name: app", "name: app\n      imagee: x")
    places = [place[:2] for place in await refused(at, "web-1", text, 400, "invalid_template")]
    assert places == [("ttll", 1), ("pod.spec.containers[0].imagee", 17)]
    assert (await refused(at, "web-1", "a: [\n", 400, "invalid_template"))[0][1] == 2
    assert (await at.call("PUT", "/templates/web-1", b"\xff")).code == "invalid_template"
    assert (await put(at, "Web_1", WEB)).code == "invalid_request"
    await refused(at, "web-1", WEB + "#" * (1 << 17), 413, "request_too_large")
    assert list(await shown(at)) == ["filed"]


async def test_a_tenant_writes_within_its_names_and_others_do_not(at: Harness, ci: Client, user: Client) -> None:
    for key, name in ((ci, "db-1"), (user, "web-1")):
        await refused(key, name, PLAIN, 403, "permission_denied")
        assert (await key.call("DELETE", f"/templates/{name}")).status == 403
    assert (await put(ci, "web-1", PLAIN)).status == 201
    assert "text" not in await user.get("/templates/web-1")
    assert "text" in await at.get("/templates/filed"), "an admin reads those of files"
    assert [(await key.get("/key"))["templates_write"] for key in (at, ci, user)] == [True, True, False]
    assert (await user.post("/stacks", BODY, 201))["template"] == "web-1"


async def test_only_its_owner_and_an_admin_change_a_template(at: Harness, ci: Client, other: Client) -> None:
    assert (await put(ci, "web-1", PLAIN)).status == 201
    assert (await put(at, "web-2", PLAIN + "shared: true\n")).status == 201
    for name, owner in (("web-1", "ci"), ("web-2", "environment")):
        ((_, _, why),) = await refused(other, name, POOLED, 403, "permission_denied")
        assert owner in why
        assert (await put(other, name, POOLED, "?dry_run=true")).status == 403
        assert (await other.call("DELETE", f"/templates/{name}")).status == 403
        assert "text" not in await other.get(f"/templates/{name}")
    assert (await ci.call("DELETE", "/templates/web-2")).status == 403, "nor the shared stack that the operator keeps"
    assert (await ci.get("/templates/web-1"))["text"] == PLAIN
    assert (await put(at, "web-1", POOLED)).status == 200
    assert (await put(ci, "web-1", PLAIN)).status == 403, "what an admin has written is the operator's"
    assert (await at.call("DELETE", "/templates/web-1")).status == 200
    assert (await put(other, "web-1", PLAIN)).status == 201


async def test_what_a_key_has_written_that_was_replaced_belongs_to_those_who_may_write_the_name(
    at: Harness, ci: Client, other: Client, vm: Machine
) -> None:
    await put(ci, "web-1", PLAIN)
    path = config(vm.folder)
    path.write_text(path.read_text().replace(digest(CI).hex(), digest("sk-rotated-0123456789ab").hex()))
    at = await vm.start()
    rotated = Client(session=at.session, url=at.url, key="sk-rotated-0123456789ab")
    assert (await put(rotated, "web-1", PLAIN)).status == 200
    other = Client(session=at.session, url=at.url, key=OTHER)
    assert (await put(other, "web-1", PLAIN)).status == 403, "it is the new key's now"


async def test_a_tenant_gains_no_right_by_a_template(at: Harness, ci: Client) -> None:
    plain = PLAIN.replace("labels: {challenge: web-1, kind: web}\n", "")
    for more, path in (
        ("policy: {run_as_user: true}", "policy"),
        ("policy: {add_pull_secrets: [registry]}", "policy"),
        ("prepull: true", "prepull"),
        ("shared: true", "shared"),
        ("check: {image: nginx:stable}", "check"),
        ("network: {egress: internet}", "network.egress"),
        ("network: {egress: [192.0.2.0/24]}", "network.egress"),
        ("labels: {Event: user}", "labels"),
    ):
        ((where, line, _),) = await refused(ci, "web-1", f"{plain}{more}\n", 400, "invalid_template")
        assert (where, line) == (path, 1 + plain.count("\n")), more
        assert (await put(at, "web-1", f"{plain}{more}\n", "?dry_run=true")).status == 200, "the operator may"
    assert (await put(ci, "web-2", PLAIN + "network: {egress: none}\n")).status == 201
    assert sorted(await shown(at)) == ["filed", "web-2"]


@pytest.mark.stackd(limits="templates_per_key = 2\npool_per_key = 3")
async def test_a_tenant_has_a_budget_and_the_operator_has_none(at: Harness, ci: Client) -> None:
    assert (await put(ci, "web-1", POOLED)).status == 201
    await refused(ci, "web-2", POOLED, 409, "template_limit_reached")
    assert (await put(ci, "web-2", PLAIN)).status == 201
    await refused(ci, "web-3", PLAIN, 409, "template_limit_reached")
    assert (await put(ci, "web-2", PLAIN + "pool: 1\n")).status == 200
    assert (await put(at, "web-3", PLAIN + "pool: 9\n")).status == 201
    await ci.call("DELETE", "/templates/web-1")
    assert (await put(ci, "web-4", PLAIN)).status == 201


async def test_the_text_of_a_tenants_templates_has_a_budget(at: Harness, ci: Client) -> None:
    replies = [await put(ci, f"web-{number}", PLAIN + "# " + "x" * 120_000) for number in range(9)]
    assert [reply.status for reply in replies] == [201] * 8 + [409]


async def test_a_name_belongs_to_a_file_or_to_the_api(
    at: Harness, vm: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    for method in ("PUT", "DELETE"):
        reply = await at.call(method, "/templates/filed", PLAIN.encode() if method == "PUT" else None)
        assert (reply.status, reply.code) == (409, "template_of_a_file")
    await put(at, "web-1", POOLED)
    vm.options["edited"] = {}
    at = await vm.start()
    folder_with(vm.folder, web_1=WEB)
    await reloaded(at, lambda seen: seen["web-1"]["source"] == "file")
    (problem,) = (await at.get("/templates"))["problems"]
    assert (problem["name"], problem["problem"]) == ("web-1", "shadowed")
    assert problem["message"] in caplog.text
    env = vm.options["settings"] | {"STACKD_CLUSTER__MODE": "embedded", "STACKD_AUTH__KEY": KEY}
    env |= {"STACKD_STATE__PATH": str(vm.folder / "stackd.db")}
    result = await asyncio.to_thread(CliRunner(env=env).invoke, stackd, ["check"])
    assert problem["message"] in result.stderr, "and `stackd check` says so"
    await at.until_metric("stackd_config_reload_successful", 1)
    at = await vm.start()
    assert (await shown(at))["web-1"]["source"] == "file", "no tenant keeps a stackd from starting"
    take_away(vm.folder, "web-1")
    await reloaded(at, lambda seen: seen["web-1"]["source"] == "api")
    folder_with(vm.folder, web_1=WEB)
    at = await vm.start()
    assert (await at.call("DELETE", "/templates/web-1")).status == 200
    assert (await shown(at))["web-1"]["source"] == "file"
    assert "problems" not in await at.get("/templates")


async def test_a_file_with_the_name_of_a_template_of_the_api_does_not_keep_a_leaked_key(
    at: Harness, ci: Client, vm: Machine
) -> None:
    await put(ci, "web-1", PLAIN)
    vm.options["edited"] = {}
    at = await vm.start()
    folder_with(vm.folder, web_1=WEB)
    (vm.folder / "config.toml").write_text("")
    await reloaded(at, lambda seen: seen["web-1"]["source"] == "file")
    assert (await Client(session=at.session, url=at.url, key=CI).call("GET", "/templates")).status == 401


async def reloaded(at: Harness, expected: Callable[[Any], bool]) -> None:
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: shown(at), expected)


@pytest.mark.parametrize("how", ["by hand", "by hand, and the file, too", "stricter start", "stricter reload"])
async def test_absence_ends_nothing_that_stackd_keeps_of_a_template(vms: Machines, how: str) -> None:
    """A shared stack and a pool stay while their template is not in force, and everybody is told which is missing."""
    vm1 = await vms.start("vm1", edited={"STACKD_POLICY__IMAGES_DENY": '["nginx*"]'})
    await put(vm1, "notes", PLAIN + "shared: true\n")
    await put(vm1, "web-1", POOLED)
    await until(lambda: shown(vm1), lambda seen: seen["web-1"]["ready"] == 2 and seen["notes"]["shared_stack"])
    (stack_id,) = await vm1.listed()
    await vm1.until_status(stack_id, "running")
    before, at = await vm1.pods_and_services(), vm1
    if "by hand" in how:
        for name in await vm1.objects("configmaps"):
            await vm1.delete_object("configmaps", name)
        if "file" in how:
            await vms.stop("vm1")
            lose_file(vms.folder / "vm1")
            at = await vms.start("vm1")
    elif how == "stricter reload":
        os.kill(os.getpid(), signal.SIGHUP)
        await at.until_at_least("stackd_config_reload_timestamp_seconds", 1)
    else:
        await vms.stop("vm1")
        at = await vms.start("vm1", policy__images_deny='["nginx*"]')
    await at.until_ready()
    seen = await until(lambda: at.get("/templates"), lambda seen: len(seen.get("missing", [])) == 2)
    assert seen["missing"] == (await at.get("/readyz"))["missing_templates"] == ["notes", "web-1"]
    kinds = {one["name"]: one["problem"] for one in seen.get("problems", [])}
    kind = "missing" if "by hand" in how else "faulty"
    assert kinds == ({} if "too" in how else {"notes": kind, "web-1": kind})
    await at.refused(400, "template", "/stacks", BODY)
    await at.passes(3)
    assert await at.pods_and_services() == before
    if "stricter" not in how:
        await at.delete_object("pods", stack_id)
        await until(lambda: at.stack(stack_id), lambda seen: seen["pod_id"] == f"{stack_id}-1")


async def test_what_stackd_keeps_of_a_template_goes_with_its_removal_only(at: Harness, ci: Client, vm: Machine) -> None:
    async def gone() -> Harness:
        """A stackd with an empty file, and nobody knows any more whose the template was."""
        await at.delete_object("configmaps", "stackd-default-web-1")
        await vm.lose_file()
        return await vm.start()

    await put(at, "web-1", PLAIN + "shared: true\n")
    await until(lambda: shown(at), lambda seen: seen["web-1"]["shared_stack"])
    at = await gone()
    (stack_id,) = await at.listed()
    await until(lambda: at.get("/templates"), lambda seen: seen.get("missing") == ["web-1"])
    reply = await Client(session=at.session, url=at.url, key=CI).call("DELETE", "/templates/web-1")
    assert (reply.status, reply.code) == (404, "no_such_template"), "nobody knows whose it was"
    assert (await put(at, "web-1", PLAIN + "shared: true\n")).status == 201
    again = await until(lambda: shown(at), lambda seen: seen["web-1"]["shared_stack"])
    assert again["web-1"]["shared_stack"] == stack_id
    assert "missing" not in await at.get("/templates")
    at = await gone()
    await until(lambda: at.get("/templates"), lambda seen: seen.get("missing") == ["web-1"])
    assert await at.listed() == [stack_id]
    assert (await at.call("DELETE", "/templates/web-1")).status == 200
    await at.until_listed(0)
    assert "missing" not in await at.get("/templates")


@pytest.mark.stackd(server__shutdown_timeout="200ms")
async def test_a_removal_that_was_answered_holds_although_the_process_ends(at: Harness, vm: Machine) -> None:
    await put(at, "web-1", PLAIN + "shared: true\n")
    await until(lambda: shown(at), lambda seen: seen["web-1"]["shared_stack"])
    at.faults.add_fault(action="status", verb="delete", resource="pods", code=500)
    assert (await at.call("DELETE", "/templates/web-1")).status == 200
    at.faults.clear()
    at = await vm.start()
    await at.until_listed(0)


async def test_of_concurrent_writes_one_is_in_force_and_kept(at: Harness, vm: Machine) -> None:
    texts = [PLAIN.replace("ttl: 1h", f"ttl: {minutes}m") for minutes in range(10, 30)]
    replies = await asyncio.gather(*(put(at, "web-1", text) for text in texts))
    assert sorted(reply.status for reply in replies) == [200] * 19 + [201]
    last = (await shown(at))["web-1"]["ttl"]
    at = await vm.start()
    assert (await shown(at))["web-1"]["ttl"] == last


async def test_a_writer_that_leaves_has_written_all_or_nothing(at: Harness) -> None:
    with at.no_writing():
        leaving = asyncio.create_task(put(at, "web-1", PLAIN))
        await eventually(lambda: at.objects("configmaps"))  # and its row waits for the file
        leaving.cancel()
    await until(lambda: shown(at), lambda seen: "web-1" in seen)
    await eventually(lambda: at.rows("SELECT name FROM templates") == [("web-1",)])
    assert list(await at.objects("configmaps")) == ["stackd-default-web-1"]


async def test_a_lapsed_owner_and_a_standby_keep_nothing_that_they_have_not_acknowledged(
    at: Harness, vm: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackd.lifecycle.gate.FIRST_CONTACT_SECONDS", 0.3)
    standby_folder = vm.folder / "two"
    standby_folder.mkdir()
    async with harness(standby_folder, cluster=vm.cluster, host="vm2", wait=False) as standby:
        await standby.until_metric("stackd_standby", 1)
        reply = await put(standby, "web-1", PLAIN)
        assert (reply.status, reply.code, "Retry-After" in reply.headers) == (503, "not_owner", True)
        assert not standby.rows("SELECT * FROM templates")
    with at.without_lease("another stackd may own the stacks"):
        reply = await put(at, "web-1", PLAIN)
    assert (reply.status, "Retry-After" in reply.headers) == (503, True)

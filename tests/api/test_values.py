"""Generated values: whose is one that somebody has handed in, and who may read all of them."""

from __future__ import annotations

import pytest

from stackd.keys import ApiKey, digest
from tests.api.scenes import CI, OTHER, config
from tests.harness import READ_KEY, Client, Harness, Machine, until
from tests.templates import BODY, PLAIN, WEB, folder_with


@pytest.fixture
async def at(vm: Machine) -> Harness:
    settings = folder_with(vm.folder, web_1=WEB, plain=PLAIN)
    vm.options |= {"settings": settings, "config": config(vm.folder)}
    return await vm.start()


def with_key(at: Harness, key: str) -> Client:
    return Client(session=at.session, url=at.url, key=key)


async def found(at: Client, value: str) -> list[tuple[str, str, bool]]:
    """The stacks that have the value, the variable, and whether they are there."""
    seen = await at.post("/values/find", {"value": value}, 200)
    return [(one["stack_id"], one["name"], one["removed_at"] is None) for one in seen["found"]]


async def test_a_value_is_found_while_its_stack_is_there_and_after_it_has_ended(at: Harness, vm: Machine) -> None:
    mine = await at.create(BODY, labels={"player": "seat-7"})
    other = await at.create(BODY)
    flag = mine["values"]["FLAG"]
    assert await found(at, flag) == [(mine["stack_id"], "FLAG", True)]
    assert await found(at, flag[:-1]) == await found(at, "flag{}") == []
    await at.delete(mine["stack_id"])
    await until(at.listed, lambda seen: seen == [other["stack_id"]])
    await vm.stop()
    at = await vm.start()
    assert await found(at, flag) == [(mine["stack_id"], "FLAG", False)]
    (gone,) = (await at.post("/values/find", {"value": flag}, 200))["found"]
    assert gone["labels"]["player"] == "seat-7"
    assert flag not in (vm.folder / "stackd.db").read_bytes().decode("latin-1"), "only its digest is kept"


async def test_a_value_that_a_renewal_has_replaced_is_still_found(at: Harness, vm: Machine) -> None:
    mine, theirs = with_key(at, CI), with_key(at, OTHER)
    made = await mine.create(BODY)
    stack_id, flag = made["stack_id"], made["values"]["FLAG"]
    folder_with(vm.folder, web_1=WEB.replace("FLAG", "ANSWER"), plain=PLAIN)
    await at.reload_templates()
    await at.post(f"/stacks/{stack_id}/restart", {"template": "latest"}, 200)
    for seer in (at, mine):
        (seen,) = (await seer.post("/values/find", {"value": flag}, 200))["found"]
        assert (seen["stack_id"], seen["name"], seen["removed_at"], seen["renewed"]) == (stack_id, "FLAG", None, True)
    assert await found(theirs, flag) == []
    await mine.delete(stack_id)
    await until(at.listed, lambda seen: seen == [])
    for seer, has in ((at, [(stack_id, "FLAG", False)]), (mine, [(stack_id, "FLAG", False)]), (theirs, [])):
        assert await found(seer, flag) == has


async def test_a_tenant_finds_and_reads_its_own_only(at: Harness) -> None:
    mine, theirs = with_key(at, CI), with_key(at, OTHER)
    first, second = await mine.create(BODY), await theirs.create(BODY)
    for seer, has, lacks in ((mine, first, second), (theirs, second, first)):
        assert await found(seer, has["values"]["FLAG"]) == [(has["stack_id"], "FLAG", True)]
        assert await found(seer, lacks["values"]["FLAG"]) == []
        assert [one["values"] for one in (await seer.get("/values"))["stacks"]] == [has["values"]]
    await mine.delete(first["stack_id"])
    assert await found(theirs, first["values"]["FLAG"]) == []
    assert len(await found(at, first["values"]["FLAG"])) == len(await found(mine, first["values"]["FLAG"])) == 1


async def test_who_reads_all_values_is_in_the_audit_and_who_may_only_read_gets_none(at: Harness) -> None:
    made = await at.create(BODY)
    await at.create({"template": "plain"})
    shown = {name: made[name] for name in ("stack_id", "template", "labels", "values")}
    assert (await at.get("/values?template=web-1"))["stacks"] == [shown]
    (entry,) = (await until(lambda: at.get("/activity?action=values"), lambda seen: seen["activity"]))["activity"]
    assert entry["by"]
    at.put_keys_in_force(*at.config.auth.keys, ApiKey(name="grafana", sha256=digest(READ_KEY), scope="read"))
    for method, path, body in (("GET", "/values", None), ("POST", "/values/find", {"value": "x"})):
        assert (await at.call(method, path, body, key=READ_KEY)).status == 403
    for wrong in ({}, {"value": ""}, {"value": 7}, {"value": "x" * 2049}, {"value": "x", "more": 1}):
        assert (await at.call("POST", "/values/find", wrong)).status == 400

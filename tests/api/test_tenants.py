"""Two tenants share one stackd: each sees, changes and counts its own stacks, and learns nothing of the other's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stackd.keys import digest
from stackd.web.app import ROUTES
from tests.api import test_reconcile
from tests.api.test_events import Event, Stream, follow
from tests.api.test_openapi import matches
from tests.api.test_templates import PLAIN, folder_with
from tests.harness import Harness, Reply, eventually, harness, seed

A, B = "sk-tenant-a-0123456789abcdef", "sk-tenant-b-0123456789abcdef"
NO_STACK, NO_JOB = "stack-0000000000000000", "job-0000000000000000"
BATCH, STATUS = "/stacks/batch-delete", "/stacks/{stack_id}/status"
PARTS = {"page": "integrate", "folder": "docs", "file": "docs.js"}
BODIES: dict[str, Any] = {"/stacks/{stack_id}/extend": {"ttl": "1m"}, "/capacity": seed()}


def tenants(folder: Path) -> Path:
    """A configuration with two tenants, of which one may use some templates only."""
    config = folder / "config.toml"
    entry = '[[auth.keys]]\nname = "ctfd-{0}"\nsha256 = "{1}"\nscope = "tenant"\nlabels = {{ event = "{0}" }}\n'
    keys = entry.format("a", digest(A).hex()) + 'templates = ["web-*"]\n' + entry.format("b", digest(B).hex())
    config.write_text(f"{keys}[limits]\nstacks_per_label = {{ player = 1 }}\nrequired_labels = ['event']\n")
    return config


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Harness]:
    event = PLAIN.replace("{challenge: web-1, kind: web}", "{event: b, Event: b, kind: web}")
    settings = folder_with(tmp_path, web_1=event + "pool: 1\n", db=PLAIN + "pool: 1\n")
    async with harness(tmp_path, settings, config=tenants(tmp_path)) as ready:
        yield ready


async def create(at: Harness, key: str, **body: Any) -> dict[str, Any]:
    reply = await at.call("POST", "/stacks", (body if "template" in body else seed() | body), key)
    assert reply.status == 201, reply.text
    stack: dict[str, Any] = reply.json
    return stack


async def ids(at: Harness, key: str, query: str = "") -> list[str]:
    return [one["stack_id"] for one in (await at.call("GET", f"/stacks{query}", key=key)).json["stacks"]]


def shown(reply: Reply, name: str) -> tuple[int, str, dict[str, str]]:
    """An answer without what differs between any two, and without the name of what was asked for."""
    headers = {key: value for key, value in reply.headers.items() if key not in ("Date", "X-Request-ID")}
    return reply.status, reply.text.replace(name, "…"), headers


Check = Callable[[Harness, str, str], Awaitable[None]]


async def same_for_all(at: Harness, method: str, path: str) -> None:
    url = path.format_map(PARTS)
    assert (await at.call(method, url, BODIES.get(path), A, allow_redirects=False)).status in (200, 302)


async def refused(at: Harness, method: str, path: str) -> None:
    for verb in {method, "HEAD"} if method == "GET" else {method}:
        reply = await at.call(verb, path, key=A)
        assert reply.status == 403
        assert verb == "HEAD" or reply.error == f"the API key 'ctfd-a' is a tenant's, and {path} is the operator's"


async def hidden(at: Harness, method: str, path: str) -> None:
    """What is the other tenant's is answered as what does not exist, and stays as it is."""
    stack_id = (await create(at, A))["stack_id"]
    await at.until_status(stack_id, "running")
    job_id = (await at.call("POST", BATCH, {"stack_ids": [NO_STACK]}, A)).json["job_id"]
    before = (await at.stack(stack_id), (await at.call("GET", f"/stacks/{stack_id}/timeline")).json)
    url, nothing = path.format(stack_id=stack_id, job_id=job_id), path.format(stack_id=NO_STACK, job_id=NO_JOB)
    mine, none = (stack_id, NO_STACK) if "{stack_id}" in path else (job_id, NO_JOB)
    for verb in {method, "HEAD"} if method == "GET" else {method}:
        others = await at.call(verb, url, BODIES.get(path), B)
        unknown = await at.call(verb, nothing, BODIES.get(path), B)
        assert (others.status, shown(others, mine)) == (404, shown(unknown, none))
    assert (await at.stack(stack_id), (await at.call("GET", f"/stacks/{stack_id}/timeline")).json) == before
    own = await at.call("HEAD" if path.endswith("/events") else method, url, BODIES.get(path), A)
    assert own.status == 200


async def filtered(at: Harness, method: str, path: str) -> None:
    """The answer shows and touches the caller's own stacks only."""
    theirs, mine = await create(at, A), await create(at, B)
    others = await ids(at, A)
    url = f"{path}?label=event" if method == "DELETE" else path
    if path == "/events":
        async with follow(at, path, key=B) as stream:
            await extend(at, A, theirs)
            await extend(at, B, mine)
            assert (await stream.expect("hello")).data
            assert (await stream.expect("stack")).data["stack_id"] == mine["stack_id"]
        return
    both = {"stack_ids": [theirs["stack_id"], mine["stack_id"]]}
    bodies = {BATCH: both, "/stacks/batch": {"action": "delete", **both}, "/stacks": seed()}
    reply = await at.call(method, url, bodies.get(path) if method == "POST" else None, B)
    assert reply.status < 300
    assert theirs["stack_id"] not in reply.text
    if reply.status == 202:
        assert (await at.finished_job(reply.json["job_id"]))["deleted"]
        assert mine["stack_id"] not in await ids(at, B)
    assert await ids(at, A) == others


TABLE: dict[Check, str] = {
    same_for_all: """
        GET /healthz, GET /readyz, GET /owner, GET /capacity, POST /capacity, GET /openapi.json, GET /, GET /docs,
        GET /docs/, GET /docs/{page}, GET /dashboard, GET /dashboard/, GET /favicon.ico, GET /static/{folder}/{file}
    """,
    refused: "GET /metrics, POST /takeover, GET /reconcile, POST /reconcile/confirm",
    hidden: """
        GET /stacks/{stack_id}, GET /stacks/{stack_id}/status, GET /stacks/{stack_id}/timeline,
        GET /stacks/{stack_id}/logs, GET /stacks/{stack_id}/events, POST /stacks/{stack_id}/extend,
        POST /stacks/{stack_id}/stop, POST /stacks/{stack_id}/start, POST /stacks/{stack_id}/restart,
        DELETE /stacks/{stack_id}, GET /stacks/batch-delete/{job_id}, GET /stacks/batch/{job_id}
    """,
    filtered: """
        GET /stacks, POST /stacks, DELETE /stacks, POST /stacks/batch-delete, POST /stacks/batch, GET /events, GET /stats,
        GET /templates, GET /activity, GET /key
    """,
}
"""How each route treats tenants."""
CHECKS = {line.strip(): check for check, lines in TABLE.items() for line in lines.split(",")}


async def test_every_route_keeps_the_tenants_apart(at: Harness) -> None:
    assert CHECKS.keys() == {f"{route.method} {route.path}" for route in ROUTES}, "each route has its line in TABLE"
    for route, check in CHECKS.items():
        try:
            await check(at, *route.split())
        except BaseException as error:
            error.add_note(route)
            raise


async def extend(at: Harness, key: str, stack: dict[str, Any]) -> None:
    assert (await at.call("POST", f"/stacks/{stack['stack_id']}/extend", {"ttl": "1m"}, key)).status == 200


async def test_a_tenants_stacks_get_its_labels_whatever_the_create_or_the_template_says(at: Harness) -> None:
    for body in ({}, {"labels": {"event": "a", "team": "7"}}, {"template": "web-1"}):
        stack = await create(at, A, **body)
        labels = (await at.stack(stack["stack_id"]))["labels"]
        assert {key: value for key, value in labels.items() if key.lower() == "event"} == {"event": "a"}
        assert stack["stack_id"] in await ids(at, A, "?label=event=a&limit=1000")
    for (name, value), path in zip(
        (("event", "b"), ("Event", "a"), ("event", "")), ("/stacks", "/stacks?dry_run=true", "/stacks"), strict=True
    ):
        reply = await at.call("POST", path, seed() | {"labels": {name: value}}, A)
        sentence = f"labels.{name}: this API key gives its stacks event=a; leave it out, or send the same"
        assert (reply.status, reply.reasons) == (400, [("labels", None, sentence)])
    assert (await at.call("POST", "/stacks?dry_run=true", seed(), A)).status == 200
    assert await ids(at, B) == []


async def until_pooled(at: Harness, template: str) -> None:
    running = f"SELECT 1 FROM stacks WHERE unassigned = 1 AND status = 'running' AND template = '{template}'"
    await eventually(lambda: at.rows(running))


async def test_a_tenant_uses_the_templates_of_its_key_only_and_counts_its_own_stacks(at: Harness) -> None:
    await until_pooled(at, "web-1")
    taken = await create(at, A, template="web-1")
    assert taken["status"] == "running", "it comes from the pool"
    pod = (await at.objects("pods"))[taken["stack_id"]]
    assert ((await at.stack(taken["stack_id"]))["labels"], pod["metadata"]["labels"]["label.stackd.io/event"]) == (
        {"event": "a", "kind": "web"},
        "a",
    )
    await create(at, B, template="db")
    listed = {}
    for key in (A, B):
        entries = (await at.call("GET", "/templates", key=key)).json["templates"]
        listed[key] = {one["name"]: sum(one["stacks"].values()) for one in entries}
    assert listed == {A: {"web-1": 1}, B: {"web-1": 0, "db": 1}}
    reply = await at.call("POST", "/stacks", {"template": "db"}, A)
    unknown = await at.call("POST", "/stacks", {"template": "no"}, A)
    assert (reply.status, reply.text.replace("db", "no")) == (400, unknown.text)


async def test_no_pool_of_a_template_that_a_tenant_may_not_use_serves_its_pod_spec(at: Harness) -> None:
    await until_pooled(at, "db")
    described = yaml.safe_load(PLAIN)
    body = {"target_port": described["target_port"], "pod_spec": yaml.safe_dump(described["pod"])}
    made = {key: await create(at, key, **body) for key in (A, B)}
    assert [made[key].get("template") for key in (A, B)] == [None, "db"]


async def test_the_same_player_of_another_tenant_is_another_one_and_is_never_named(at: Harness) -> None:
    body = {"labels": {"player": "7"}}
    theirs, mine = await create(at, A, **body), await create(at, B, template="web-1", **body)
    for path in ("/stacks", "/stacks?dry_run=true"):
        reply = await at.call("POST", path, seed() | body, B)
        assert (reply.status, reply.json["stack_id"]) == (409, mine["stack_id"])
        assert theirs["stack_id"] not in reply.text
    again = await at.call("POST", "/stacks", seed() | body | {"if_exists": "return"}, B)
    assert (again.status, again.json["stack_id"]) == (200, mine["stack_id"])
    both = await at.call("POST", "/stacks", seed() | {"labels": body["labels"] | {"event": "c"}})
    assert both.status == 409, "an admin's create counts the stacks of all"


async def test_an_idempotency_key_is_its_tenants_own(at: Harness) -> None:
    first = [await at.call("POST", "/stacks", seed(), key, headers={"Idempotency-Key": "one"}) for key in (A, B)]
    again = [await at.call("POST", "/stacks", seed(), key, headers={"Idempotency-Key": "one"}) for key in (A, B)]
    assert [one.text for one in first] == [one.text for one in again]
    assert [await ids(at, key) for key in (A, B)] == [[one.json["stack_id"]] for one in first]


async def test_others_ids_count_as_not_found_and_jobs_are_the_tenants_own(at: Harness) -> None:
    theirs, mine = [(await create(at, key))["stack_id"] for key in (A, B)]
    async with follow(at, key=A) as stream_a, follow(at, key=B) as stream_b:
        job_id = (await at.call("POST", BATCH, {"stack_ids": [theirs, NO_STACK, mine]}, B)).json["job_id"]
        job = await at.finished_job(job_id)
        assert (job["deleted"], job["not_found"], job["failed"]) == (1, 2, 0)
        assert (await stream_b.until("job", status="completed")).data == job
        await at.call("DELETE", f"/stacks/{theirs}", key=A)
        assert not [one for one in await events_until_deleted(stream_a) if one.kind == "job"]


async def test_the_labels_of_a_job_choose_the_tenants_own_stacks(at: Harness) -> None:
    theirs, _ = [await create(at, key, labels={"team": "7"}) for key in (A, B)]
    for labels, total in (({"event": "a"}, 0), ({"team": "7"}, 1), ({"event": "b"}, 0)):
        reply = await at.call("POST", "/stacks/batch", {"action": "delete", "labels": labels}, B)
        assert (reply.status, reply.json["total"]) == (202, total)
        assert (await at.finished_job(reply.json["job_id"]))["deleted"] == total
    assert await at.listed() == [theirs["stack_id"]]


async def events_until_deleted(stream: Stream) -> list[Event]:
    seen: list[Event] = []
    while not seen or seen[-1].kind != "deleted":
        event = await stream.next()
        assert event is not None
        seen.append(event)
    return seen


@pytest.mark.parametrize("query", ["", "?label=team=7"])
async def test_a_resumed_stream_has_the_tenants_own_changes_and_deletions_only(at: Harness, query: str) -> None:
    stacks = {key: [await create(at, key, labels={"team": "7"}) for _ in range(2)] for key in (A, B)}
    for stack in (*stacks[A], *stacks[B]):
        await at.until_status(stack["stack_id"], "running")
    async with follow(at, key=B) as stream:
        last = (await stream.expect("hello")).id
    for key in (A, B):
        await extend(at, key, stacks[key][1])
        await at.call("DELETE", f"/stacks/{stacks[key][0]['stack_id']}", key=key)
    async with follow(at, f"/events{query}", last, B) as stream:
        seen = await events_until_deleted(stream)
        assert {one.data.get("stack_id") for one in seen} - {None} == {one["stack_id"] for one in stacks[B]}
        await extend(at, A, stacks[A][1])
        await extend(at, B, stacks[B][1])
        assert (await stream.expect("stack")).data["stack_id"] == stacks[B][1]["stack_id"]


async def test_what_is_kept_of_a_deleted_stack_is_for_the_tenant_that_made_it(at: Harness) -> None:
    stack_id = (await create(at, A))["stack_id"]
    await at.until_status(stack_id, "running")
    assert (await at.call("DELETE", f"/stacks/{stack_id}", key=A)).status == 200
    for part in ("timeline", "logs"):
        path = f"/stacks/{stack_id}/{part}"
        assert [(await at.call("GET", path, key=key)).status for key in (A, B)] == [200, 404]
        others, unknown = [await at.call("GET", f"/stacks/{one}/{part}", key=B) for one in (stack_id, NO_STACK)]
        assert shown(others, stack_id) == shown(unknown, NO_STACK)


async def test_counts_pages_and_the_owner_tell_a_tenant_nothing_of_others(at: Harness) -> None:
    for key in (A, B, A, B, A):
        stack = await create(at, key)
        await at.until_status(stack["stack_id"], "running")
    stats = {key: (await at.call("GET", "/stats", key=key)).json for key in (A, B)}
    assert [stats[key]["total_stacks"] for key in (A, B)] == [3, 2]
    assert [stats[key]["used_node_ports"] for key in (A, B)] == [3, 2]
    assert [sum(stats[key]["node_distribution"].values()) for key in (A, B)] == [3, 2]
    assert [stats[key]["reserved_cpu_milli"] for key in (A, B)] == [300, 200]
    page = (await at.call("GET", "/stacks?limit=2", key=A)).json
    rest = (await at.call("GET", f"/stacks?limit=2&cursor={page['next_cursor']}", key=A)).json
    assert [one["stack_id"] for one in page["stacks"] + rest["stacks"]] == await ids(at, A)
    owner, for_all = [(await at.call("GET", "/owner", key=key)).json for key in (A, B)], await at.call("GET", "/owner")
    assert {name: value for name, value in owner[0].items() if value} == {"role": "owner", "may_change": True}
    assert owner[0].keys() == for_all.json.keys()
    matches("Owner", owner[0])
    matches("Stats", stats[A])
    assert len((await at.call("GET", "/stacks")).json["stacks"]) == 5, "an admin sees all"


async def test_a_stack_that_an_admin_labels_is_the_tenants_and_a_wait_ends_with_it(at: Harness) -> None:
    stack_id = (await at.create(seed() | {"labels": {"event": "a"}}))["stack_id"]
    assert (await ids(at, A), await ids(at, B)) == ([stack_id], [])
    path = STATUS.format(stack_id=stack_id) + "?wait=deleted&timeout=20s"
    waits = asyncio.create_task(at.call("GET", path, key=A))
    assert (await at.call("GET", path, key=B)).status == 404, "at once"
    assert (await at.call("DELETE", f"/stacks/{stack_id}", key=A)).status == 200
    assert (await waits).json == {"deleted": True, "stack_id": stack_id}


async def test_readyz_names_no_stacks_to_a_tenant_while_a_brake_is_on(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__REQUIRED_LABELS": "[]"}, config=tenants(tmp_path)) as at:
        stacks = await test_reconcile.running(at, test_reconcile.MANY)
        await test_reconcile.vanish(at, stacks)
        await test_reconcile.until_held(at, test_reconcile.MANY)
        reply = await at.call("GET", "/readyz", key=A)
        assert (reply.status, reply.json["status"], "stack-" in reply.text) == (503, "not ready", False)

"""Two tenants share one stackd: each sees, changes and counts its own stacks, and learns nothing of the other's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stackd.keys import ApiKey, digest
from stackd.play import ROUTES
from tests import brakes
from tests.document import matches
from tests.harness import Client, Harness, Reply, harness, request_for, seed
from tests.streams import Event, Stream, follow
from tests.templates import PLAIN, folder_with, until_pooled

A, B = "sk-tenant-a-0123456789abcdef", "sk-tenant-b-0123456789abcdef"
NO_STACK, NO_JOB = "stack-0000000000000000", "job-0000000000000000"
BATCH = "/stacks/batch-delete"
PARTS = {"page": "integrate", "folder": "docs", "file": "docs.js"}
BODIES: dict[str, Any] = {
    "POST /stacks/{stack_id}/extend": {"ttl": "1m"},
    "PATCH /stacks/{stack_id}": {"labels": {"team": "7"}},
    "POST /capacity": seed(),
}


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


@pytest.fixture
def a(at: Harness) -> Client:
    return Client(session=at.session, url=at.url, key=A)


@pytest.fixture
def b(at: Harness) -> Client:
    return Client(session=at.session, url=at.url, key=B)


def shown(reply: Reply, name: str) -> tuple[int, str, dict[str, str]]:
    """An answer without what differs between any two, and without the name of what was asked for."""
    headers = {key: value for key, value in reply.headers.items() if key not in ("Date", "X-Request-ID")}
    return reply.status, reply.text.replace(name, "…"), headers


Check = Callable[[Client, Client, str, str], Awaitable[None]]


async def same_for_all(a: Client, _: Client, method: str, path: str) -> None:
    reply = await a.call(method, path.format_map(PARTS), BODIES.get(f"{method} {path}"), allow_redirects=False)
    assert reply.status in (200, 302)


async def without_keys(a: Client, _: Client, method: str, path: str) -> None:
    """The routes of the sign-in read no key: they answer as they answer nobody."""
    with_key, without = [await a.call(method, path, key=key, allow_redirects=False) for key in (a.key, None)]
    assert (with_key.status, with_key.text) == (without.status, without.text)


async def refused(a: Client, _: Client, method: str, path: str) -> None:
    for verb in {method, "HEAD"} if method == "GET" else {method}:
        reply = await a.call(verb, path)
        assert reply.status == 403
        assert verb == "HEAD" or reply.code == "permission_denied"


async def unwritten(a: Client, b: Client, method: str, path: str) -> None:
    """A template that the tenant may not use does not exist for it; without ``templates_write`` it writes none."""
    others, unknown, theirs = [await a.call(method, path.format(template=one)) for one in ("db", "dc", "web-1")]
    if method == "GET":
        assert (others.status, theirs.status) == (404, 200)
        assert shown(others, "db") == shown(unknown, "dc")
    else:
        assert [one.status for one in (others, unknown, theirs)] == [403] * 3


async def hidden(a: Client, b: Client, method: str, path: str) -> None:
    """What is the other tenant's is answered as what does not exist, and stays as it is."""
    stack_id, job_id = await a.running(), await a.batch_delete(NO_STACK)
    before = (await a.stack(stack_id), await a.timeline(stack_id))
    url, nothing = path.format(stack_id=stack_id, job_id=job_id), path.format(stack_id=NO_STACK, job_id=NO_JOB)
    mine, none = (stack_id, NO_STACK) if "{stack_id}" in path else (job_id, NO_JOB)
    body = BODIES.get(f"{method} {path}")
    for verb in {method, "HEAD"} if method == "GET" else {method}:
        others, unknown = [await b.call(verb, one, body) for one in (url, nothing)]
        assert (others.status, shown(others, mine)) == (404, shown(unknown, none))
    assert (await a.stack(stack_id), await a.timeline(stack_id)) == before
    own = await a.call("HEAD" if path.endswith("/events") else method, url, body)
    assert own.status == 200 or own.code == "no_check"


async def filtered(a: Client, b: Client, method: str, path: str) -> None:
    """The answer shows and touches the caller's own stacks only."""
    theirs, mine = [(await one.create())["stack_id"] for one in (a, b)]
    others = await a.listed()
    url = f"{path}?label=event" if method == "DELETE" else path
    if path == "/events":
        async with follow(b, path) as stream:
            await a.do("extend", theirs, ttl="1m")
            await b.do("extend", mine, ttl="1m")
            assert (await stream.expect("hello")).data
            assert (await stream.expect("stack")).data["stack_id"] == mine
        return
    both = {"stack_ids": [theirs, mine]}
    bodies = {BATCH: both, "/stacks/batch": {"action": "delete", **both}, "/stacks": seed()}
    reply = await b.call(method, url, bodies.get(path) if method == "POST" else None)
    assert reply.status < 300
    assert theirs not in reply.text
    if reply.status == 202:
        assert (await b.finished_job(reply.json["job_id"]))["deleted"]
        assert mine not in await b.listed()
    assert await a.listed() == others


async def players(a: Client, _: Client, method: str, path: str) -> None:
    """A key opens none of the player's routes."""
    reply = await a.call(method, path.format(stack_id=NO_STACK), {"token": A}, headers={"X-Play": "1"})
    assert reply.status == (204 if method == "DELETE" and path == "/play/session" else 401)


async def apart(*_: object) -> None:
    """``test_links``, ``test_messages`` and ``test_values`` have what a tenant's links may do and whom its messages reach, and
    that no other tenant sees them or its values."""


TABLE: dict[Check, str] = {
    same_for_all: """
        GET /healthz, GET /readyz, GET /owner, GET /capacity, POST /capacity, GET /openapi.json, GET /, GET /docs,
        GET /docs/, GET /docs/{page}, GET /play, GET /play/, GET /dashboard, GET /dashboard/, GET /favicon.ico,
        GET /static/{folder}/{file}
    """,
    without_keys: "GET /auth/login, GET /auth/callback, POST /auth/logout",
    unwritten: "GET /templates/{template}, PUT /templates/{template}, DELETE /templates/{template}",
    refused: "GET /metrics, POST /takeover, GET /reconcile, POST /reconcile/confirm",
    hidden: """
        GET /stacks/{stack_id}, GET /stacks/{stack_id}/status, GET /stacks/{stack_id}/timeline,
        GET /stacks/{stack_id}/logs, GET /stacks/{stack_id}/events, POST /stacks/{stack_id}/extend,
        POST /stacks/{stack_id}/stop, POST /stacks/{stack_id}/start, POST /stacks/{stack_id}/restart,
        POST /stacks/{stack_id}/check, PATCH /stacks/{stack_id},
        DELETE /stacks/{stack_id}, GET /stacks/batch-delete/{job_id}, GET /stacks/batch/{job_id}
    """,
    filtered: """
        GET /stacks, POST /stacks, DELETE /stacks, POST /stacks/batch-delete, POST /stacks/batch, GET /events, GET /stats,
        GET /templates, GET /activity, GET /key
    """,
    players: "POST /play/session, DELETE /play/session, "
    + ", ".join(f"{one.method} {one.path}" for one in ROUTES if one.players),
    apart: """
        POST /links, GET /links, DELETE /links/{link_id}, GET /play/links/{link_id}, GET /play/links/{link_id}/{visitor},
        POST /messages, GET /messages, DELETE /messages/{message_id}, POST /values/find, GET /values
    """,
}
"""How each route treats tenants."""
CHECKS = {line.strip(): check for check, lines in TABLE.items() for line in lines.split(",")}


async def test_every_route_keeps_the_tenants_apart(a: Client, b: Client) -> None:
    assert CHECKS.keys() == {f"{route.method} {route.path}" for route in ROUTES}, "each route has its line in TABLE"
    for route, check in CHECKS.items():
        try:
            await check(a, b, *route.split())
        except BaseException as error:
            error.add_note(route)
            raise


async def test_a_tenants_stacks_get_its_labels_whatever_the_create_or_the_template_says(a: Client, b: Client) -> None:
    for body in (seed(), seed() | {"labels": {"event": "a", "team": "7"}}, {"template": "web-1"}):
        stack_id = (await a.create(body))["stack_id"]
        labels = (await a.stack(stack_id))["labels"]
        assert {key: value for key, value in labels.items() if key.lower() == "event"} == {"event": "a"}
        assert stack_id in [one["stack_id"] for one in (await a.get("/stacks?label=event=a&limit=1000"))["stacks"]]
    for name, value in (("event", "b"), ("Event", "a"), ("event", "")):
        for path in ("/stacks", "/stacks?dry_run=true"):
            reply = await a.refused(400, f"labels.{name}", path, seed() | {"labels": {name: value}})
            assert [path for path, *_ in reply.reasons] == ["labels"]
    await a.post("/stacks?dry_run=true", seed())
    assert await b.listed() == []


async def test_a_tenant_uses_the_templates_of_its_key_only_and_counts_its_own_stacks(
    at: Harness, a: Client, b: Client
) -> None:
    await until_pooled(at, "web-1")
    taken = await a.create({"template": "web-1"})
    assert taken["status"] == "running", "it comes from the pool"
    assert (await at.stack(taken["stack_id"]))["labels"] == {"event": "a", "kind": "web"}
    await b.create({"template": "db"})
    for one, listed in ((a, {"web-1": 1}), (b, {"web-1": 0, "db": 1})):
        entries = (await one.get("/templates"))["templates"]
        assert {entry["name"]: sum(entry["stacks"].values()) for entry in entries} == listed
    reply, unknown = [await a.refused(400, "", "/stacks", {"template": name}) for name in ("db", "no")]
    assert reply.text.replace("db", "no") == unknown.text


async def test_no_pool_of_a_template_that_a_tenant_may_not_use_serves_its_pod_spec(
    at: Harness, a: Client, b: Client
) -> None:
    await until_pooled(at, "db")
    described = yaml.safe_load(PLAIN)
    body = {"target_port": described["target_port"], "pod_spec": yaml.safe_dump(described["pod"])}
    assert [(await one.create(body)).get("template") for one in (a, b)] == [None, "db"]


async def test_the_same_player_of_another_tenant_is_another_one(at: Harness, a: Client, b: Client) -> None:
    labels = {"player": "7"}
    theirs, mine = await a.create(labels=labels), await b.create({"template": "web-1"}, labels=labels)
    for path in ("/stacks", "/stacks?dry_run=true"):
        reply = await b.refused(409, "", path, seed() | {"labels": labels})
        assert reply.json["stack_id"] == mine["stack_id"]
        assert theirs["stack_id"] not in reply.text
    again = await b.post("/stacks", seed() | {"labels": labels, "if_exists": "return"})
    assert again["stack_id"] == mine["stack_id"]
    # An admin's counts the stacks of all.
    await at.refused(409, "", "/stacks", seed() | {"labels": labels | {"event": "c"}})


async def test_a_restart_of_an_ended_stack_counts_its_tenants_own(a: Client, b: Client) -> None:
    seven = request_for("registry.example/exit0") | {"labels": {"player": "7"}}
    ended = (await a.post("/stacks", seven, 201))["stack_id"]
    await a.until_status(ended, "stopped")
    await b.create(labels={"player": "7"})
    await a.do("restart", ended)


async def test_others_ids_count_as_not_found_and_jobs_are_the_tenants_own(a: Client, b: Client) -> None:
    theirs, mine = [(await one.create())["stack_id"] for one in (a, b)]
    async with follow(a) as stream_a, follow(b) as stream_b:
        job = await b.finished_job(await b.batch_delete(theirs, NO_STACK, mine))
        assert (job["deleted"], job["not_found"], job["failed"]) == (1, 2, 0)
        assert (await stream_b.until("job", status="completed")).data == job
        await a.delete(theirs)
        assert not [one for one in await events_until_deleted(stream_a) if one.kind == "job"]


async def test_a_key_of_the_same_name_is_another_key(at: Harness, a: Client, b: Client) -> None:
    of_events = {"a": A, "b": B}.items()
    at.put_keys_in_force(
        *(ApiKey(name="ctfd", sha256=digest(one), scope="tenant", labels={"event": event}) for event, one in of_events)
    )
    key, gone = {"Idempotency-Key": "one"}, await a.running()
    job = await a.batch_delete(gone)
    await a.finished_job(job)
    assert (await b.call("GET", f"{BATCH}/{job}")).status == 404
    assert (await b.call("GET", f"/stacks/{gone}/timeline")).status == 404
    assert (await b.get("/activity?key=ctfd"))["activity"] == []
    assert {one["by"] for one in (await a.get("/activity?key=ctfd"))["activity"]} == {"ctfd"}
    ids = [(await one.post("/stacks", seed(), 201, headers=key))["stack_id"] for one in (a, b)]
    assert ids[0] != ids[1]


async def test_the_labels_of_a_job_choose_the_tenants_own_stacks(a: Client, b: Client) -> None:
    theirs, _ = [await one.create(labels={"team": "7"}) for one in (a, b)]
    for labels, total in (({"event": "a"}, 0), ({"team": "7"}, 1), ({"event": "b"}, 0)):
        job = await b.post("/stacks/batch", {"action": "delete", "labels": labels}, 202)
        assert (job["total"], (await b.finished_job(job["job_id"]))["deleted"]) == (total, total)
    assert (await a.listed(), await b.listed()) == ([theirs["stack_id"]], [])


async def events_until_deleted(stream: Stream) -> list[Event]:
    seen: list[Event] = []
    while not seen or seen[-1].kind != "deleted":
        event = await stream.next()
        assert event is not None
        seen.append(event)
    return seen


@pytest.mark.parametrize("query", ["", "?label=team=7"])
async def test_a_resumed_stream_has_the_tenants_own_changes_and_deletions_only(
    a: Client, b: Client, query: str
) -> None:
    (goes_a, stays_a), (goes, stays) = [[await one.running(labels={"team": "7"}) for _ in range(2)] for one in (a, b)]
    async with follow(b) as stream:
        last = (await stream.expect("hello")).id
    for one, stack_id, deleted in ((a, stays_a, goes_a), (b, stays, goes)):
        await one.do("extend", stack_id, ttl="1m")
        await one.delete(deleted)
    async with follow(b, f"/events{query}", last) as stream:
        seen = await events_until_deleted(stream)
        assert {one.data.get("stack_id") for one in seen} - {None} == {goes, stays}
        await a.do("extend", stays_a, ttl="1m")
        await b.do("extend", stays, ttl="1m")
        assert (await stream.expect("stack")).data["stack_id"] == stays


async def test_what_is_kept_of_a_deleted_stack_is_for_the_tenant_that_made_it(a: Client, b: Client) -> None:
    stack_id = await a.running()
    await a.delete(stack_id)
    for part in ("timeline", "logs"):
        assert (await a.call("GET", f"/stacks/{stack_id}/{part}")).status == 200
        others, unknown = [await b.call("GET", f"/stacks/{one}/{part}") for one in (stack_id, NO_STACK)]
        assert (others.status, shown(others, stack_id)) == (404, shown(unknown, NO_STACK))


async def test_counts_pages_and_the_owner_tell_a_tenant_nothing_of_others(at: Harness, a: Client, b: Client) -> None:
    for one in (a, b, a, b, a):
        await one.running()
    for one, count in ((a, 3), (b, 2)):
        stats = await one.get("/stats")
        matches("Stats", stats)
        shares = (stats["total_stacks"], stats["used_node_ports"], sum(stats["node_distribution"].values()))
        assert (*shares, stats["reserved_cpu_milli"]) == (count, count, count, 100 * count)
    page = await a.get("/stacks?limit=2")
    rest = await a.get(f"/stacks?limit=2&cursor={page['next_cursor']}")
    assert [one["stack_id"] for one in page["stacks"] + rest["stacks"]] == await a.listed()
    owner = await a.get("/owner")
    assert {name: value for name, value in owner.items() if value} == {"role": "owner", "may_change": True}
    assert owner.keys() == (await at.get("/owner")).keys()
    matches("Owner", owner)
    assert len(await at.listed()) == 5, "an admin sees all"


async def test_a_stack_that_an_admin_labels_is_the_tenants(at: Harness, a: Client, b: Client) -> None:
    stack_id = (await at.create(labels={"event": "a"}))["stack_id"]
    assert (await a.listed(), await b.listed()) == ([stack_id], [])
    path = f"/stacks/{stack_id}/status?wait=deleted&timeout=20s"
    waits = asyncio.create_task(a.get(path))
    await b.refused(404, "", path, method="GET")  # at once
    await a.delete(stack_id)
    assert await waits == {"deleted": True, "stack_id": stack_id}


async def test_readyz_names_no_stacks_to_a_tenant_while_a_brake_is_on(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__REQUIRED_LABELS": "[]"}, config=tenants(tmp_path)) as at:
        stacks = await brakes.running(at, brakes.MANY)
        await brakes.vanish(at, stacks)
        await brakes.until_held(at, brakes.MANY)
        reply = await at.call("GET", "/readyz", key=A)
        assert (reply.status, reply.json["status"], "stack-" in reply.text) == (503, "not ready", False)


async def test_a_key_without_pod_specs_creates_from_templates_only(tmp_path: Path) -> None:
    config = tenants(tmp_path)
    config.write_text(config.read_text().replace('["web-*"]', '["web-*"]\npod_specs = false', 1))
    registry = PLAIN + "policy: {add_pull_secrets: [registry]}\npool: 1\n"
    async with harness(tmp_path, folder_with(tmp_path, web_1=registry), config=config) as at:
        a, b = [Client(session=at.session, url=at.url, key=key) for key in (A, B)]
        for path in ("/stacks", "/stacks?dry_run=true"):
            for body in (seed(), seed() | {"pod_spec": "rubbish"}):
                await a.refused(403, "pod_specs = false", path, body)
        assert (await a.post("/capacity", seed()))["fits"] > 0, "it creates nothing"
        stack_id = (await a.create({"template": "web-1"}))["stack_id"]
        await a.do("restart", stack_id)
        assert ((await a.get("/key"))["pod_specs"], (await b.get("/key"))["pod_specs"]) == (False, True)
        assert len(await a.listed()) == 1
        other = (await b.create(seed()))["stack_id"]
        named = {name: pod["spec"].get("imagePullSecrets") for name, pod in (await at.objects("pods")).items()}
        assert named[stack_id] == [{"name": "registry"}], "the template's own, after a restart, too"
        assert named[other] is None, "no pod spec of a tenant gets the operator's registry"


# ---- neither waits for what the other has queued


async def test_a_job_does_not_wait_for_a_stack_of_another_tenant_that_takes_long(
    a: Client, b: Client, at: Harness
) -> None:
    stuck, mine = await b.running(), await a.running()
    await at.patch("pods", stuck, {"metadata": {"finalizers": ["example.com/keep"]}})
    waiting = [await b.batch_delete(stuck), await b.batch_delete(NO_STACK, stuck)]
    job = await a.finished_job(await a.batch_delete(mine))
    states = {(await b.get(f"{BATCH}/{one}"))["status"] for one in waiting}
    assert (job["deleted"], states <= {"queued", "running"}) == (1, True)
    await at.patch("pods", stuck, {"metadata": {"finalizers": None}})
    for one in waiting:
        assert (await b.finished_job(one))["failed"] == 0


async def test_keys_take_turns_in_the_middle_of_their_jobs(
    a: Client, b: Client, at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackd.jobs.batch.CHUNK", 1)
    others, mine = [await b.running() for _ in range(4)], await a.running()
    at.faults.pause()
    jobs = [await b.batch_delete(*others), await a.batch_delete(mine), await b.batch_delete(NO_STACK)]
    at.faults.resume()
    first, own, _ = [await tenant.finished_job(job) for tenant, job in zip((b, a, b), jobs, strict=True)]
    assert (first["deleted"], own["deleted"]) == (4, 1)
    assert own["updated_at"] < first["updated_at"]


async def test_nobody_moves_a_stack_to_another_tenant_by_its_labels(at: Harness, a: Client, b: Client) -> None:
    of_a, of_nobody = (await a.create())["stack_id"], await at.running(labels={"event": "c"})
    for client in (a, at):
        for labels in ({"event": "b"}, {"event": None}, {"Event": "b"}):
            reply = await client.refused(400, "", f"/stacks/{of_a}", {"labels": labels}, method="PATCH")
            assert [path for path, *_ in reply.reasons] == [f"labels.{next(iter(labels))}"]
    await at.refused(400, "", f"/stacks/{of_nobody}", {"labels": {"event": "a"}}, method="PATCH")
    await b.refused(404, "", f"/stacks/{of_a}", {"labels": {"player": "8"}}, method="PATCH")
    reply = await a.call("PATCH", f"/stacks/{of_a}", {"labels": {"event": "a", "player": "8"}})
    assert (reply.status, reply.json["labels"]) == (200, {"event": "a", "player": "8"})
    of_b = (await b.create(labels={"player": "8"}))["stack_id"]
    assert (await a.listed(), await b.listed()) == ([of_a], [of_b]), "the limit of a label counts one tenant's stacks"

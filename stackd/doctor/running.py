"""Check a running daemon: does it answer where the configuration says, and what does it report."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from stackd.client.failures import ClientError
from stackd.doctor import SHOWN, Finding, fail, ok, warn
from stackd.doctor.local import LocalDaemon
from stackd.printable import some_of

ABOUT = "daemon"
TEMPLATES = "templates"
RELOADED = "stackd_config_reload_timestamp_seconds"


async def examine(at: LocalDaemon, *, expected: bool = False) -> Finding:
    """Ask the daemon for its readiness; ``expected`` says that a daemon should be running."""
    url = at.url
    try:
        async with at.session() as session, session.get(f"{url}/readyz") as answer:
            status, body = answer.status, await answer.json(content_type=None)
    except ClientError as error:
        return fail(ABOUT, str(error), "find out who runs that, and whether it was given keys")
    except (aiohttp.ClientConnectorError, TimeoutError):
        text = f"nothing answers at {url}"
        if expected:
            return fail(
                ABOUT, f"the service runs, but {text}", "check that server.host and server.port are those in force"
            )
        return ok(ABOUT, f"none is running here: {text}")
    except (aiohttp.ClientError, ValueError):
        return fail(ABOUT, f"what answers at {url} is not stackd", "choose another server.port, or stop the other one")
    if status == 503 and (owner := await _owner_it_stands_by_for(at)):
        return ok(ABOUT, f"it stands by at {url}: {owner} owns the stacks")
    return _judged(url, status, body if isinstance(body, dict) else {})


async def _owner_it_stands_by_for(at: LocalDaemon) -> str:
    """The machine whose stackd owns the stacks while this one stands by; empty if it does not."""
    try:
        told = json.loads(await _asked(at, "/owner"))
        return str(told["owner"]) if told["role"] == "standby" else ""
    except (ValueError, KeyError, TypeError):
        return ""


def _judged(url: str, status: int, body: dict[str, Any]) -> Finding:
    if status == 200:
        return ok(ABOUT, f"it is ready at {url}")
    if status in (401, 403, 429):
        return warn(ABOUT, f"it answers at {url}, but asks for a key", "set STACKD_API_KEY to check it")
    reasons = str(body.get("error", f"it answers {status}"))
    if body.get("held"):
        return fail(ABOUT, f"a brake is on: {reasons}", "look at `stackd reconcile --plan`, then `--confirm`")
    return fail(ABOUT, f"it is not ready: {reasons}")


async def loaded_at(at: LocalDaemon) -> float:
    """When the daemon last took over a changed configuration, in seconds since the epoch; 0 if never or unknown."""
    for line in (await _asked(at, "/metrics")).splitlines():
        name, _, value = line.rpartition(" ")
        if name == RELOADED:
            return float(value)
    return 0.0


async def unknown_objects(at: LocalDaemon) -> list[Finding]:
    """Objects with stackd's labels that belong to no stack of the daemon; nothing if the daemon does not answer."""
    try:
        unknown = [f"{one['kind']} {one['name']}" for one in json.loads(await _asked(at, "/reconcile"))["unknown"]]
    except (ValueError, KeyError, TypeError):
        return []
    if not unknown:
        return []
    text = f"{len(unknown)} objects belong to no known stack and are left alone: {some_of(unknown, SHOWN)}"
    return [warn(ABOUT, text, "look at `stackd reconcile --plan`; `stackd reconcile --confirm` removes them")]


async def templates(at: LocalDaemon) -> list[Finding]:
    """Templates with an unfilled pool, or with images missing on a node; nothing if the daemon does not answer."""
    try:
        known = json.loads(await _asked(at, "/templates"))["templates"]
        failing = [
            f"{one['name']}: {node}: {pull['reason']}"
            for one in known
            for node, pull in (one["prepull"] or {}).items()
            if pull["state"] == "failing"
        ]
        unfilled = [f"{one['name']}: {one['reason']}" for one in known if one["reason"]]
    except (ValueError, KeyError, TypeError):
        return []
    return [
        warn(TEMPLATES, f"{what}: {some_of(found, SHOWN, '; ')}", remedy)
        for what, found, remedy in (
            (
                "images cannot be pulled ahead",
                failing,
                "check the image's name, its registry and policy.add_pull_secrets",
            ),
            ("pools are not filled", unfilled, "fix the reason, or set the template's pool to 0"),
        )
        if found
    ]


async def stacks(at: LocalDaemon) -> set[str] | None:
    """The ids of all its stacks; None if it does not answer."""
    try:
        return {stack["stack_id"] for stack in json.loads(await _asked(at, "/stacks?fields=stack_id"))["stacks"]}
    except (ValueError, KeyError, TypeError):
        return None


async def _asked(at: LocalDaemon, path: str) -> str:
    try:
        async with at.session() as session, session.get(f"{at.url}{path}") as answer:
            return await answer.text() if answer.status == 200 else ""
    except (ClientError, aiohttp.ClientError, TimeoutError, ValueError):
        return ""

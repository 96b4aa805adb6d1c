"""Check a running daemon: does it answer where the configuration says, and what does it report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from stackd.client import ApiError, AsyncClient, BadAnswer, ClientError, Unreachable
from stackd.doctor import SHOWN, Finding, fail, ok, warn
from stackd.doctor.local import LocalDaemon
from stackd.printable import some_of

T = TypeVar("T")
ABOUT = "daemon"
TEMPLATES = "templates"
RELOADED = "stackd_config_reload_timestamp_seconds"


async def examine(at: LocalDaemon, *, expected: bool = False) -> Finding:
    """Ask the daemon for its readiness; ``expected`` says that a daemon should be running."""
    other = fail(ABOUT, f"what answers at {at.url} is not stackd", "choose another server.port, or stop the other one")
    try:
        async with at.client() as client:
            await client.ready()
    except ApiError as error:
        if error.status == 503 and (owner := await owner_it_stands_by_for(at)):
            return ok(ABOUT, f"it stands by at {at.url}: {owner} owns the stacks")
        if error.status in (401, 403, 429):
            return warn(ABOUT, f"it answers at {at.url}, but asks for a key", "set STACKD_API_KEY to check it")
        if error.fields.get("held"):
            return fail(
                ABOUT, f"a brake is on: {error.sentence}", "look at `stackd reconcile --plan`, then `--confirm`"
            )
        return fail(ABOUT, f"it is not ready: {error.sentence}")
    except Unreachable as error:
        if error.sent and not isinstance(error.__cause__, TimeoutError):
            return other
        text = f"nothing answers at {at.url}"
        if expected:
            advice = "check that server.host and server.port are those in force"
            return fail(ABOUT, f"the service runs, but {text}", advice)
        return ok(ABOUT, f"none is running here: {text}")
    except BadAnswer:
        return other
    except ClientError as error:
        return fail(ABOUT, str(error), "find out who runs that, and whether it was given keys")
    return ok(ABOUT, f"it is ready at {at.url}")


async def _asked(at: LocalDaemon, ask: Callable[[AsyncClient], Awaitable[T]]) -> T | None:
    """The daemon's answer; None if it gives none, or lacks a field."""
    try:
        async with at.client() as client:
            return await ask(client)
    except (ClientError, KeyError, TypeError):
        return None


async def owner_it_stands_by_for(at: LocalDaemon) -> str:
    """The machine whose stackd owns the stacks while this one stands by; empty if it does not."""

    async def owner(client: AsyncClient) -> str:
        found = await client.owner()
        return str(found["owner"]) if found["role"] == "standby" else ""

    return await _asked(at, owner) or ""


async def loaded_at(at: LocalDaemon) -> float:
    """When the daemon last took over a changed configuration, in seconds since the epoch; 0 if never or unknown."""

    async def reloaded(client: AsyncClient) -> float:
        lines = [line.rpartition(" ") for line in (await client.metrics()).splitlines()]
        return next((float(value) for name, _, value in lines if name == RELOADED), 0.0)

    return await _asked(at, reloaded) or 0.0


async def unknown_objects(at: LocalDaemon) -> list[Finding]:
    """Objects with stackd's labels that belong to no stack of the daemon; nothing if the daemon does not answer."""

    async def unknown(client: AsyncClient) -> list[str]:
        return [f"{one['kind']} {one['name']}" for one in (await client.reconcile())["unknown"]]

    if not (found := await _asked(at, unknown)):
        return []
    text = f"{len(found)} objects belong to no known stack and are left alone: {some_of(found, SHOWN)}"
    return [warn(ABOUT, text, "look at `stackd reconcile --plan`; `stackd reconcile --confirm` removes them")]


async def templates(at: LocalDaemon) -> list[Finding]:
    """Templates with an unfilled pool, or with images missing on a node; nothing if the daemon does not answer."""

    async def problems(client: AsyncClient) -> tuple[list[str], list[str]]:
        found = await client.templates()
        failing = [
            f"{one.name}: {node}: {pull['reason']}"
            for one in found
            for node, pull in (one.raw["prepull"] or {}).items()
            if pull["state"] == "failing"
        ]
        return failing, [f"{one.name}: {one.reason}" for one in found if one.reason]

    failing, unfilled = await _asked(at, problems) or ([], [])
    pulls = "check the image's name, its registry and policy.add_pull_secrets"
    pools = "fix the reason, or set the template's pool to 0"
    return [
        warn(TEMPLATES, f"{what}: {some_of(found, SHOWN, '; ')}", remedy)
        for what, found, remedy in (
            ("images cannot be pulled ahead", failing, pulls),
            ("pools are not filled", unfilled, pools),
        )
        if found
    ]


async def stacks(at: LocalDaemon) -> set[str] | None:
    """The ids of all its stacks; None if it does not answer."""

    async def ids(client: AsyncClient) -> set[str]:
        return {stack.stack_id for stack in await client.stacks(fields=["stack_id"])}

    return await _asked(at, ids)

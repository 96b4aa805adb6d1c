"""Check a running daemon: does it answer where the configuration says, and what does it report."""

from __future__ import annotations

from stackd.client import ApiError, BadAnswer, ClientError, Unreachable
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
        async with at.client() as client:
            await client.ready()
    except ApiError as error:
        if error.status == 503 and (owner := await owner_it_stands_by_for(at)):
            return ok(ABOUT, f"it stands by at {url}: {owner} owns the stacks")
        return _judged(url, error)
    except Unreachable as error:
        if error.sent and not isinstance(error.__cause__, TimeoutError):
            return _other(url)
        text = f"nothing answers at {url}"
        if expected:
            return fail(
                ABOUT, f"the service runs, but {text}", "check that server.host and server.port are those in force"
            )
        return ok(ABOUT, f"none is running here: {text}")
    except BadAnswer:
        return _other(url)
    except ClientError as error:
        return fail(ABOUT, str(error), "find out who runs that, and whether it was given keys")
    return ok(ABOUT, f"it is ready at {url}")


def _other(url: str) -> Finding:
    return fail(ABOUT, f"what answers at {url} is not stackd", "choose another server.port, or stop the other one")


async def owner_it_stands_by_for(at: LocalDaemon) -> str:
    """The machine whose stackd owns the stacks while this one stands by; empty if it does not."""
    try:
        async with at.client() as client:
            found = await client.owner()
            return str(found["owner"]) if found["role"] == "standby" else ""
    except (ClientError, KeyError, TypeError):
        return ""


def _judged(url: str, error: ApiError) -> Finding:
    if error.status in (401, 403, 429):
        return warn(ABOUT, f"it answers at {url}, but asks for a key", "set STACKD_API_KEY to check it")
    if error.fields.get("held"):
        return fail(ABOUT, f"a brake is on: {error.sentence}", "look at `stackd reconcile --plan`, then `--confirm`")
    return fail(ABOUT, f"it is not ready: {error.sentence}")


async def loaded_at(at: LocalDaemon) -> float:
    """When the daemon last took over a changed configuration, in seconds since the epoch; 0 if never or unknown."""
    try:
        async with at.client() as client:
            lines = (await client.metrics()).splitlines()
    except ClientError:
        return 0.0
    return next((float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name == RELOADED), 0.0)


async def unknown_objects(at: LocalDaemon) -> list[Finding]:
    """Objects with stackd's labels that belong to no stack of the daemon; nothing if the daemon does not answer."""
    try:
        async with at.client() as client:
            unknown = [f"{one['kind']} {one['name']}" for one in (await client.reconcile())["unknown"]]
    except (ClientError, KeyError, TypeError):
        return []
    if not unknown:
        return []
    text = f"{len(unknown)} objects belong to no known stack and are left alone: {some_of(unknown, SHOWN)}"
    return [warn(ABOUT, text, "look at `stackd reconcile --plan`; `stackd reconcile --confirm` removes them")]


async def templates(at: LocalDaemon) -> list[Finding]:
    """Templates with an unfilled pool, or with images missing on a node; nothing if the daemon does not answer."""
    try:
        async with at.client() as client:
            known = await client.templates()
        failing = [
            f"{one.name}: {node}: {pull['reason']}"
            for one in known
            for node, pull in (one.raw["prepull"] or {}).items()
            if pull["state"] == "failing"
        ]
    except (ClientError, KeyError, TypeError):
        return []
    unfilled = [f"{one.name}: {one.reason}" for one in known if one.reason]
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
        async with at.client() as client:
            return {stack.stack_id for stack in await client.stacks(fields=["stack_id"])}
    except (ClientError, KeyError, TypeError):
        return None

"""The daemon of this machine: who listens where it should (its key goes to nobody else), and what it reports.

Owns: reading the kernel's tables of listening sockets (``/proc/net/tcp``). While stackd is stopped, any user may listen on
its port; so each socket on that port, whatever its address, must belong to root, to this process's user, or to the
service's user.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from stackd.client import ApiError, AsyncClient, BadAnswer, ClientError, Plan, Template, Unreachable
from stackd.client.attempts import NO_RETRIES
from stackd.contract import Ready, TemplateProblem, host_and_port
from stackd.doctor import SHOWN, Finding, Level, fail, ok, warn
from stackd.files import user_name
from stackd.printable import some_of
from stackd.upkeep import RESTART

T = TypeVar("T")
U = TypeVar("U")
ABOUT = "daemon"
RELOADED = "stackd_config_reload_timestamp_seconds"
TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
LISTEN: Final = "0A"
SERVICE_STATE: Final = Path("/var/lib/stackd")
SECONDS: Final = 5.0
_NAME_IT: Final = " (if it is stackd, name it with --url)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDaemon:
    """The daemon of this machine: its address, a key (or an empty text), and the path of its state."""

    host: str
    port: int
    key: str = field(repr=False)
    secure: bool = False
    state: str = ""

    @property
    def url(self) -> str:
        """The address at which it is reached from here."""
        return url_of(self.host, self.port, secure=self.secure)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """For TLS: its certificate is for the name that clients use, not for this address. ``require_own`` is stricter."""
        if not self.secure or not TABLES[0].exists():
            return None
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def require_own(self) -> None:
        """Raise ClientError if what listens there may be another user's; to be called with each new connection."""
        if not TABLES[0].exists():
            return
        owners = {uid for table in TABLES for uid in listeners(self.port, table)}
        if not owners:
            raise ClientError(f"no process of this machine listens at {self.url}; the key was not sent{_NAME_IT}")
        state = Path(self.state).parent if os.path.isabs(self.state) else SERVICE_STATE
        with suppress(OSError):
            owners.discard(state.stat().st_uid)
        if strangers := owners - {0, os.geteuid()}:
            who = ", ".join(map(user_name, sorted(strangers)))
            raise ClientError(
                f"what listens at {self.url} belongs to the user {who}, and not to stackd; the key was not sent{_NAME_IT}"
            )

    def client(self, timeout: float | None = SECONDS) -> AsyncClient:
        """A client that sends the key to nobody else, and each request once; the caller closes it."""
        return AsyncClient(
            self.url, self.key, retries=NO_RETRIES, ssl_context=self.tls, check_peer=self.require_own, timeout=timeout
        )


def url_of(host: str, port: object, *, secure: bool) -> str:
    """The address at which a daemon that listens there is reached from here."""
    with suppress(ValueError):  # a name
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    return f"{'https' if secure else 'http'}://{host_and_port(host, port)}"


def listeners(port: int, table: Path) -> list[int]:
    """The users whose sockets listen on the port, by the kernel's table."""
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [int(row[7]) for row in rows if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What a daemon reports.

    ``loaded_at`` is when it last took over a changed configuration (seconds since the epoch, 0: never or unknown),
    ``stacks`` are the ids of all its stacks; None if it does not answer.
    """

    findings: list[Finding]
    loaded_at: float
    stacks: set[str] | None


async def examine(at: LocalDaemon, *, expected: bool = False, moved: bool = False) -> Running:
    """Ask the daemon for all that it can tell; ``expected`` says that a daemon should be running, ``moved`` that it listens
    at ``at`` only after a restart.
    """
    state = await _state(at, expected=expected)
    if moved and state.level is not Level.OK:
        state = replace(state, advice=RESTART)
    async with at.client() as client:
        unknown = await _answer(client.reconcile(), _unknown_objects, list[Finding]())
        templates = await _answer(client.templates(), _templates, list[Finding]())
        templates += await _answer(client.template_problems(), _not_in_force, list[Finding]())
        templates += await _answer(client.ready(), _missing, list[Finding]())
        stacks = await _answer(client.stacks(fields=["stack_id"]), lambda found: {one.stack_id for one in found}, None)
        values = await _answer(client.metrics(), _values, dict[str, float]())
    older = values.get("stackd_older_build") and not expected  # the service's status says so, too
    findings = [fail(ABOUT, "it runs an older build than the one that is installed", "restart it")] if older else []
    return Running(
        findings=[state, *findings, *unknown, *templates], loaded_at=values.get(RELOADED, 0.0), stacks=stacks
    )


async def owner_it_stands_by_for(at: LocalDaemon) -> str:
    """The machine whose stackd owns the stacks while this one stands by; empty if it does not."""
    async with at.client() as client:
        return await _answer(client.owner(), lambda one: one.owner if one.role == "standby" else "", "")


async def _answer(request: Awaitable[T], read: Callable[[T], U], otherwise: U) -> U:
    """What ``read`` takes from the answer; ``otherwise`` where there is none, or none of stackd's, or of this version's."""
    try:
        return read(await request)
    except (ClientError, AttributeError, KeyError, TypeError, ValueError):
        return otherwise


async def _state(at: LocalDaemon, *, expected: bool) -> Finding:
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
            advice = "look at `stackd reconcile --plan`, then `--confirm`"
            return fail(ABOUT, f"a brake is on: {error.sentence}", advice)
        return fail(ABOUT, f"it is not ready: {error.sentence}")
    except Unreachable as error:
        if error.sent and not error.timed_out:
            return other
        text = f"nothing answers at {at.url}"
        if expected:
            advice = "check server.host and server.port; if they are right, it hangs, and systemd restarts it within a minute"
            return fail(ABOUT, f"the service runs, but {text}", advice)
        return ok(ABOUT, f"none is running here: {text}")
    except BadAnswer:
        return other
    except ClientError as error:
        return fail(ABOUT, str(error), "find out who runs that, and whether it was given keys")
    return ok(ABOUT, f"it is ready at {at.url}")


def _values(metrics: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in metrics.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def _unknown_objects(plan: Plan) -> list[Finding]:
    objects = [f"{one.kind} {one.name}" for one in plan.unknown]
    text = f"{len(objects)} objects belong to no known stack and are left alone: {some_of(objects, SHOWN)}"
    advice = "look at `stackd reconcile --plan`; `stackd reconcile --confirm` removes them"
    return [warn(ABOUT, text, advice)] if objects else []


def _not_in_force(problems: list[TemplateProblem]) -> list[Finding]:
    return [warn("templates", f"{one.problem}: {one.message}") for one in problems]


def _missing(ready: Ready) -> list[Finding]:
    names = ready.missing_templates
    text = f"not in force, though nobody has removed them: {some_of(names, SHOWN)}; their pools and shared stacks stay"
    advice = "write them again (`stackd push`), or delete them over the API; the log says which are not allowed"
    return [warn("templates", text, advice)] if names else []


def _templates(templates: list[Template]) -> list[Finding]:
    failing = [
        f"{one.name}: {node}: {pull['reason']}"
        for one in templates
        for node, pull in (one.raw["prepull"] or {}).items()
        if pull["state"] == "failing"
    ]
    unfilled = [f"{one.name}: {one.reason}" for one in templates if one.reason]
    pulls = "check the image's name, its registry and policy.add_pull_secrets"
    pools = "fix the reason, or set the template's pool to 0"
    return [
        warn("templates", f"{what}: {some_of(items, SHOWN, '; ')}", advice)
        for what, items, advice in (
            ("images cannot be pulled ahead", failing, pulls),
            ("pools are not filled", unfilled, pools),
        )
        if items
    ]

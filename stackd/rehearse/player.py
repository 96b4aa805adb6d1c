"""A rehearsal under way, which its players share; and one player, who presses start, reads the status, tries the address,
and perhaps deletes the stack and starts another.
"""

from __future__ import annotations

import asyncio
import enum
import random
import ssl
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from stackd.contract import Stack
from stackd.podspec.members import first_of, texts_of
from stackd.podspec.yaml_text import read
from stackd.rehearse.connection import Answer, Connection
from stackd.rehearse.measure import Address, Attempt, OwnLoad, Stage, Totals, without_ids
from stackd.rehearse.plan import Arrival, Plan
from stackd.tasks import set_within

DEFAULT_PORTS = {"http": 80, "https": 443}
# The first and the longest pause before an unanswered create is sent again; the pause doubles each time.
AGAIN_SECONDS, LONGEST_AGAIN_SECONDS = 0.1, 2.0
PROBE_AGAIN_SECONDS = 0.25
# While the stack runs, the pauses between a player's status reads are longer by this factor.
SLOWER = 5
CREATE_SECONDS = 120.0
PROBE_SECONDS = 5.0
REQUEST = b"GET / HTTP/1.1\r\nHost: %b\r\nUser-Agent: stackd-rehearsal\r\nConnection: close\r\n\r\n"


class Phase(enum.StrEnum):
    """The phase of a rehearsal."""

    ARRIVING = "players arrive"
    SETTLING = "stacks start"
    HOLDING = "holding"
    GATHERING = "reading timelines"
    CLEANING = "cleaning up"
    DONE = "done"


@dataclass(slots=True, kw_only=True, eq=False)
class Rehearsal:
    """One rehearsal. Times are seconds since ``began`` (the loop's clock); ``wall`` is the same moment in Unix time.

    ``early``        statuses from the event stream of stacks whose create is not yet answered: status, reason, time
    ``finished``     set when all players have to finish; ``stop``: when somebody has interrupted the rehearsal
    ``added``        what was added to the daemon's histograms; empty if it does not tell
    ``clock_ahead``  how far the daemon's clock is ahead, to within ``clock_error`` seconds; None while unknown
    ``checks``       what the checks of the plan's templates say, by template; as the API has it
    ``spares``       how many spare Services there were before; None while unknown
    ``remaining``    how many of its stacks there still are; None while unknown
    ``seconds``      how long the load took; 0 before its end
    """

    plan: Plan
    connection: Connection
    ident: str
    began: float = field(default_factory=time.monotonic)
    wall: float = field(default_factory=time.time)
    phase: Phase = Phase.ARRIVING
    attempts: list[Attempt] = field(default_factory=list)
    by_stack: dict[str, Attempt] = field(default_factory=dict)
    early: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    own: OwnLoad = field(default_factory=OwnLoad)
    reads: list[float] = field(default_factory=list)
    failed_reads: int = 0
    deletes: list[float] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hold_began: float | None = None
    added: Totals = field(default_factory=dict)
    version: str = ""
    clock_ahead: float | None = None
    clock_error: float | None = None
    checks: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    spares: int | None = None
    remaining: int | None = None
    seconds: float = 0.0

    def now(self) -> float:
        return time.monotonic() - self.began

    def poll(self) -> float:
        """The pause before a player's next status read; it varies, so that the reads do not come all at once."""
        return self.plan.poll * random.uniform(0.8, 1.2)

    async def ask(
        self, what: str, method: str, path: str, body: object = None, *, accept: tuple[int, ...] = (), **options: Any
    ) -> Answer | None:
        """An answer, good or of an accepted status; None if there is none, with the problem recorded."""
        answer = await self.connection.ask(method, path, body, **options)
        if answer.good or answer.status in accept:
            return answer
        self.problems[f"{what}: {without_ids(answer.reason)}"] += 1
        return None

    async def rest(self, attempt: Attempt, seconds: float) -> bool:
        """Wait for news of the attempt; False if none came within ``seconds``, or the players have to finish."""
        attempt.news.clear()
        return not self.finished.is_set() and await set_within(attempt.news, seconds) and not self.finished.is_set()

    async def pause(self, seconds: float) -> bool:
        """Wait; False as soon as the players have to finish."""
        return not await set_within(self.finished, max(0.0, seconds))

    def wake(self) -> None:
        for attempt in self.attempts:
            attempt.news.set()


async def arrive(rehearsal: Rehearsal, arrival: Arrival) -> Attempt | None:
    """Press start when it is due, and follow the stack; None if the players had to finish before."""
    if not await rehearsal.pause(arrival.due - rehearsal.now()):
        return None
    attempt = Attempt(player=arrival.player, kind=arrival.kind.name, due=arrival.due)
    await _start(rehearsal, arrival, attempt)
    return attempt


async def stay(rehearsal: Rehearsal, arrival: Arrival, attempt: Attempt) -> None:
    """Keep reading the status to the end; a player with ``again`` deletes the stack in the hold and starts another."""
    while attempt.kept and not rehearsal.finished.is_set():
        pause, due = rehearsal.poll() * SLOWER, False
        if arrival.again is not None and rehearsal.hold_began is not None:
            remaining = rehearsal.hold_began + arrival.again * rehearsal.plan.hold - rehearsal.now()
            if remaining <= 0:
                if await _give_up(rehearsal, attempt):
                    again = Attempt(player=arrival.player, kind=arrival.kind.name, due=rehearsal.now(), again=True)
                    await _start(rehearsal, arrival, again)
                return
            pause, due = min(pause, remaining), remaining < pause
        news = await rehearsal.rest(attempt, pause)
        if not news and not due and not rehearsal.finished.is_set():
            await _read_status(rehearsal, attempt)


async def _start(rehearsal: Rehearsal, arrival: Arrival, attempt: Attempt) -> None:
    """One press of start, until the stack runs (and answers, if probed) or has failed."""
    rehearsal.attempts.append(attempt)
    await _create(rehearsal, attempt, rehearsal.plan.body(arrival.kind, arrival.player, rehearsal.ident))
    await _until_running(rehearsal, attempt)
    if Stage.RUNNING in attempt.times and rehearsal.plan.probe != "none":
        await _until_reachable(rehearsal, attempt)


async def _create(rehearsal: Rehearsal, attempt: Attempt, body: object) -> None:
    """Create the stack. Send an unanswered create again under the same Idempotency-Key: it makes at most one stack."""
    key, pause = f"rehearsal-{rehearsal.ident}-{len(rehearsal.attempts)}", AGAIN_SECONDS
    rehearsal.own.sending.append(rehearsal.now() - attempt.due)
    attempt.unanswered = True
    while not (
        answer := await rehearsal.connection.ask("POST", "/stacks", body, key=key, seconds=CREATE_SECONDS)
    ).status:
        rehearsal.problems[f"create: {answer.reason}"] += 1
        if rehearsal.finished.is_set() or rehearsal.now() - attempt.due > rehearsal.plan.patience:
            attempt.fail(Stage.ACCEPTED, answer.reason)
            return
        await rehearsal.pause(pause)
        pause = min(2 * pause, LONGEST_AGAIN_SECONDS)
    attempt.unanswered = False
    rehearsal.own.waits.append(answer.waited)
    if answer.good:
        _accepted(rehearsal, attempt, answer)
    else:
        attempt.fail(Stage.ACCEPTED, answer.reason)


def _accepted(rehearsal: Rehearsal, attempt: Attempt, answer: Answer) -> None:
    at = answer.came - rehearsal.began
    stack: Mapping[str, Any] = answer.body
    attempt.stack_id, attempt.node = stack["stack_id"], stack["node_id"] or ""
    attempt.images, attempt.address = _images(stack["pod_spec"]), address(stack)
    attempt.expires = answer.sent - rehearsal.began + rehearsal.plan.ttl
    attempt.reached(Stage.ACCEPTED, at)
    rehearsal.by_stack[attempt.stack_id] = attempt
    for seen in (rehearsal.early.pop(attempt.stack_id, None), (stack["status"], "", at)):
        if seen is not None:
            attempt.seen(*seen)


async def _until_running(rehearsal: Rehearsal, attempt: Attempt) -> None:
    end = attempt.due + rehearsal.plan.patience
    while not attempt.failure and Stage.RUNNING not in attempt.times and not rehearsal.finished.is_set():
        remaining = end - rehearsal.now()
        if remaining <= 0:
            attempt.fail(Stage.RUNNING, f"{attempt.status or 'creating'} after {rehearsal.plan.patience:g} s")
        elif not await rehearsal.rest(attempt, min(remaining, rehearsal.poll())):
            await _read_status(rehearsal, attempt)


async def _read_status(rehearsal: Rehearsal, attempt: Attempt) -> None:
    answer = await rehearsal.ask("status", "GET", f"/stacks/{attempt.stack_id}/status", accept=(404,))
    if answer is None:
        rehearsal.failed_reads += 1
        return
    rehearsal.reads.append(answer.seconds)
    rehearsal.own.waits.append(answer.waited)
    if not answer.good:
        attempt.ended()
        return
    attempt.address = address(answer.body) or attempt.address
    status, reason = answer.body["status"], ""
    if status not in ("creating", "running"):  # a status read has no reason, and the event that has it may be slow
        stack = await rehearsal.ask("stack", "GET", f"/stacks/{attempt.stack_id}", accept=(404,))
        reason = stack.body["status_reason"] if stack is not None and stack.good else ""
    attempt.seen(status, reason, answer.came - rehearsal.began)


async def _until_reachable(rehearsal: Rehearsal, attempt: Attempt) -> None:
    how, end, tries = rehearsal.plan.probe, rehearsal.now() + rehearsal.plan.patience, 0
    if attempt.address is None:
        attempt.fail(Stage.REACHABLE, "it has no public address with a TCP port")
        return
    while attempt.kept and not rehearsal.finished.is_set():
        why = await _tried(how, attempt.address)
        tries += 1
        if not why:
            attempt.reached(Stage.REACHABLE, rehearsal.now())
            return
        attempt.first_refused = True
        if rehearsal.now() >= end:
            attempt.fail(Stage.REACHABLE, f"{how}: {why} ({tries} tries)")
            return
        await rehearsal.pause(PROBE_AGAIN_SECONDS)


async def _give_up(rehearsal: Rehearsal, attempt: Attempt) -> bool:
    """Delete the stack; returns whether it is gone. If not, the end of the rehearsal deletes it."""
    attempt.deleting = True
    path = f"/stacks/{attempt.stack_id}"
    answer = await rehearsal.ask("delete", "DELETE", path, accept=(404,), seconds=CREATE_SECONDS)
    if answer is not None:
        attempt.gone = True
        rehearsal.deletes.append(answer.seconds)
    return attempt.gone


@lru_cache(maxsize=64)
def _images(pod_spec: str) -> tuple[str, ...]:
    texts = (first_of(pod_spec), *texts_of(pod_spec).values())
    return tuple(str(container["image"]) for text in texts for container in read(text)["spec"]["containers"])


def address(stack: Mapping[str, Any]) -> Address | None:
    """The address of the stack's first TCP port; None if it has none yet."""
    body = Stack.of(stack)
    names = {port.container_port: port.url or (f"tls://{port.host}" if port.host else "") for port in body.ports}
    for each in body.addresses:
        if each.protocol == "TCP":  # as each port with a name
            url = urlsplit(names.get(each.port) or f"//{each.text}")
            return Address(url.hostname or "", url.port or DEFAULT_PORTS[url.scheme], url.scheme)
    return None


async def _tried(how: str, address: Address) -> str:
    """Try an address once. Returns an empty text if it answers, else why not."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await _try(how, address)
    except TimeoutError:
        return f"no answer within {PROBE_SECONDS:g} s"
    except ValueError:
        return "no HTTP answer"
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        return "connection refused" if refused else (error.strerror or type(error).__name__).lower()


async def _try(how: str, address: Address) -> str:
    tls = None
    if address.scheme in ("https", "tls"):  # who signed the certificate is the doctor's question
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=tls)
    try:
        if how == "tcp" or address.scheme == "tls":
            return ""
        writer.write(REQUEST % f"{address.host}:{address.port}".encode())
        first = await reader.readline()
        if address.scheme and first.split(b" ")[1:2] in ([b"404"], [b"503"]):
            return "the Gateway does not serve its name yet"
        if not first:
            return "the connection was closed without an answer"
        return "" if first.startswith(b"HTTP/") else "no HTTP answer"
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

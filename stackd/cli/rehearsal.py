"""A rehearsal from the command line: the plan from its options, its signals, and its end.

Owns: what the first and the second Ctrl-C mean, the exit code, and what a terminal shows meanwhile and at the end. In a
pipe, standard error gets a line now and then instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import secrets
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import click
import uvloop

from stackd.cli import FAILED, INTERRUPTED
from stackd.cli import output as render
from stackd.cli.options import labels_of
from stackd.cli.stacks import request_body
from stackd.cli.target import no_key
from stackd.client import Client
from stackd.printable import printable
from stackd.rehearse import run
from stackd.rehearse.connection import Connection
from stackd.rehearse.measure import Stage, Times, reasons, summary
from stackd.rehearse.outcome import TIMES, Goal, Outcome, Titled, are_numbers, parse_goal
from stackd.rehearse.plan import (
    LABEL,
    Plan,
    StackKind,
    delete_command,
    inspect,
    parse_rate,
    parse_share,
    parse_weighted,
)
from stackd.rehearse.player import Rehearsal
from stackd.rehearse.report import page
from stackd.units import format_duration, parse_duration

MOST_CONNECTIONS = 4000
# In addition to one connection per player, for all creates at the same time.
SPARE_CONNECTIONS = 100
REDRAW_SECONDS = 0.5
LINE_SECONDS = 10.0
# The rates of the live view are over this time.
RATE_SECONDS = 5.0
# How many reasons, and how many other problems, the live view has.
SHOWN = 4


def rehearse(client: Client, options: dict[str, Any]) -> None:
    """Rehearse as the options say, and exit with the code for the result."""
    try:
        plan, expected = _plan(options), [parse_goal(text) for text in options["expect"]]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    for goal in expected:
        if goal.what == "reachable" and plan.probe == "none":
            raise click.UsageError(f"{goal.text}: it is measured only with --probe tcp or http")
        if goal.what == "deletes" and not plan.churn:
            raise click.UsageError(f"{goal.text}: deletes are measured only with --churn")
    if (report := options["report"]) is not None and not report.parent.is_dir():
        raise click.UsageError(f"{report.parent} is not a folder, so no report can be written there")
    _allow_connections(plan.connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(_rehearse(client, plan, expected, options))
    if options["as_json"]:
        render.print_json(outcome.fields())
    else:
        print_tables(outcome.tables())
        style = {**render.GOOD, **render.BOLD} if outcome.verdict.holds else render.BAD
        click.echo(render.painted(printable(outcome.verdict.sentence), style))
    if report is not None:
        report.write_text(page(outcome), encoding="utf-8")
    _end(outcome)


def _plan(options: dict[str, Any]) -> Plan:
    """The plan. Raises ValueError for a text that cannot be parsed."""
    if (options["rate"] is None) != options["burst"]:
        raise click.UsageError("say how players arrive: --rate 20/s, or --burst for all at once")
    kinds = []
    for what in ("template", "file"):
        for name, weight in map(parse_weighted, options[what]):
            body = {"template": name} if what == "template" else request_body(name)
            kinds.append(StackKind(name=name, body=body, weight=weight))
    if not kinds:
        raise click.UsageError("say what they start: --template NAME or --file POD.yaml")
    churn = parse_share(options["churn"])
    seconds: dict[str, Any] = {name: parse_duration(options[name]) for name in ("hold", "poll", "ttl", "patience")}
    if churn and not seconds["hold"]:
        raise click.UsageError("--churn happens during --hold: set --hold, too")
    if seconds["poll"] <= 0 or seconds["patience"] <= 0 or seconds["ttl"] < 1:
        raise click.UsageError("--poll and --patience must be above zero, and --ttl at least 1s")
    if LABEL in (labels := labels_of(options["label"])):
        raise click.UsageError(f"--label must be like player=7, and not {LABEL}")
    return Plan(
        kinds=kinds,
        stacks=options["stacks"],
        rate=None if options["burst"] else parse_rate(options["rate"]),
        churn=churn,
        probe=options["probe"],
        labels=labels,
        connections=options["connections"] or min(MOST_CONNECTIONS, options["stacks"] + SPARE_CONNECTIONS),
        **seconds,
    )


def _allow_connections(connections: int) -> None:
    """Raise this process's limit of descriptors to what the plan needs, as far as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited, wanted = resource.RLIM_INFINITY, 2 * connections + 256
    if soft != unlimited and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == unlimited else min(wanted, hard), hard))


async def _rehearse(client: Client, plan: Plan, expected: list[Goal], options: dict[str, Any]) -> Outcome:
    ident = secrets.token_hex(4)
    async with client.concurrent() as concurrent:
        connection = Connection(concurrent, plan.connections)
        before = await inspect(connection, plan, ident)
        if before.refused and not client.has_key:
            raise click.ClickException(no_key(client.url))
        lines = [f"{client.url} cannot be reached: {line}" if before.refused == 0 else line for line in before.wrong]
        for option, objections in (("anyway", before.anyway), ("with_others", before.with_others)):
            if not options[option]:
                lines += [f"{line} (override with --{option.replace('_', '-')})" for line in objections]
        if lines:
            raise click.ClickException("\n".join(printable(line) for line in lines))
        rehearsal = Rehearsal(plan=plan, connection=connection, ident=ident, spares=before.spares)
        work = asyncio.create_task(run.run(rehearsal), name="rehearsal")
        with _signals(rehearsal, work):
            with contextlib.suppress(OSError):  # standard error is closed
                await _show(rehearsal, work)
            await asyncio.wait([work])
        if not work.cancelled():
            work.result()
        return Outcome(rehearsal, expected)


@contextlib.contextmanager
def _signals(rehearsal: Rehearsal, work: asyncio.Task[Any]) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP stops the load and cleans up; the second cancels all work."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if rehearsal.stop.is_set():
            work.cancel()
            return
        rehearsal.stop.set()
        with contextlib.suppress(OSError):
            click.echo("\nstopping, and deleting what was made; a second signal leaves it to expire", err=True)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _end(outcome: Outcome) -> None:
    if outcome.remaining:
        until = format_duration(max(1.0, round(outcome.remaining_seconds)))
        command = delete_command(outcome.rehearsal.ident)
        click.echo(f"{outcome.remaining_sentence}; they expire within {until}; delete them with: {command}", err=True)
    elif outcome.interrupted:
        click.echo("none of its stacks is left", err=True)
    if outcome.interrupted:
        sys.exit(INTERRUPTED)
    if not outcome.verdict.holds or outcome.remaining:
        sys.exit(FAILED)


async def _show(rehearsal: Rehearsal, work: asyncio.Task[Any]) -> None:
    """Show the live view until the work has ended, successfully or not; in a pipe, a line now and then."""
    last = time.monotonic()
    screen = render.Screen(err=True) if sys.stderr.isatty() else None
    with screen or contextlib.nullcontext():
        while not work.done():
            await asyncio.wait([work], timeout=REDRAW_SECONDS)
            if screen is not None:
                screen.draw(_view(rehearsal))
            elif time.monotonic() - last >= LINE_SECONDS:
                last = time.monotonic()
                counts = [f"{times.count} {stage.value}" for stage, times in _stages(rehearsal)]
                click.echo(f"{_head(rehearsal)}: {', '.join(counts)}", err=True)


def _head(rehearsal: Rehearsal) -> str:
    failed, remaining = sum(attempt.failed for attempt in rehearsal.attempts), rehearsal.remaining
    counts = f"{failed} failed" if remaining is None else f"{failed} failed, {remaining} left"
    return f"{rehearsal.now():.0f} s  {rehearsal.phase.value}  {counts}"


def _view(rehearsal: Rehearsal) -> list[str]:
    width, now, attempts = render.terminal_width(), rehearsal.now(), rehearsal.attempts
    heads, rows = ("", "now", "a second", *TIMES[1:]), []
    for stage, times in _stages(rehearsal):
        lately = sum(now - RATE_SECONDS <= one.times.get(stage, -now) for one in attempts) / RATE_SECONDS
        spread = [f"{getattr(times, name):.2f} s" if times.count else "" for name in TIMES[1:]]
        rows.append([stage.value, f"{times.count}/{rehearsal.plan.stacks}", f"{lately:.1f}", *spread])
    problems = [(one.count, one.example, render.BAD) for one in reasons(attempts)[:SHOWN]]
    problems += [(count, reason, render.WARNING) for reason, count in rehearsal.problems.most_common(SHOWN)]
    said = [(f"{count} times: {printable(reason)}", style) for count, reason, style in problems]
    head, *lines = [
        render.painted(render.cut(text, width), style)
        for text, style in ((f"{_head(rehearsal)}, {len(rehearsal.reads)} status reads", render.BOLD), *said)
    ]
    return [head, *_table(heads, rows, map(bool, heads)), *lines]


def _stages(rehearsal: Rehearsal) -> Iterator[tuple[Stage, Times]]:
    """How long each stage took so far; when a stack was scheduled is read from its timeline at the end."""
    for stage in Stage:
        if stage is not Stage.SCHEDULED and (stage is not Stage.REACHABLE or rehearsal.plan.probe != "none"):
            yield stage, summary(one.took(stage) for one in rehearsal.attempts)


def print_tables(tables: Iterable[Titled]) -> None:
    for title, heads, rows in tables:
        if rows:
            lines = _table(heads, rows, [are_numbers(column) for column in zip(*rows, strict=True)])
            click.echo("\n".join([render.painted(title, render.BOLD), *lines, ""]))


def _table(heads: Iterable[str], rows: Sequence[Sequence[str]], numeric: Iterable[bool]) -> list[str]:
    columns = [
        render.Column(head=head, of=itemgetter(at), right=right, fold=not right)
        for at, (head, right) in enumerate(zip(heads, numeric, strict=True))
    ]
    return render.table(columns, rows, render.terminal_width())[0]

"""A rehearsal from the command line: the plan from its options, its signals, and its end.

Owns: what the first and the second Ctrl-C mean, the exit code, and what a terminal shows meanwhile and at the end. In a
pipe, standard error gets a line now and then instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stackd.cli import FAILED, INTERRUPTED
from stackd.cli.options import labels_of, loop_factory
from stackd.cli.output import BAD, GOOD, WARNING, Column, console, print_json, print_unwrapped, table, terminal_width
from stackd.cli.stacks.create import request_body
from stackd.cli.target import Target, no_key
from stackd.printable import printable
from stackd.rehearse import run
from stackd.rehearse.connection import NoAnswer, connected
from stackd.rehearse.measure import Stage, Times, reasons, summary
from stackd.rehearse.outcome import TIMES, Goal, Outcome, Titled, are_numbers, outcome_of, parse_goal
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
SPARE_CONNECTIONS = 100
"""In addition to one connection per player, for all creates at the same time."""
REDRAW_SECONDS = 0.5
LINE_SECONDS = 10.0
RATE_SECONDS = 5.0
"""The rates of the live view are over this time."""
SHOWN = 4
"""How many reasons, and how many troubles, the live view has."""
T = TypeVar("T")


def rehearse(target: Target, options: dict[str, Any]) -> None:
    """Rehearse as the options say, and exit with the code for the result."""
    plan, expected = _plan(options), [_parsed("--expect", parse_goal, text) for text in options["expect"]]
    _check_goals(plan, expected)
    if (report := options["report"]) is not None and not report.parent.is_dir():
        raise click.UsageError(f"{report.parent} is not a folder, so no report can be written there")
    _allow_connections(plan.connections)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            found = runner.run(_rehearse(target, plan, expected, options))
        except NoAnswer as error:
            raise click.ClickException(f"{target.url} cannot be reached: {error}") from error
    if options["as_json"]:
        print_json(found.fields())
    else:
        print_tables(found.tables())
        style = f"bold {GOOD}" if found.verdict.holds else BAD
        console().print(Text(printable(found.verdict.sentence), style=style))
    if report is not None:
        report.write_text(page(found), encoding="utf-8")
    _end(found)


def _parsed(option: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=f"'{option}'") from error


def _plan(options: dict[str, Any]) -> Plan:
    if (options["rate"] is None) != options["burst"]:
        raise click.UsageError("say how players arrive: --rate 20/s, or --burst for all at once")
    kinds = []
    for what in ("template", "file"):
        for name, weight in (_parsed(f"--{what}", parse_weighted, text) for text in options[what]):
            body = {"template": name} if what == "template" else _request(name)
            kinds.append(StackKind(name=name, body=body, weight=weight))
    if not kinds:
        raise click.UsageError("say what they start: --template NAME or --file POD.yaml")
    churn = _parsed("--churn", parse_share, options["churn"])
    seconds: dict[str, Any] = {name: parse_duration(options[name]) for name in ("hold", "poll", "ttl", "patience")}
    if churn and not seconds["hold"]:
        raise click.UsageError("--churn happens during --hold: set --hold, too")
    if seconds["poll"] <= 0 or seconds["patience"] <= 0 or seconds["ttl"] < 1:
        raise click.UsageError("--poll and --patience must be above zero, and --ttl at least 1s")
    if LABEL in (labels := labels_of(options["label"])):
        raise click.UsageError(f"--label must be like team=7, and not {LABEL}")
    return Plan(
        kinds=kinds,
        stacks=options["stacks"],
        rate=None if options["burst"] else _parsed("--rate", parse_rate, options["rate"]),
        churn=churn,
        probe=options["probe"],
        labels=labels,
        connections=options["connections"] or min(MOST_CONNECTIONS, options["stacks"] + SPARE_CONNECTIONS),
        **seconds,
    )


def _request(name: str) -> dict[str, Any]:
    try:
        return request_body(Path(name).read_text(encoding="utf-8"), ())
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{name} cannot be read: {error}") from error


def _check_goals(plan: Plan, expected: Iterable[Goal]) -> None:
    for goal in expected:
        if goal.what == "reachable" and plan.probe == "none":
            raise click.UsageError(
                f"{goal.text}: whether stacks are reachable is measured only with --probe tcp or http"
            )
        if goal.what == "deletes" and not plan.churn:
            raise click.UsageError(f"{goal.text}: deletes are measured only with --churn")


def _allow_connections(connections: int) -> None:
    """Raise this process's limit of descriptors to what the plan needs, as far as the system allows it."""
    import resource

    wanted = 2 * connections + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        best = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (best, hard))


async def _rehearse(target: Target, plan: Plan, expected: list[Goal], options: dict[str, Any]) -> Outcome:
    ident = secrets.token_hex(4)
    async with connected(
        target.url, target.key, plan.connections, ssl_context=target.ssl_context, check_peer=target.check_peer
    ) as connection:
        found = await inspect(connection, plan, ident)
        if found.key_refused and not target.key:
            raise click.ClickException(no_key(target.url))
        lines = [*found.wrong]
        for option, objections in (("anyway", found.anyway), ("with_others", found.with_others)):
            if not options[option]:
                lines += [f"{line} (override with --{option.replace('_', '-')})" for line in objections]
        if lines:
            raise click.ClickException("\n".join(printable(line) for line in lines))
        rehearsal = Rehearsal(plan=plan, connection=connection, ident=ident)
        work = asyncio.create_task(run.run(rehearsal), name="rehearsal")
        with _signals(rehearsal, work):
            with contextlib.suppress(OSError):  # standard error is closed
                await show(rehearsal, work)
            await asyncio.wait([work])
        return outcome_of(rehearsal, None if work.cancelled() else work.result(), expected)


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

    handled = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # not the main thread
            loop.add_signal_handler(number, stop)
            handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def _end(found: Outcome) -> None:
    if found.left:
        until = format_duration(max(1.0, round(found.left_seconds)))
        command = delete_command(found.ident)
        click.echo(f"{found.left_sentence}; they expire within {until}; delete them now with: {command}", err=True)
    elif found.interrupted:
        click.echo("none of its stacks is left", err=True)
    if found.interrupted:
        sys.exit(INTERRUPTED)
    if not found.verdict.holds or found.left:
        sys.exit(FAILED)


async def show(rehearsal: Rehearsal, work: asyncio.Task[Any]) -> None:
    """Show the live view until the work has ended, successfully or not."""
    err = console(stderr=True)
    last = time.monotonic()
    live = Live(console=err, auto_refresh=False, transient=True) if err.is_terminal else None
    with live or contextlib.nullcontext():
        while not work.done():
            await asyncio.wait([work], timeout=REDRAW_SECONDS)
            if live is not None:
                live.update(view(rehearsal), refresh=True)
            elif time.monotonic() - last >= LINE_SECONDS:
                last = time.monotonic()
                click.echo(_line(rehearsal), err=True)


def view(rehearsal: Rehearsal) -> Group:
    """Build the live view."""
    now, attempts = rehearsal.now(), rehearsal.attempts
    head = Text(f"rehearsal {rehearsal.ident}  {now:.0f} s  {rehearsal.phase.value}", style="bold")
    heads, rows = ("", "now", "a second", *TIMES[1:]), []
    for stage, times in _stages(rehearsal):
        lately = sum(now - RATE_SECONDS <= one.times.get(stage, -now) for one in attempts) / RATE_SECONDS
        spread = [f"{getattr(times, name):.2f} s" if times.count else "" for name in TIMES[1:]]
        rows.append([stage.value, f"{times.count}/{rehearsal.plan.stacks}", f"{lately:.1f}", *spread])
    failed = sum(attempt.failed for attempt in attempts)
    tail = [f"{failed} failed", f"{len(rehearsal.reads)} status reads"]
    tail += [f"{rehearsal.left} stacks left"] if rehearsal.left is not None else []
    lines = [Text("  ".join(tail), style=BAD if failed else "dim")]
    found = [(len(sentences), sentences[0], BAD) for sentences in reasons(attempts).values()][:SHOWN]
    found += [(count, reason, WARNING) for reason, count in rehearsal.troubles.most_common(SHOWN)]
    lines += [Text(f"{count} times: {printable(reason)}", style=style) for count, reason, style in found]
    return Group(head, _table(heads, rows, map(bool, heads)), *lines)


def _line(rehearsal: Rehearsal) -> str:
    stages = ", ".join(f"{times.count} {stage.value}" for stage, times in _stages(rehearsal))
    left = "" if rehearsal.left is None else f", {rehearsal.left} left"
    failed = sum(attempt.failed for attempt in rehearsal.attempts)
    return f"{rehearsal.now():.0f} s  {rehearsal.phase.value}: {stages}, {failed} failed{left}"


def _stages(rehearsal: Rehearsal) -> Iterator[tuple[Stage, Times]]:
    """How long each stage took so far; when a stack was scheduled is read from its timeline at the end."""
    for stage in Stage:
        if stage is not Stage.SCHEDULED and (stage is not Stage.REACHABLE or rehearsal.plan.probe != "none"):
            yield stage, summary(one.took(stage) for one in rehearsal.attempts)


def print_tables(tables: Iterable[Titled]) -> None:
    """Print the tables that have rows."""
    out = console()
    for title, heads, rows in tables:
        if rows:
            out.print(Text(title, style="bold"))
            print_unwrapped(out, _table(heads, rows, [are_numbers(column) for column in zip(*rows, strict=True)]))
            out.print()


def _table(heads: Iterable[str], rows: Sequence[Sequence[str]], numeric: Iterable[bool]) -> Table:
    """A table whose columns of numbers are aligned to the right."""
    columns = [
        Column(head=head, of=itemgetter(at), right=right, fold=not right)
        for at, (head, right) in enumerate(zip(heads, numeric, strict=True))
    ]
    return table(columns, rows, terminal_width())[0]

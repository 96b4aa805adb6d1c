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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stackd.cli import FAILED, INTERRUPTED
from stackd.cli.options import loop_factory
from stackd.cli.output import print_json
from stackd.cli.stacks.create import request_body
from stackd.cli.target import Target, no_key
from stackd.printable import printable
from stackd.rehearse import goals, preflight, run
from stackd.rehearse.connection import NoAnswer, connected
from stackd.rehearse.outcome import Outcome, are_numbers, outcome_of
from stackd.rehearse.plan import LABEL, Plan, StackKind
from stackd.rehearse.rehearsal import Progress, Rehearsal, progress_of
from stackd.rehearse.report import page
from stackd.units import format_duration

MOST_CONNECTIONS = 4000
SPARE_CONNECTIONS = 100
"""In addition to one connection per player, for all creates at the same time."""
REDRAW_SECONDS = 0.5
LINE_SECONDS = 10.0


def rehearse(target: Target, options: dict[str, Any]) -> None:
    """Rehearse as the options say, and exit with the code for the result."""
    plan = _plan(options)
    given = RehearsalOptions(
        target=target,
        plan=plan,
        goals=options["expected"],
        anyway=options["anyway"],
        with_others=options["with_others"],
    )
    _check_goals(plan, given.goals)
    if (report := options["report"]) is not None and not report.parent.is_dir():
        raise click.UsageError(f"{report.parent} is not a folder, so no report can be written there")
    _allow_connections(plan.connections)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            found = runner.run(_rehearse(given))
        except NoAnswer as error:
            raise click.ClickException(f"{target.url} cannot be reached: {error}") from error
    if options["as_json"]:
        print_json(found.fields())
    else:
        print_outcome(found)
    if report is not None:
        report.write_text(page(found), encoding="utf-8")
    _end(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalOptions:
    """The options of the command."""

    target: Target
    plan: Plan
    goals: Sequence[goals.Goal]
    anyway: bool
    with_others: bool


def _plan(options: dict[str, Any]) -> Plan:
    if (options["rate"] is None) != options["burst"]:
        raise click.UsageError("say how players arrive: --rate 20/s, or --burst for all at once")
    kinds = [StackKind(name=name, body={"template": name}, weight=weight) for name, weight in options["templates"]]
    kinds += [StackKind(name=name, body=_request(name), weight=weight) for name, weight in options["files"]]
    if not kinds:
        raise click.UsageError("say what they start: --template NAME or --file POD.yaml")
    if options["churn"] and not options["hold"]:
        raise click.UsageError("--churn happens during --hold: set --hold, too")
    if options["poll"] <= 0 or options["patience"] <= 0 or options["ttl"] < 1:
        raise click.UsageError("--poll and --patience must be above zero, and --ttl at least 1s")
    labels = dict(_label(text) for text in options["labels"])
    return Plan(
        kinds=kinds,
        labels=labels,
        **{name: options[name] for name in ("stacks", "rate", "hold", "churn", "poll", "probe", "ttl", "patience")},
        connections=options["connections"] or min(MOST_CONNECTIONS, options["stacks"] + SPARE_CONNECTIONS),
    )


def _request(name: str) -> dict[str, Any]:
    try:
        return request_body(Path(name).read_text(encoding="utf-8"), ())
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{name} cannot be read: {error}") from error


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name == LABEL:
        raise click.UsageError(f"--label must be like team=7, and not {LABEL}: {text!r}")
    return name, value


def _check_goals(plan: Plan, expected: Sequence[goals.Goal]) -> None:
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


async def _rehearse(given: RehearsalOptions) -> Outcome:
    plan, ident = given.plan, secrets.token_hex(4)
    target = given.target
    async with connected(
        target.url, target.key, plan.connections, ssl_context=target.ssl_context, check_peer=target.check_peer
    ) as connection:
        found = await preflight.inspect(connection, plan, ident)
        if found.key_refused and not target.key:
            raise click.ClickException(no_key(target.url))
        _refuse(given, found)
        rehearsal = Rehearsal(plan=plan, connection=connection, ident=ident)
        work = asyncio.create_task(run.run(rehearsal), name="rehearsal")
        with _signals(rehearsal, work):
            with contextlib.suppress(OSError):  # standard error is closed
                await show(rehearsal, work)
            await asyncio.wait([work])
        measured = None if work.cancelled() else work.result()
        return outcome_of(rehearsal, measured, given.goals)


def _refuse(given: RehearsalOptions, found: preflight.Preflight) -> None:
    """Raise ClickException with everything that prevents the rehearsal."""
    lines = [*found.wrong]
    lines += [] if given.anyway else [f"{line} (override with --anyway)" for line in found.anyway]
    lines += [] if given.with_others else [f"{line} (override with --with-others)" for line in found.with_others]
    if lines:
        raise click.ClickException("\n".join(printable(line) for line in lines))


@contextlib.contextmanager
def _signals(rehearsal: Rehearsal, work: asyncio.Task[Any]) -> Any:
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
        command = preflight.delete_command(found.ident)
        click.echo(f"{found.left_sentence}; they expire within {until}; delete them now with: {command}", err=True)
    elif found.interrupted:
        click.echo("none of its stacks is left", err=True)
    if found.interrupted:
        sys.exit(INTERRUPTED)
    if not found.verdict.holds or found.left:
        sys.exit(FAILED)


async def show(rehearsal: Rehearsal, work: asyncio.Task[Any]) -> None:
    """Show the live view until the work has ended, successfully or not."""
    err = Console(stderr=True, highlight=False, markup=False, emoji=False)
    last = time.monotonic()
    live = Live(console=err, auto_refresh=False, transient=True) if err.is_terminal else None
    with live or contextlib.nullcontext():
        while not work.done():
            await asyncio.wait([work], timeout=REDRAW_SECONDS)
            if live is not None:
                live.update(view(progress_of(rehearsal)), refresh=True)
            elif time.monotonic() - last >= LINE_SECONDS:
                last = time.monotonic()
                click.echo(_line(progress_of(rehearsal)), err=True)


def view(progress: Progress) -> Group:
    """Build the live view."""
    head = Text(f"rehearsal {progress.ident}  {progress.seconds:.0f} s  {progress.phase}", style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim")
    for name in ("", "now", "a second", "p50", "p95", "p99", "longest"):
        table.add_column(name, justify="left" if not name else "right")
    for stage in progress.stages:
        times = [f"{value:.2f} s" for value in (stage.times.p50, stage.times.p95, stage.times.p99, stage.times.longest)]
        times = times if stage.times.count else [""] * 4
        table.add_row(stage.name, f"{stage.times.count}/{progress.asked_for}", f"{stage.rate:.1f}", *times)
    tail = [f"{progress.failed} failed", f"{progress.reads} status reads"]
    tail += [f"{progress.left} stacks left"] if progress.left is not None else []
    lines = [Text("  ".join(tail), style="bold red" if progress.failed else "dim")]
    lines += [Text(f"{count} times: {printable(reason)}", style="red") for reason, count in progress.reasons]
    lines += [Text(f"{count} times: {printable(reason)}", style="yellow") for reason, count in progress.troubles]
    return Group(head, table, *lines)


def _line(progress: Progress) -> str:
    stages = ", ".join(f"{stage.times.count} {stage.name}" for stage in progress.stages)
    left = "" if progress.left is None else f", {progress.left} left"
    return f"{progress.seconds:.0f} s  {progress.phase}: {stages}, {progress.failed} failed{left}"


def print_outcome(found: Outcome) -> None:
    """Print the tables, and the verdict last."""
    out = Console(highlight=False, markup=False, emoji=False)
    for title, heads, rows in found.tables():
        if not rows:
            continue
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim", title_justify="left")
        table.title, table.title_style = title, "bold"
        for head, column in zip(heads, zip(*rows, strict=True), strict=True):
            table.add_column(head, justify="right" if are_numbers(column) else "left", overflow="fold")
        for row in rows:
            table.add_row(*(printable(cell) for cell in row))
        out.print(table)
        out.print()
    out.print(Text(printable(found.verdict.sentence), style="bold green" if found.verdict.holds else "bold red"))

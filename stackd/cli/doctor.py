"""What ``stackd doctor`` does: finds problems, and prints each with what to do about it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stackd.cli.options import is_installed, loaded
from stackd.cli.output import BAD, GOOD, WARNING, counted, print_json_line
from stackd.cli.target import local_daemon
from stackd.config import Config, LoadedConfig
from stackd.config.credentials import API_KEY, KUBECONFIG
from stackd.doctor import Finding, Level, cluster, fail, machine, ok, running, service, warn
from stackd.doctor.cluster import Size
from stackd.doctor.probe import ProbeOptions, instance_for, probe
from stackd.doctor.service import Unit
from stackd.errors import ConfigError
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from stackd.printable import printable

CREDENTIALS = (API_KEY, KUBECONFIG)
COLOURS = {Level.OK: GOOD, Level.WARN: WARNING, Level.FAIL: BAD}
LEVEL_WIDTH, ABOUT_WIDTH = 4, 13


async def diagnose(config_path: Path | None, size: Size, options: ProbeOptions | None, output: str) -> int:
    """Print each finding as soon as it is known. Returns the number of failures."""
    told = say_json if output else say
    try:
        found = loaded(config_path)
    except ConfigError as error:
        return await told(_misconfigured(error))
    return await told(examine(found, config_path, size, options))


async def _misconfigured(error: ConfigError) -> AsyncGenerator[Finding, None]:
    """The findings if the configuration is not valid: its mistakes, and the service's state in systemd."""
    for mistake in error.mistakes:
        yield fail("configuration", mistake, "fix it; `stackd check` checks it again")
    if (known := service.find_unit()) is not None:
        last = service.last_error(known)
        for finding in service.examine(known, "" if any(one in last for one in error.mistakes) else last):
            yield finding


async def examine(
    found: LoadedConfig, config_path: Path | None, size: Size, options: ProbeOptions | None
) -> AsyncGenerator[Finding, None]:
    """Yield all findings, each as soon as it is known."""
    known = service.find_unit() if is_installed(config_path) else None
    if known is not None:
        found = dataclasses.replace(found, config=service.as_seen_by(found.config, known))
    config = found.config
    for finding in machine.examine(found, config_path):
        yield finding
    at = local_daemon(config, config_path)
    if key := key_of_environment():
        at = dataclasses.replace(at, key=key)
    if known is not None:
        async for finding in _installed(known, config, config_path, await running.loaded_at(at)):
            yield finding
    state = await running.examine(at, expected=known is not None and known.active == "active")
    about_daemon = [state, *await running.unknown_objects(at), *await running.templates(at)]
    if config.cluster.mode in ("embedded", "auto"):
        text = {"embedded": "it is the embedded one: its pods are simulated", "auto": "none is configured"}
        about_daemon.append((ok if config.cluster.mode == "embedded" else warn)("cluster", text[config.cluster.mode]))
        for finding in about_daemon:
            yield finding
        return
    async with aclosing(_connected(config, size, options, await running.stacks(at))) as findings:
        async for finding in findings:
            for one in about_daemon:
                yield dataclasses.replace(one, what=one.what.replace(finding.what, "see cluster, below"))
            about_daemon.clear()
            yield finding


async def _installed(
    known: Unit, config: Config, config_path: Path | None, loaded_at: float
) -> AsyncGenerator[Finding, None]:
    files = [config_path, *(config_path.with_name(name) for name in CREDENTIALS)] if config_path is not None else []
    for findings in (
        service.examine(known, service.last_error(known)),
        service.not_in_force(known, loaded_at, files),
        service.owners(config, known),
        service.unreadable(config, config_path, known),
    ):
        for finding in findings:
            yield finding


async def _connected(
    config: Config, size: Size, options: ProbeOptions | None, stacks: set[str] | None
) -> AsyncGenerator[Finding, None]:
    try:
        reached = await Cluster.connect(ClusterTarget.of(config))
    except ConfigError as error:
        for mistake in error.mistakes:
            yield fail("cluster", mistake, "fix the kubeconfig")
        return
    try:
        healthy = False
        async for finding in cluster.examine(reached, config, size):
            healthy = healthy or finding.level is Level.OK
            yield finding
        if healthy and stacks is not None and (foreign := await cluster.foreign_pods(reached, config, stacks)):
            yield foreign
    finally:
        await reached.close()
    if options is None or not healthy:
        return
    probing = await Cluster.connect(ClusterTarget.of(config, instance=instance_for(config)))
    try:
        async with aclosing(probe(probing, config, options)) as findings:
            async for finding in findings:
                yield finding
    finally:
        await probing.close()


def key_of_environment() -> str:
    """The key for the daemon in the environment, or an empty text."""
    given = (os.environ.get(variable, "").strip() for variable in ("STACKD_API_KEY", "STACKD_AUTH__KEY"))
    return next(filter(None, given), "")


async def say(findings: AsyncGenerator[Finding, None]) -> int:
    """Print each finding. Returns the number of failures."""
    console = Console()
    counts = dict.fromkeys(Level, 0)
    async for finding in findings:
        counts[finding.level] += 1
        console.print(_line(finding))
    warnings, failures = counted(counts[Level.WARN], "warning"), counted(counts[Level.FAIL], "failure")
    console.print(f"\n{counts[Level.OK]} ok, {warnings}, {failures}")
    return counts[Level.FAIL]


async def say_json(findings: AsyncGenerator[Finding, None]) -> int:
    """Print each finding as one line of JSON. Returns the number of failures."""
    failed = 0
    async for finding in findings:
        failed += finding.level is Level.FAIL
        print_json_line(dataclasses.asdict(finding))
    return failed


def _line(finding: Finding) -> Table:
    heads = ((Text(finding.level, style=COLOURS[finding.level]), LEVEL_WIDTH), (Text(finding.about), ABOUT_WIDTH))
    return advised(heads, finding.what, finding.advice)


def advised(heads: Iterable[tuple[Text, int]], what: str, advice: str) -> Table:
    """A row with its heads, each of a given width, then the text, and the advice below it."""
    row = Table.grid(padding=(0, 2), expand=False)
    heads = list(heads)
    for _, width in heads:
        row.add_column(width=width)
    row.add_column(overflow="fold")
    text = Text(printable(what, lines=True))
    if advice:
        text.append(f"\n→ {printable(advice, lines=True)}", style="bold")
    row.add_row(*(head for head, _ in heads), text)
    return row

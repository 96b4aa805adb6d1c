"""What ``stackd doctor`` does: finds problems, and prints each with what to do about it."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

import click

from stackd.cli.installed import is_installed
from stackd.cli.options import loaded
from stackd.cli.output import BAD, BOLD, GOOD, PLAIN, WARNING, Style, counted, laid_out, print_json_line
from stackd.cli.target import local_daemon
from stackd.config import Config, LoadedConfig
from stackd.config.credentials import API_KEY, KUBECONFIG, PLAY_SECRET
from stackd.doctor import Finding, Level, cluster, fail, machine, ok, running, service, warn
from stackd.doctor.cluster import Size
from stackd.doctor.probe import ProbeOptions, instance_for, probe
from stackd.doctor.service import Unit
from stackd.errors import ConfigError
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from stackd.kube.wire import SEE_DOCTOR
from stackd.printable import printable

KEYS = ("STACKD_API_KEY", "STACKD_AUTH__KEY")
"""The variables that may hold a key for the daemon."""

COLOURS = {Level.OK: GOOD, Level.WARN: WARNING, Level.FAIL: BAD}
LEVEL_WIDTH, ABOUT_WIDTH = 4, 13


async def diagnose(config_path: Path | None, size: Size, options: ProbeOptions | None, output: str) -> int:
    """Print each finding as soon as there is one. Returns the number of failures."""
    try:
        configuration = loaded(config_path)
    except ConfigError as error:
        return await say(_misconfigured(error), as_json=bool(output))
    return await say(examine(configuration, config_path, size, options), as_json=bool(output))


async def _misconfigured(error: ConfigError) -> AsyncGenerator[Finding, None]:
    """The findings if the configuration is not valid: its mistakes, and the service's state in systemd."""
    for mistake in error.mistakes:
        yield fail("configuration", mistake, "fix it; `stackd check` checks it again")
    if (unit := service.find_unit()) is not None:
        last = service.last_error(unit)
        for finding in service.examine(unit, "" if any(one in last for one in error.mistakes) else last):
            yield finding


async def examine(
    configuration: LoadedConfig, config_path: Path | None, size: Size, options: ProbeOptions | None
) -> AsyncGenerator[Finding, None]:
    """Yield all findings, each as soon as there is one."""
    unit = service.find_unit() if is_installed(config_path) else None
    if unit is not None:
        configuration = dataclasses.replace(configuration, config=service.as_seen_by(configuration.config, unit))
    config, mode = configuration.config, configuration.config.cluster.mode
    for finding in machine.examine(configuration, config_path, installed=unit is not None):
        yield finding
    at = local_daemon(config, config_path)
    if key := next(filter(None, (os.environ.get(name, "").strip() for name in KEYS)), ""):
        at = dataclasses.replace(at, key=key)
    moved = unit is not None and any(key.startswith("server.") for key in service.waiting(unit))
    daemon = await running.examine(at, expected=unit is not None and unit.active == "active", moved=moved)
    if unit is not None:
        for finding in _installed(unit, config, config_path, daemon.loaded_at):
            yield finding
    if mode in ("embedded", "auto"):
        for finding in daemon.findings:
            yield finding
        embedded = ok("cluster", "it is the embedded one: its pods are simulated")
        yield embedded if mode == "embedded" else warn("cluster", "none is configured")
        return
    async with aclosing(_connected(config, size, options, daemon.stacks)) as findings:
        async for finding in findings:
            for one in daemon.findings:
                yield dataclasses.replace(one, what=one.what.replace(finding.what, "see cluster, below"))
            daemon.findings.clear()
            yield finding


def _installed(unit: Unit, config: Config, config_path: Path | None, loaded_at: float) -> Iterator[Finding]:
    files = (
        [config_path, *map(config_path.with_name, (API_KEY, PLAY_SECRET, KUBECONFIG))]
        if config_path is not None
        else []
    )
    yield from service.examine(unit, service.last_error(unit))
    yield from service.not_in_force(unit, loaded_at, files)
    yield from service.owners(config, unit)
    yield from service.unreadable(config, config_path, unit)


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
        async with aclosing(cluster.examine(reached, config, size)) as findings:
            async for finding in findings:
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


async def say(findings: AsyncGenerator[Finding, None], *, as_json: bool = False) -> int:
    """Print each finding, as JSON or for people. Returns the number of failures."""
    counts = Counter[Level]()
    async with aclosing(findings):  # the reader may leave in the middle
        async for finding in findings:
            counts[finding.level] += 1
            shown = dataclasses.replace(finding, what=finding.what.replace(SEE_DOCTOR, ""))  # this is the doctor
            if as_json:
                print_json_line(dataclasses.asdict(shown))
            else:
                level = (finding.level, LEVEL_WIDTH, COLOURS[finding.level])
                print_advised([level, (finding.about, ABOUT_WIDTH, PLAIN)], shown.what, shown.advice)
    if not as_json:
        warnings, failures = counted(counts[Level.WARN], "warning"), counted(counts[Level.FAIL], "failure")
        click.echo(f"\n{counts[Level.OK]} ok, {warnings}, {failures}")
    return counts[Level.FAIL]


def print_advised(heads: Sequence[tuple[str, int, Style]], what: str, advice: str) -> None:
    """Print a row with its heads, each with its width, then the text, and the advice below it; wrap on a terminal only."""
    lines = [(line, PLAIN) for line in printable(what, lines=True).splitlines()]
    lines += [(line, BOLD) for line in printable(f"→ {advice}", lines=True).splitlines() if advice]
    click.echo("\n".join(laid_out(heads, lines)))

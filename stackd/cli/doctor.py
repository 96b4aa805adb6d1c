"""What ``stackd doctor`` does: finds problems, and prints each with what to do about it."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from stackd.cli.installed import is_installed
from stackd.cli.options import loaded
from stackd.cli.output import BAD, BOLD, GOOD, PLAIN, WARNING, Style, counted, laid_out, print_json_line
from stackd.cli.target import local_daemon
from stackd.config import Config, LoadedConfig
from stackd.config.credentials import API_KEY, KUBECONFIG, PLAY_SECRET
from stackd.doctor import Finding, Found, Level, cluster, fail, machine, ok, running, service, warn
from stackd.doctor.cluster import Size
from stackd.doctor.probe import ProbeOptions, instance_for, probe
from stackd.errors import ConfigError
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from stackd.kube.wire import SEE_DOCTOR
from stackd.printable import printable

# The variables that may hold a key for the daemon.
KEYS = ("STACKD_API_KEY", "STACKD_AUTH__KEY")
COLOURS = {Level.OK: GOOD, Level.WARN: WARNING, Level.FAIL: BAD}
LEVEL_WIDTH, ABOUT_WIDTH = 4, 13
SEE_CLUSTER = "see cluster, below"


async def diagnose(config_path: Path | None, size: Size, options: ProbeOptions | None, *, as_json: bool = False) -> int:
    """Print each finding, as JSON or for people, as soon as there is one. Returns the number of failures."""
    counts = Counter[Level]()

    def found(findings: Iterable[Finding]) -> None:
        for finding in findings:
            counts[finding.level] += 1
            shown = dataclasses.replace(finding, what=finding.what.replace(SEE_DOCTOR, ""))  # this is the doctor
            if as_json:
                print_json_line(dataclasses.asdict(shown))
            else:
                level = (finding.level, LEVEL_WIDTH, COLOURS[finding.level])
                print_advised([level, (finding.about, ABOUT_WIDTH, PLAIN)], shown.what, shown.advice)

    try:
        configuration = loaded(config_path)
    except ConfigError as error:
        found(_misconfigured(error))
    else:
        await examine(configuration, config_path, size, options, found)
    if not as_json:
        warnings, failures = counted(counts[Level.WARN], "warning"), counted(counts[Level.FAIL], "failure")
        click.echo(f"\n{counts[Level.OK]} ok, {warnings}, {failures}")
    return counts[Level.FAIL]


def _misconfigured(error: ConfigError) -> Iterator[Finding]:
    """The findings if the configuration is not valid: its mistakes, and the service's state in systemd."""
    for mistake in error.mistakes:
        yield fail("configuration", mistake, "fix it; `stackd check` checks it again")
    if (unit := service.find_unit()) is not None:
        last = service.last_error(unit)
        yield from service.examine(unit, "" if any(one in last for one in error.mistakes) else last)


async def examine(
    configuration: LoadedConfig, config_path: Path | None, size: Size, options: ProbeOptions | None, found: Found
) -> None:
    unit = service.find_unit() if is_installed(config_path) else None
    if unit is not None:
        configuration = dataclasses.replace(configuration, config=service.as_seen_by(configuration.config, unit))
    config, mode = configuration.config, configuration.config.cluster.mode
    found(machine.examine(configuration, config_path, installed=unit is not None))
    at = local_daemon(config, config_path)
    if key := next(filter(None, (os.environ.get(name, "").strip() for name in KEYS)), ""):
        at = dataclasses.replace(at, key=key)
    moved = unit is not None and any(key.startswith("server.") for key in service.waiting(unit))
    daemon = await running.examine(at, expected=unit is not None and unit.active == "active", moved=moved)
    if unit is not None:
        files = [config_path, *map(config_path.with_name, (API_KEY, PLAY_SECRET, KUBECONFIG))] if config_path else []
        found(service.examine(unit, service.last_error(unit)))
        found(service.not_in_force(unit, daemon.loaded_at, files))
        found(service.owners(config, unit))
        found(service.unreadable(config, config_path, unit))
    if mode in ("embedded", "auto"):
        found(daemon.findings)
        embedded = ok("cluster", "it is the embedded one: its pods are simulated")
        found([embedded if mode == "embedded" else warn("cluster", "none is configured")])
        return

    def found_there(findings: Iterable[Finding]) -> None:
        for finding in findings:
            said = [
                dataclasses.replace(one, what=one.what.replace(finding.what, SEE_CLUSTER)) for one in daemon.findings
            ]
            daemon.findings.clear()
            found([*said, finding])

    await _examine_cluster(config, size, options, daemon.stacks, found_there)


async def _examine_cluster(
    config: Config, size: Size, options: ProbeOptions | None, stacks: set[str] | None, found: Found
) -> None:
    try:
        reached = await Cluster.connect(ClusterTarget.of(config))
    except ConfigError as error:
        found(fail("cluster", mistake, "fix the kubeconfig") for mistake in error.mistakes)
        return
    try:
        answers = await cluster.examine(reached, config, size, found)
        if answers and stacks is not None and (foreign := await cluster.foreign_pods(reached, config, stacks)):
            found([foreign])
    finally:
        await reached.close()
    if options is not None and answers:
        probing = await Cluster.connect(ClusterTarget.of(config, instance=instance_for(config)))
        try:
            await probe(probing, config, options, found)
        finally:
            await probing.close()


def print_advised(heads: Sequence[tuple[str, int, Style]], what: str, advice: str) -> None:
    """Print a row with its heads, each with its width, then the text, and the advice below it; wrap on a terminal only."""
    lines = [(line, PLAIN) for line in printable(what, lines=True).splitlines()]
    lines += [(line, BOLD) for line in printable(f"→ {advice}", lines=True).splitlines() if advice]
    click.echo("\n".join(laid_out(heads, lines)))

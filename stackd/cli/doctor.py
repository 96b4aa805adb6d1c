"""``stackd doctor``: what is not as it should be, with what to do about it; exit code 1 if anything fails."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stackd.cli.options import as_service, config_option
from stackd.config import Config, Loaded
from stackd.config.keyring import CREDENTIAL
from stackd.doctor import Finding, Level, cluster, machine, running
from stackd.doctor.capacity import Size
from stackd.doctor.findings import ok, warn
from stackd.doctor.probe import IMAGE, Options, instance_for, probe
from stackd.kube.client import Cluster, ClusterTarget
from stackd.podspec import quantity

FAILED = 1
COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
ABOUT_WIDTH = 13


def _milli(ctx: click.Context, param: click.Parameter, value: str) -> int:
    return _quantity(ctx, param, value).milli


def _whole(ctx: click.Context, param: click.Parameter, value: str) -> int:
    return _quantity(ctx, param, value).whole


def _quantity(ctx: click.Context, param: click.Parameter, value: str) -> quantity.Quantity:
    try:
        parsed = quantity.parse(value)
    except ValueError as error:
        raise click.BadParameter(f"{value} is {error}", ctx, param) from error
    if parsed.nanos <= 0:
        raise click.BadParameter(f"{value} is nothing", ctx, param)
    return parsed


@click.command()
@config_option
@click.option("--cpu", "cpu_milli", default="100m", show_default=True, callback=_milli, help="CPU of one stack.")
@click.option("--memory", default="128Mi", show_default=True, callback=_whole, help="Memory of one stack.")
@click.option("--probe", "with_probe", is_flag=True, help="Start two stacks that try to reach each other, and more.")
@click.option("--probe-image", default=IMAGE, show_default=True, help="It needs sh, nc and httpd.")
@click.option("--probe-seconds", default=90.0, show_default=True, help="How long each step of the probe may take.")
def doctor(
    config_path: Path | None, cpu_milli: int, memory: int, with_probe: bool, probe_image: str, probe_seconds: float
) -> None:
    """Look at this machine, the cluster and the daemon; say what is wrong, and what to do."""
    size = Size(cpu_milli=cpu_milli, memory_bytes=memory)
    options = Options(image=probe_image, seconds=probe_seconds) if with_probe else None
    if asyncio.run(_say(examine(as_service(config_path), config_path, size, options))):
        sys.exit(FAILED)


async def examine(
    found: Loaded, config_path: Path | None, size: Size, options: Options | None
) -> AsyncGenerator[Finding, None]:
    """All findings, each as soon as it is known."""
    config = found.config
    for finding in machine.examine(found, config_path):
        yield finding
    yield await running.examine(config, _key(config, config_path))
    if config.cluster.mode in ("embedded", "auto"):
        text = {"embedded": "it is an embedded one, and make-believe", "auto": "none is configured"}
        yield (ok if config.cluster.mode == "embedded" else warn)("cluster", text[config.cluster.mode])
        return
    async with aclosing(_connected(config, size, options)) as findings:
        async for finding in findings:
            yield finding


async def _connected(config: Config, size: Size, options: Options | None) -> AsyncGenerator[Finding, None]:
    reached = await Cluster.connect(_target(config, config.cluster.instance))
    try:
        healthy = False
        async for finding in cluster.examine(reached, config, size):
            healthy = healthy or finding.level is Level.OK
            yield finding
    finally:
        await reached.close()
    if options is None or not healthy:
        return
    probing = await Cluster.connect(_target(config, instance_for(config)))
    try:
        async with aclosing(probe(probing, config, options)) as findings:
            async for finding in findings:
                yield finding
    finally:
        await probing.close()


def _target(config: Config, instance: str) -> ClusterTarget:
    chosen = config.cluster
    return ClusterTarget(
        mode=chosen.mode,
        kubeconfig=chosen.kubeconfig,
        context=chosen.context,
        instance=instance,
        namespace=config.stacks.namespace,
    )


def _key(config: Config, config_path: Path | None) -> str:
    """A key for the daemon from where one may stand as text."""
    for variable in ("STACKD_API_KEY", "STACKD_AUTH__KEY"):
        if given := os.environ.get(variable, "").strip():
            return given
    beside = config_path.with_name(CREDENTIAL) if config_path is not None else None
    for file in (Path(config.auth.key_file) if config.auth.key_file else None, beside):
        try:
            lines = file.read_text(encoding="utf-8").splitlines() if file is not None else []
        except (OSError, UnicodeDecodeError):
            continue
        if keys := [line.strip() for line in lines if line.strip() and not line.startswith("#")]:
            return keys[0]
    return ""


async def _say(findings: AsyncGenerator[Finding, None]) -> int:
    """Print each; how many failed."""
    console = Console()
    counts = dict.fromkeys(Level, 0)
    async for finding in findings:
        counts[finding.level] += 1
        console.print(_line(finding))
    console.print(f"\n{counts[Level.OK]} ok, {counts[Level.WARN]} warnings, {counts[Level.FAIL]} failures")
    return counts[Level.FAIL]


def _line(finding: Finding) -> Table:
    table = Table.grid(padding=(0, 2), expand=False)
    table.add_column(width=4)
    table.add_column(width=ABOUT_WIDTH)
    table.add_column(overflow="fold")
    text = Text(finding.what)
    if finding.advice:
        text.append(f"\n→ {finding.advice}", style="bold")
    table.add_row(Text(finding.level, style=COLOURS[finding.level]), Text(finding.about), text)
    return table

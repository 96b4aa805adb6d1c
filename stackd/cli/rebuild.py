"""``stackd rebuild``: a new file from what the cluster's objects carry, after the old one was lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from stackd import daemon, logs
from stackd.cli.options import config_option, without_keys
from stackd.errors import StackdError


@click.command()
@config_option
def rebuild(config_path: Path | None) -> None:
    """Recover every live stack from the cluster into an empty file; says what could not be recovered."""
    configuration = without_keys(config_path)
    logs.setup(configuration.config.log)
    report = asyncio.run(daemon.rebuild(configuration))
    for name, reason in report.lost:
        click.echo(f"not recovered: {name}: {reason}", err=True)
    click.echo(f"recovered {len(report.recovered)} stacks into {configuration.config.state.path}")
    if report.lost:
        raise StackdError(f"{len(report.lost)} objects could not be recovered; they are left as they are")

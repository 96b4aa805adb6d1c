"""``stackd check``: is the configuration right, and what is in force."""

from __future__ import annotations

from pathlib import Path

import click

from stackd.cli.options import config_option, loaded
from stackd.config.settings import settings


@click.command()
@config_option
@click.option("--effective", is_flag=True, help="Print every key with its value and where the value comes from.")
def check(config_path: Path | None, effective: bool) -> None:
    """Check the configuration without starting anything; all mistakes at once, exit code 2 if there are any."""
    result = loaded(config_path)
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    if not effective:
        click.echo("the configuration is right")
        return
    lines = [(f"{s.name} = {s.text(result.config)}", result.origins[s.name]) for s in settings()]
    width = min(60, max(len(text) for text, _ in lines))
    for text, origin in lines:
        click.echo(f"{text:<{width}}  # {origin}")

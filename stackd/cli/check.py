"""``stackd check``: is the configuration right, and what is in force."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from stackd.cli.options import as_service, config_option, loaded
from stackd.config.keyring import HOW_TO_SET_ONE
from stackd.config.kubeconfig import NO_CLUSTER
from stackd.config.settings import settings
from stackd.errors import ConfigError

WRONG = 2


@click.command()
@config_option
@click.option("--effective", is_flag=True, help="Print every key with its value and where the value comes from.")
@click.option("--for-reload", is_flag=True, hidden=True)
def check(config_path: Path | None, effective: bool, for_reload: bool) -> None:
    """Check the configuration without starting anything; all mistakes at once, exit code 2 if there are any."""
    if for_reload:
        _check_for_reload(config_path)
        return
    result = as_service(config_path)
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    if not effective:
        click.echo("the configuration is right")
        return
    lines = [(f"{s.name} = {s.text(result.config)}", result.origins[s.name]) for s in settings()]
    width = min(60, max(len(text) for text, _ in lines))
    for text, origin in lines:
        click.echo(f"{text:<{width}}  # {origin}")


def _check_for_reload(config_path: Path | None) -> None:
    """Only the exit code counts, the daemon says the rest; and systemd gives an ExecReload= no credentials."""
    try:
        loaded(config_path)
    except ConfigError as error:
        if not all(mistake.endswith((HOW_TO_SET_ONE, NO_CLUSTER)) for mistake in error.mistakes):
            sys.exit(WRONG)

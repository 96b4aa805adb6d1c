"""``stackd backup``: a consistent copy of the file, while the daemon runs or not."""

from __future__ import annotations

from pathlib import Path

import click

from stackd.cli.options import config_option, without_keys
from stackd.store import backup_file


@click.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@config_option
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def backup(target: Path, config_path: Path | None, force: bool) -> None:
    """Copy the state to FILE, consistently, also while the daemon runs.

    To restore: stop the daemon, put the copy in the place of state.path, start the daemon.
    """
    source = Path(without_keys(config_path).config.state.path)
    backup_file(source, target, force=force)
    click.echo(f"{source} → {target} ({target.stat().st_size:,} bytes)")

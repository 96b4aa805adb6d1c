"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path

import click

from stackd.config import Loaded, load

config_option = click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(path_type=Path, readable=False),
    envvar="STACKD_CONFIG",
    metavar="FILE",
    help="The configuration file (TOML). Without one, defaults and STACKD_… variables count.",
)


def loaded(path: Path | None) -> Loaded:
    """The configuration in the file and the environment. Raises ConfigError with all mistakes."""
    return load(path, os.environ)

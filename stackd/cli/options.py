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


def as_service(path: Path | None) -> Loaded:
    """The same as the service reads it: without systemd, what it hands over is looked for beside the file."""
    beside = path.parent if path is not None and not os.environ.get("CREDENTIALS_DIRECTORY") else None
    return load(path, os.environ, beside)


def without_keys(path: Path | None) -> Loaded:
    """The same for a command that nobody calls over the network, and that may run as a user who cannot read keys."""
    return load(path, {**os.environ, "STACKD_AUTH__ENABLED": "false"})

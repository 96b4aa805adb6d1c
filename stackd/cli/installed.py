"""The configuration of the installed service: where it is, and whether this user may read it."""

from __future__ import annotations

import os
from pathlib import Path

# Where `make install` puts it.
INSTALLED = Path("/etc/stackd/config.toml")


def installed() -> Path | None:
    """The installed configuration, if there is one and this user may read it."""
    return INSTALLED if os.access(INSTALLED, os.R_OK) else None


def is_installed(path: Path | None) -> bool:
    """Whether ``path`` is the configuration of the service."""
    return path is not None and os.path.realpath(path) == os.path.realpath(INSTALLED)


def hidden() -> bool:
    """Whether the installed configuration exists, or is in a folder that this user may not look into."""
    try:
        INSTALLED.stat()
    except OSError as error:
        return isinstance(error, PermissionError)
    return True

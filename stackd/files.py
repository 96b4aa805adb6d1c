"""Files that only their owner may read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def create_private(path: Path) -> int:
    """Create the file with mode 0600, and return its descriptor.

    Never opens what somebody else has put there, nor follows a link. Raises FileExistsError, or another OSError.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step, and durably; only its owner may read it. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(create_private(fresh), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)

"""Files that only their owner may read, key files, and the names of owners.

Owns: the form of a key file, for the daemon and for the commands.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

ONE_A_LINE = "a file with one key a line is expected"
_LARGEST = 64 << 10


def read_keys(path: Path) -> list[tuple[str, str]]:
    """The keys of a key file, at least one, each on its line, and before each its name, which may be empty: ``name: key``.
    A line that begins with ``#`` is a comment.

    Raises OSError if the file cannot be read, ValueError with the rest of a sentence if it is no key file.
    """
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:  # a truncated last key would count as a key
        raise ValueError(f"is larger than {_LARGEST >> 10} KiB; {ONE_A_LINE}")
    try:
        lines = [line.strip() for line in content.decode().splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"is not text; {ONE_A_LINE}") from error
    named = [line.rpartition(": ") for line in lines if line and not line.startswith("#")]
    return usable([(name.strip(), key.strip()) for name, _, key in named])


def usable(keys: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the names and keys. Raises ValueError with the rest of a sentence if there are none, or if one cannot be sent."""
    if not any(key for _, key in keys):
        raise ValueError(f"holds no key; {ONE_A_LINE}")
    if not all(can_be_sent(key) for _, key in keys):
        raise ValueError(
            "holds a key that no header can carry; use letters and digits, and before it a name and a colon"
        )
    return keys


def can_be_sent(key: str) -> bool:
    """Whether a header can carry the key."""
    return key.isascii() and key.isprintable() and " " not in key


def create_private(path: Path) -> int:
    """Create the file with mode 0600, and return its descriptor.

    Never opens what somebody else has put there, nor follows a link. Raises FileExistsError, or another OSError.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def write_private(path: Path, content: str | bytes) -> None:
    """Replace the file in one step, and durably; only its owner may read it. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(create_private(fresh), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # not the name of the fresh file
    finally:
        fresh.unlink(missing_ok=True)


def user_name(uid: int) -> str:
    """The user's name, or else the number."""
    import pwd  # the client, which uses this module, runs on Windows, too

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

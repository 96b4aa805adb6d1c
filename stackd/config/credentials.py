"""systemd's credentials: files in a folder of the service's own.

Owns the word for "none": a unit that makes a credential optional (``LoadCredential=`` with ``SetCredential=`` as the
fallback) has to give the fallback some text, and stackd's unit gives it this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

UNSET: Final = b"#unset"


def credential(folder: Path | None, name: str) -> Path | None:
    """The file of that credential, readable or not; None if it was not given."""
    if folder is None or not (folder / name).exists():
        return None
    try:
        with (folder / name).open("rb") as file:
            given = file.read(len(UNSET) + 2).strip() != UNSET
    except OSError:
        given = True
    return folder / name if given else None

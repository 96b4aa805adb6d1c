"""Which build of stackd runs, and whether another one has been installed since.

An upgrade leaves the old process running if its check refuses the configuration, or if nobody restarts it. A build is known by
the lists of files and hashes that an installer keeps for each package (RECORD), stackd's libraries included. A checkout has none
beside it, and so is never replaced.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import stackd
from stackd.upkeep.tls import Stamp, stamp_of

PACKAGES = Path(stackd.__file__).parents[1]


class Build:
    """The build in ``folder`` when this object was made, which is to be at the start of the process."""

    def __init__(self, folder: Path = PACKAGES) -> None:
        self._folder = folder
        self._stamps = self._read_stamps()
        self._runs = self._installed = self._digest()

    def is_older(self) -> bool:
        """Whether another build is installed than the one that runs. Reads files, so it is for a thread."""
        if (stamps := self._read_stamps()) != self._stamps:
            self._stamps, self._installed = stamps, self._digest()
        return bool(self._runs and self._installed) and self._installed != self._runs

    def _read_stamps(self) -> dict[Path, Stamp | None]:
        return {file: stamp_of(file) for file in sorted(self._folder.glob("*.dist-info/RECORD"))}

    def _digest(self) -> str:
        """Empty while stackd is not installed there, as for a moment within an installation."""
        if not any(file.parent.name.startswith("stackd-") for file in self._stamps):
            return ""
        digest = hashlib.sha256()
        try:
            for file in self._stamps:
                digest.update(file.parent.name.encode() + b"\0" + file.read_bytes())
        except OSError:
            return ""
        return digest.hexdigest()

"""Which build of stackd runs, and whether another one has been installed since.

An upgrade leaves the old process running if its check refuses the configuration, or if nobody restarts it. A build is known by
the lists of files and hashes that an installer keeps for each package (RECORD), stackd's libraries included. A checkout has none
beside it, and so is never replaced.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import stackd
from stackd.upkeep.tls import Stamp, stamp_of

Stamps = dict[Path, Stamp | None]
PACKAGES = Path(stackd.__file__).parents[1]


class Build:
    """The build in ``folder`` when this object was made, which is to be at the start of the process."""

    def __init__(self, folder: Path = PACKAGES) -> None:
        self._folder = folder
        self._stamps: Stamps = {}
        self._runs = self._installed = ""
        with suppress(OSError):
            self._stamps = self._read_stamps()
            self._runs = self._installed = self._digest(self._stamps)

    def is_older(self) -> bool:
        """Whether another build is installed than the one that runs. Reads files, so it is for a thread."""
        with suppress(OSError):  # such as too many open files: the next look finds out
            if (stamps := self._read_stamps()) != self._stamps:
                self._installed, self._stamps = self._digest(stamps), stamps
        return bool(self._runs and self._installed) and self._installed != self._runs

    def _read_stamps(self) -> Stamps:
        return {file: stamp_of(file) for file in sorted(self._folder.glob("*.dist-info/RECORD"))}

    @staticmethod
    def _digest(stamps: Stamps) -> str:
        """Empty while stackd is not installed there, as for a moment within an installation. Raises OSError."""
        if not any(file.parent.name.startswith("stackd-") for file in stamps):
            return ""
        digest = hashlib.sha256()
        for file in stamps:
            digest.update(file.parent.name.encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()

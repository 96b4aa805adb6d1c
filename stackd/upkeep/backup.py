"""Backups that leave the machine: ``backup.command`` after each, and when it last succeeded.

Owns the mark beside the state file, whose time says so. A restored state has none: nothing has left its new machine yet.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from stackd.config.sections import BackupSection
from stackd.errors import StackdError
from stackd.files import write_private

LAST_BYTES: Final = 2000
SHELL: Final = "/bin/sh"


def left_at(state: str) -> float:
    """When a backup last left this machine, in seconds since the epoch; 0 if none has."""
    try:
        return os.stat(_mark(state)).st_mtime
    except OSError:
        return 0.0


def take_away(backup: BackupSection, state: str, file: Path) -> None:
    """Run the command for a backup that is written, and note that it left. Raises StackdError, with the end of the output."""
    failed = f"{file} is written, but has not left this machine: backup.command"
    with tempfile.TemporaryFile() as output:
        words = [SHELL, "-c", backup.command.get_secret_value(), "backup.command", str(file.absolute())]
        process = subprocess.Popen(  # noqa: S603 - the operator's own
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        late = False
        try:
            process.wait(backup.timeout)
        except subprocess.TimeoutExpired:
            late = True
            failed += f" has not ended within {backup.timeout:g} s"
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode == 0:
            write_private(Path(_mark(state)), "")  # a new file: root's, of a run by hand, would keep its time
            return
        if process.returncode > 0:
            failed += f" has ended with exit code {process.returncode}"
        elif not late:
            failed += f" was ended by signal {-process.returncode}"
        output.seek(max(0, output.seek(0, os.SEEK_END) - LAST_BYTES))
        said = output.read().decode(errors="replace").strip()
    raise StackdError(f"{failed}: {said or 'it has said nothing'}")


def _mark(state: str) -> str:
    return f"{state}.backed-up"

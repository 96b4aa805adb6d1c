"""The processes of the benchmark: starts them on one CPU each if possible, watches and stops them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from msgspec import json

ROOT = Path(__file__).parent.parent
CPUS = tuple(sorted(os.sched_getaffinity(0)))
MEASURED, LOADING = CPUS[0], CPUS[-1]
"""The measured process (daemon, bare handler, raw client) has one CPU; the cluster and the load share the other."""

STOP_SECONDS, ASK_SECONDS = 20.0, 900.0
pinned = True
"""False for a real cluster: it runs on all CPUs, and would disturb a pinned process."""


class Process:
    """A Python module as a process, pinned to one CPU; its output goes to a file in ``folder``."""

    def __init__(
        self, folder: Path, cpu: int, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = folder / f"{module}.log"
        with self.log.open("ab") as out:
            self._process = _start([module, *arguments], cpu, environment, stdout=out, stderr=out)
        self.pid = self._process.pid
        self._ps = psutil.Process(self.pid)

    def cpu(self) -> float:
        return cpu_seconds(self.pid)

    def memory(self) -> int:
        return int(self._ps.memory_info().rss)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """Send SIGTERM and wait for the end; send SIGKILL if that takes too long."""
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def until(self, check: Callable[[], bool], seconds: float, every: float = 0.01) -> None:
        """Return when the check is true. Raises RuntimeError, with the end of the log, if ``seconds`` pass before."""
        end = time.monotonic() + seconds
        while not check():
            if self._process.poll() is not None or time.monotonic() > end:
                tail = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.log.stem} is not ready (exit code {self._process.poll()}):\n{tail}")
            time.sleep(every)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of all threads of a process so far, exact to the nanosecond."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def _start(
    command: Sequence[str], cpu: int, environment: Mapping[str, str] | None = None, **streams: Any
) -> subprocess.Popen[bytes]:
    """Start a module on one CPU, with this process' environment except for stackd's settings.

    Its output is buffered, because without a buffer Python may write only a part of a large result to a pipe.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("STACKD_")}
    env = own | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""} | dict(environment or {})
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=env, **streams)
    if pinned:
        os.sched_setaffinity(process.pid, {cpu})
    return process


def begin(module: str, plan: Mapping[str, Any], cpu: int) -> Callable[[], Any]:
    """Run a module with a plan as JSON on its standard input; the returned function waits for the JSON that it prints."""
    with tempfile.TemporaryFile() as stdin:
        stdin.write(json.encode(plan))
        stdin.seek(0)
        process = _start([module], cpu, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def answer() -> Any:
        output, errors = process.communicate(timeout=ASK_SECONDS)
        if process.returncode:
            raise RuntimeError(f"{module} failed:\n{errors.decode(errors='replace')[-2000:]}")
        return json.decode(output)

    return answer

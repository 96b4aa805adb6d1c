"""The processes of the benchmark: starts them on one CPU each if possible, watches and stops them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil

ROOT = Path(__file__).parent.parent
CPUS = tuple(sorted(os.sched_getaffinity(0)))
MEASURED, LOADING = CPUS[0], CPUS[-1]
"""The measured process (daemon, bare handler, raw client) has one CPU; the cluster and the load share the other."""

_unpinned = False

STOP_SECONDS = 20.0
ASK_SECONDS = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPU seconds used so far, and resident bytes now."""

    cpu: float
    rss: int


class Process:
    """One process, pinned to one CPU; its output goes to a file in ``folder``."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, cpu: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as out:
            self._process = start(command, cpu, environment, stdout=out, stderr=out)
        self._ps = psutil.Process(self._process.pid)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def usage(self) -> Usage:
        """CPU and memory of the process."""
        times = self._ps.cpu_times()
        return Usage(cpu=times.user + times.system, rss=self._ps.memory_info().rss)

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """Send SIGTERM and wait for the end; send SIGKILL if that takes too long."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
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
                raise RuntimeError(f"{self.name} is not ready (exit code {self._process.poll()}):\n{tail}")
            time.sleep(every)


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a Python module."""
    return [sys.executable, "-m", module, *arguments]


def start(
    command: Sequence[str], cpu: int, environment: Mapping[str, str] | None = None, **streams: Any
) -> subprocess.Popen[bytes]:
    """Start a process on one CPU, with this process' environment except for stackd's settings."""
    process = subprocess.Popen(command, cwd=ROOT, env={**_environment(), **(environment or {})}, **streams)
    if not _unpinned:
        os.sched_setaffinity(process.pid, {cpu})
    return process


def unpin() -> None:
    """Do not pin processes from now on: a given cluster runs on all CPUs, and would disturb a pinned process."""
    global _unpinned  # noqa: PLW0603  said once, before the first process
    _unpinned = True


def placement() -> str:
    """On which CPUs the processes run, in words."""
    if _unpinned:
        return "nothing is pinned"
    if len(CPUS) > 1:
        return "the measured process has one CPU, cluster and load share the other"
    return "one CPU for all"


def output(command: Sequence[str], cpu: int, given: bytes = b"") -> bytes:
    """The standard output of a process. Raises RuntimeError if it fails."""
    pipe = subprocess.PIPE
    process = start(command, cpu, stdin=pipe, stdout=pipe, stderr=pipe)
    said, complained = process.communicate(given, timeout=ASK_SECONDS)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{complained.decode(errors='replace')[-2000:]}")
    return said


def ask(module: str, plan: Mapping[str, Any], cpu: int) -> Any:
    """Run a module with a plan as JSON on its standard input; returns the JSON from its standard output."""
    return orjson.loads(output(python(module), cpu, orjson.dumps(plan)))


def begin(module: str, plan: Mapping[str, Any], cpu: int) -> Callable[[], Any]:
    """Like ``ask``, without waiting; the returned function waits for the answer."""
    pool = ThreadPoolExecutor(1)
    answer = pool.submit(ask, module, plan, cpu)
    pool.shutdown(wait=False)
    return answer.result


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("STACKD_")} | {
        "PYTHONPATH": str(ROOT)
    }

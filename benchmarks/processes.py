"""Processes of the benchmark: started with one CPU each where that is possible, watched, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil

ROOT = Path(__file__).parent.parent
CPUS = tuple(sorted(os.sched_getaffinity(0)))
MEASURED, LOADING = CPUS[0], CPUS[-1]
"""What is measured (daemon, bare handler, raw client) has one CPU; the cluster and the load share the other."""

STOP_SECONDS = 20.0


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
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**_environment(), **(environment or {})},
                stdout=out,
                stderr=out,
                preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
            )
        self._ps = psutil.Process(self._process.pid)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def usage(self) -> Usage:
        """What it has used."""
        times = self._ps.cpu_times()
        return Usage(cpu=times.user + times.system, rss=self._ps.memory_info().rss)

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """SIGTERM, and wait for the end; SIGKILL when that takes too long."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def until(self, check: Callable[[], bool], seconds: float, every: float = 0.01) -> None:
        """Return when the check is true. Raises RuntimeError, with the end of the log, when it does not become so."""
        end = time.monotonic() + seconds
        while not check():
            if self._process.poll() is not None or time.monotonic() > end:
                tail = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} is not ready (exit code {self._process.poll()}):\n{tail}")
            time.sleep(every)


def python(module: str, *arguments: str) -> list[str]:
    """The command of a module of ours."""
    return [sys.executable, "-m", module, *arguments]


def ask(module: str, plan: Mapping[str, Any], cpu: int, seconds: float = 900.0) -> Any:
    """Run a module with a plan as JSON on its standard input; what it answers on its standard output."""
    done = subprocess.run(
        python(module),
        cwd=ROOT,
        env=_environment(),
        input=orjson.dumps(plan),
        capture_output=True,
        timeout=seconds,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
    return orjson.loads(done.stdout)


def begin(module: str, plan: Mapping[str, Any], cpu: int) -> Callable[[], Any]:
    """The same without waiting; the returned function waits for the answer."""
    process = subprocess.Popen(
        python(module),
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )
    assert process.stdin is not None
    process.stdin.write(orjson.dumps(plan))
    process.stdin.close()

    def answer() -> Any:
        assert process.stdout is not None
        text = process.stdout.read()
        if process.wait():
            raise RuntimeError(f"{module} failed with exit code {process.returncode}")
        return orjson.loads(text)

    return answer


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("STACKD_")} | {
        "PYTHONPATH": str(ROOT)
    }

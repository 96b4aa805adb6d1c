"""Saturating reads: with wrk if it is installed, else with the loader. Measures latencies and requests/s."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.figures import percentile

SCRIPT = """
local paths, at = {}, 0
wrk.headers["X-API-KEY"] = "@SECRET@"
init = function()
  for line in io.lines("@PATHS@") do
    paths[#paths + 1] = wrk.format("GET", line)
  end
end
request = function()
  at = at % #paths + 1
  return paths[at]
end
done = function(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.read + summary.errors.timeout + summary.errors.connect
  io.write(string.format("# %d %d %d\\n", summary.requests, summary.duration, bad))
  for step = 1, 999 do
    io.write(string.format("# %d\\n", latency:percentile(step / 10)))
  end
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """The result of reads; ``latencies`` are in seconds, evenly over the percentiles."""

    requests: int
    per_second: float
    latencies: Sequence[float]
    failed: int
    tool: str

    def at(self, share: float) -> float:
        """A percentile in seconds."""
        return percentile(self.latencies, share)


def together(parts: Sequence[Reads]) -> Reads:
    """Several results of about the same length as one."""
    return Reads(
        requests=sum(part.requests for part in parts),
        per_second=sum(part.per_second for part in parts) / len(parts),
        latencies=[latency for part in parts for latency in part.latencies],
        failed=sum(part.failed for part in parts),
        tool=parts[0].tool,
    )


def available() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


def read(url: str, paths: Sequence[str], key: str, *, connections: int, seconds: float) -> Reads:
    """Read the paths in turn over ``connections`` for ``seconds``."""
    if not available():
        return _with_loader(url, paths, key, connections, seconds)
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "paths")
        lines.write_text("\n".join(paths) + "\n")
        script = Path(folder, "reads.lua")
        script.write_text(SCRIPT.replace("@PATHS@", str(lines)).replace("@SECRET@", key))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), url]
        said = processes.output(command, processes.LOADING).decode()
    numbers = [line[2:].split() for line in said.splitlines() if line.startswith("# ")]
    requests, microseconds, failed = map(int, numbers[0])
    return Reads(
        requests=requests,
        per_second=requests / microseconds * 1e6,
        latencies=[int(number) / 1e6 for (number,) in numbers[1:]],
        failed=failed,
        tool="wrk",
    )


def _with_loader(url: str, paths: Sequence[str], key: str, connections: int, seconds: float) -> Reads:
    plan = {"url": url, "paths": list(paths), "key": key, "connections": connections, "seconds": seconds}
    done = processes.ask("benchmarks.loader", plan, processes.LOADING)
    total = len(done["latencies"])
    return Reads(
        requests=total,
        per_second=total / done["seconds"],
        latencies=done["latencies"],
        failed=total - done["statuses"].get("200", 0),
        tool="loader",
    )

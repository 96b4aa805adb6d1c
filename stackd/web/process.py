"""The process' own numbers, under the names that Prometheus has for them.

Read from the process' own files only: the unit's sandbox hides the rest of ``/proc``.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

PROC = Path("/proc/self")
STARTED = time.time()


def collect() -> Iterator[Metric]:
    """CPU, memory, descriptors and start time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    yield CounterMetricFamily("process_cpu_seconds_total", "User and system CPU time.", value=cpu)
    yield GaugeMetricFamily("process_start_time_seconds", "When the process started, since the epoch.", value=STARTED)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield GaugeMetricFamily("process_max_fds", "Most descriptors that may be open.", value=soft)
    try:
        pages = int((PROC / "statm").read_text().split()[1])
        descriptors = len(os.listdir(PROC / "fd"))
    except OSError:
        return
    memory = pages * resource.getpagesize()
    yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory.", value=memory)
    yield GaugeMetricFamily("process_open_fds", "Open descriptors.", value=descriptors)

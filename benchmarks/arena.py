"""The processes of a run: the cluster, the daemon on it, and the bare handler beside it; and what rows share."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from msgspec import json

from benchmarks import processes
from benchmarks.processes import LOADING, MEASURED, Process
from benchmarks.results import Results
from stackd.web.examples import POD_SPEC

KEY = "sk-bench-" + secrets.token_hex(16)
NAMESPACE = "stacks"
PORTS = [{"container_port": 80, "protocol": "TCP"}]
BODY = json.encode({"target_port": PORTS, "pod_spec": POD_SPEC}).decode()
"""The stack of all benchmarks: the API document's own example."""

EMBEDDED_PORTS = {"STACKD_STACKS__NODE_PORT_MIN": "20000", "STACKD_STACKS__NODE_PORT_MAX": "29999"}
"""Enough node ports for more stacks than the default range allows. The raw client uses 30000 to 30999, as elsewhere."""
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How many stacks, requests and seconds each row takes."""

    stacks: int = 1700
    creates_alone: int = 100
    creates_together: int = 600
    deletes: int = 1000
    read_seconds: float = 5.0
    idle_seconds: float = 60.0
    holding: int = 2000
    scale: tuple[int, ...] = (10, 100, 1000, 1700, 5000)
    bursts: tuple[int, ...] = (300, 600)
    sizes: tuple[int, ...] = ()
    pool_rate: int = 45
    paced_seconds: float = 60.0
    turns: int = 2

    @property
    def pools(self) -> tuple[int, ...]:
        """The sizes of the pools: the requested ``sizes``, or else each burst and a third of it."""
        return self.sizes or tuple(sorted({size for burst in self.bursts for size in (burst, burst // 3)}))


QUICK = Amounts(
    stacks=200, creates_alone=30, creates_together=120, deletes=100, read_seconds=2.0, idle_seconds=10.0,
    scale=(10, 100, 500), holding=500, bursts=(60,), paced_seconds=5.0, turns=1,
)  # fmt: skip
"""Enough to see that it works; not for numbers to quote."""

ON_REAL_PORTS = Amounts(stacks=1500, scale=(10, 100, 1000, 1500))
"""Of the 1,767 ports of the default range, the others are for creates beside the standing stacks."""


class Http:
    """A server that speaks the API at an address: stackd or a peer."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self._key = url, key

    def call(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        data = None if body is None else body.encode()
        request = Request(self.url + path, data, {"X-API-KEY": self._key}, method=method)
        try:
            with urlopen(request, timeout=120) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    def json(self, method: str, path: str, body: object = None) -> Any:
        """Send one request that must succeed; returns its JSON. Raises RuntimeError."""
        status, text = self.call(method, path, None if body is None else json.encode(body).decode())
        if status >= 300:
            raise RuntimeError(f"{method} {self.url}{path}: {status} {text.decode(errors='replace')[:300]}")
        return json.decode(text)

    def answers(self, path: str) -> bool:
        try:
            return self.call("GET", path)[0] == 200
        except OSError:
            return False

    def ids(self) -> list[str]:
        return [stack["stack_id"] for stack in self.json("GET", "/stacks")["stacks"]]

    def plan(self, method: str, paths: Sequence[str], **plan: Any) -> dict[str, Any]:
        return {"url": self.url, "key": self._key, "method": method, "paths": list(paths), **plan}

    def load(self, method: str, paths: Sequence[str], **plan: Any) -> Any:
        """Let the loader send the requests; returns its result. Raises RuntimeError if one fails."""
        result = processes.begin("benchmarks.loader", self.plan(method, paths, **plan), LOADING)()
        if any(status >= "300" for status in result["statuses"]):
            raise RuntimeError(f"{method} {self.url}{paths[0]}: {result['statuses']}")
        return result


class Daemon(Http):
    """stackd in a process of its own, with its file in a temporary folder."""

    def __init__(self, folder: Path, kubeconfig: str, settings: dict[str, str]) -> None:
        self._folder = folder
        port = free_port()
        super().__init__(f"http://127.0.0.1:{port}", KEY)
        self.lags = folder / "lags"
        self._environment = {
            "STACKD_AUTH__KEY": KEY,
            "STACKD_SERVER__PORT": str(port),
            "STACKD_STATE__PATH": str(folder / "stackd.db"),
            "STACKD_CLUSTER__MODE": "kubeconfig",
            "STACKD_CLUSTER__KUBECONFIG": kubeconfig,
            "STACKD_CLUSTER__INSTANCE": "bench",
            "STACKD_STACKS__NAMESPACE": NAMESPACE,
            "STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "false",
            "STACKD_LOG__LEVEL": "info",
            "BENCH_LAGS": str(self.lags),
            **{name: value for name, value in os.environ.items() if name.startswith("STACKD_STACKS__")},
            **settings,
        }
        self.process = self._start()

    def _start(self) -> Process:
        process = Process(self._folder, MEASURED, "benchmarks.probed", environment=self._environment)
        process.until(lambda: self.answers("/readyz"), START_SECONDS, every=0.005)
        return process

    def restart(self) -> float:
        """Stop the daemon and start it again; returns the seconds from the start to the first ready answer."""
        self.process.stop()
        began = time.perf_counter()
        self.process = self._start()
        return time.perf_counter() - began

    def fill(self, count: int) -> list[str]:
        """Have at least ``count`` stacks, all of them running; returns their ids."""
        missing = count - self.json("GET", "/stats")["total_stacks"]
        if missing > 0:
            self.load("POST", ["/stacks"], body=BODY, count=missing, connections=20)
        self.settle()
        return self.ids()

    def settle(self) -> None:
        self.process.until(lambda: not self.json("GET", "/stacks?status=creating")["stacks"], 600.0, every=0.1)

    def delete(self, ids: Sequence[str]) -> float:
        """Delete these in one job; returns the seconds until it has finished. Raises RuntimeError if any remains."""
        if not ids:
            return 0.0
        began = time.perf_counter()
        job_id = self.json("POST", "/stacks/batch-delete", {"stack_ids": list(ids)})["job_id"]
        while (job := self.json("GET", f"/stacks/batch-delete/{job_id}"))["status"] not in ("completed", "failed"):
            time.sleep(0.05)
        if job["deleted"] != len(ids):
            raise RuntimeError(f"the job did not delete all: {job}")
        return time.perf_counter() - began

    def leave(self) -> None:
        """Delete all stacks and spare Services."""
        self.delete(self.ids())
        if spares := self.json("GET", "/stats")["spare_services"]:
            self._environment["STACKD_STACKS__SPARE_SERVICES"] = "0"
            self.restart()
            self.process.until(lambda: self.asked("delete") >= spares, 60.0, every=0.2)

    def asked(self, verb: str = "") -> int:
        """The requests to Kubernetes of this verb so far; without one, all except watches."""
        lines = self.call("GET", "/metrics")[1].decode().splitlines()
        counts = (line.rsplit(" ", 1) for line in lines if line.startswith("stackd_kubernetes_requests_total{"))
        return sum(
            int(float(count))
            for labels, count in counts
            if (f'verb="{verb}"' in labels) == bool(verb) and 'verb="watch"' not in labels
        )

    def longest_lag(self) -> tuple[float, float]:
        """Since the last call: the longest lag of the event loop, and the most CPU that one turn has used, in seconds."""
        self.lags.unlink(missing_ok=True)
        self.process.signal(signal.SIGUSR2)
        self.process.until(self.lags.exists, 10.0)
        lag, used = map(float, self.lags.read_text().split())
        return lag, used


@dataclass(slots=True)
class Bench:
    """What a row gets. ``cluster`` is None for a real cluster; ``peer`` is another server with this API."""

    cluster: Process | None
    kubeconfig: str
    daemon: Daemon
    results: Results
    amounts: Amounts
    peer: Http | None = None
    first_port: int = 0

    def floor(self, do: str, **plan: Any) -> Any:
        """Let the raw client carry out a plan; returns its result."""
        return processes.begin("benchmarks.floor", self.floor_plan(do, **plan), MEASURED)()

    def floor_plan(self, do: str, **plan: Any) -> dict[str, Any]:
        first, self.first_port = self.first_port, self.first_port + plan.get("count", 0)
        return {"do": do, "kubeconfig": self.kubeconfig, "namespace": NAMESPACE, "first_port": first, **plan}

    @contextmanager
    def bare(self, stack_id: str) -> Iterator[tuple[Process, str]]:
        """The bare handler in a process of its own, with the daemon's status and list as answers; and its address."""
        with tempfile.TemporaryDirectory(prefix="stackd-bench-") as name:
            files = [Path(name, "status"), Path(name, "everything")]
            for file, path in zip(files, (f"/stacks/{stack_id}/status", "/stacks"), strict=True):
                file.write_bytes(self.daemon.call("GET", path)[1])
            port = free_port()
            process = Process(Path(name), MEASURED, "benchmarks.bare", str(port), *map(str, files))
            url = f"http://127.0.0.1:{port}"
            try:
                process.until(lambda: Http(url, "").answers("/stacks"), START_SECONDS)
                yield process, url
            finally:
                process.signal(signal.SIGKILL)
                process.stop()


@contextmanager
def arena(
    kubeconfig: Path | None, embedded: Sequence[str], settings: dict[str, str]
) -> Iterator[tuple[Any, str, Daemon]]:
    """An embedded cluster with these options, or the given one, and a daemon on it; deletes all stacks at the end."""
    with tempfile.TemporaryDirectory(prefix="stackd-bench-", dir=os.environ.get("BENCH_FOLDER")) as name:
        folder, cluster = Path(name), None
        path = kubeconfig or folder / "kubeconfig"
        if kubeconfig is None:
            cluster = Process(folder, LOADING, "benchmarks.cluster", "--kubeconfig", str(path), *embedded)
            cluster.until(path.exists, START_SECONDS)
            settings = EMBEDDED_PORTS | settings
        try:
            daemon = Daemon(folder, str(path), settings)
            try:
                yield cluster, str(path), daemon
                daemon.leave()
            finally:
                daemon.process.stop()
        finally:
            if cluster is not None:
                cluster.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""The processes of a run: the cluster, the daemon on it, and the bare handler beside it."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from benchmarks import processes
from benchmarks.orders import BODY
from benchmarks.processes import LOADING, MEASURED, Process, Usage, python

KEY = "sk-bench-" + secrets.token_hex(16)
NAMESPACE = "stacks"
EMBEDDED_PORTS = {"STACKD_STACKS__NODE_PORT_MIN": "20000", "STACKD_STACKS__NODE_PORT_MAX": "29999"}
"""Enough node ports for more stacks than the default range allows. The raw client uses 30000 to 30999, as elsewhere."""
START_SECONDS = 60.0


class Cluster:
    """The Kubernetes for all measurements: an embedded one in a process of its own, or a given one."""

    def __init__(
        self, folder: Path, kubeconfig: Path | None, latency: float, writes_per_second: float | None = None
    ) -> None:
        self.kubeconfig = str(kubeconfig or folder / "kubeconfig")
        self.process: Process | None = None
        if kubeconfig is None:
            command = python(
                "stackd.embedded", "--kubeconfig", self.kubeconfig, "--no-node-ports",
                "--node-port-range", "20000-32767", "--latency", f"{latency:g}",
            )  # fmt: skip
            if writes_per_second is not None:
                command += ["--writes-per-second", f"{writes_per_second:g}"]
            self.process = Process("cluster", command, folder, LOADING)
            self.process.until(lambda: Path(self.kubeconfig).exists(), START_SECONDS)

    def cpu(self) -> float:
        """CPU seconds of the embedded cluster; 0 for a given one."""
        return self.process.usage().cpu if self.process is not None else 0.0

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.stop()


class Http:
    """A server that speaks the API at an address: stackd or a peer."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._address = urlsplit(url)
        self._key = key

    def call(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        """Send one request; returns status and body."""
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port or 80, timeout=120)
        try:
            connection.request(method, path, body, {"X-API-KEY": self._key})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: str | None = None) -> Any:
        """Send one request that must succeed; returns its JSON. Raises RuntimeError."""
        status, text = self.call(method, path, body)
        if status >= 300:
            raise RuntimeError(f"{method} {self.url}{path}: {status} {text.decode(errors='replace')[:300]}")
        return orjson.loads(text)

    def ids(self) -> list[str]:
        """The ids of all stacks."""
        return [stack["stack_id"] for stack in self.json("GET", "/stacks")["stacks"]]

    def load(self, method: str, paths: Sequence[str], **plan: Any) -> Any:
        """Let the loader send the requests; returns its result."""
        return processes.ask("benchmarks.loader", self.plan(method, paths, **plan), LOADING)

    def plan(self, method: str, paths: Sequence[str], **plan: Any) -> dict[str, Any]:
        """A plan for the loader."""
        return {"url": self.url, "key": self._key, "method": method, "paths": list(paths), **plan}


class Daemon(Http):
    """stackd in a process of its own, with its file in a temporary folder."""

    def __init__(self, folder: Path, cluster: Cluster, settings: dict[str, str]) -> None:
        self._folder = folder
        self._port = free_port()
        super().__init__(f"http://127.0.0.1:{self._port}", KEY)
        self.lags = folder / "lags"
        self._environment = {
            "STACKD_AUTH__KEY": KEY,
            "STACKD_SERVER__PORT": str(self._port),
            "STACKD_STATE__PATH": str(folder / "stackd.db"),
            "STACKD_CLUSTER__MODE": "kubeconfig",
            "STACKD_CLUSTER__KUBECONFIG": cluster.kubeconfig,
            "STACKD_CLUSTER__INSTANCE": "bench",
            "STACKD_STACKS__NAMESPACE": NAMESPACE,
            "STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "false",
            "STACKD_LOG__LEVEL": "info",
            "BENCH_LAGS": str(self.lags),
            **(EMBEDDED_PORTS if cluster.process is not None else {}),
            **settings,
        }
        self.process = self._start()

    def _start(self) -> Process:
        process = Process("daemon", python("benchmarks.probed"), self._folder, MEASURED, self._environment)
        process.until(self.ready, START_SECONDS, every=0.005)
        return process

    def ready(self) -> bool:
        """Whether ``/readyz`` says so."""
        try:
            return self.call("GET", "/readyz")[0] == 200
        except OSError:
            return False

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
        self.process.until(self.settled, 600.0, every=0.1)
        return self.ids()

    def settled(self) -> bool:
        """Whether no stack is still creating."""
        return not self.json("GET", "/stacks?status=creating")["stacks"]

    def batch_delete(self, ids: Sequence[str]) -> tuple[float, dict[str, Any]]:
        """Delete these in one job; returns the seconds until the job has finished, and the job."""
        began = time.perf_counter()
        job_id = self.json("POST", "/stacks/batch-delete", orjson.dumps({"stack_ids": list(ids)}).decode())["job_id"]
        while True:
            job: dict[str, Any] = self.json("GET", f"/stacks/batch-delete/{job_id}")
            if job["status"] in ("completed", "failed"):
                return time.perf_counter() - began, job
            time.sleep(0.05)

    def asked(self) -> dict[tuple[str, str], int]:
        """Requests to Kubernetes so far, by verb and resource."""
        counts: dict[tuple[str, str], int] = {}
        for line in self.call("GET", "/metrics")[1].decode().splitlines():
            if line.startswith("stackd_kubernetes_requests_total{"):
                labels = dict(pair.split("=") for pair in line.split("{")[1].split("}")[0].replace('"', "").split(","))
                name = (labels["verb"], labels["resource"])
                counts[name] = counts.get(name, 0) + int(float(line.rsplit(" ", 1)[1]))
        return counts

    def asked_beside_watches(self) -> int:
        """All requests to Kubernetes so far except watches."""
        return sum(count for (verb, _), count in self.asked().items() if verb != "watch")

    def longest_lag(self) -> tuple[float, float]:
        """Since the last call: the longest lag of the event loop, and the most CPU that one turn has used, in seconds."""
        self.lags.unlink(missing_ok=True)
        self.process.signal(signal.SIGUSR2)
        self.process.until(self.lags.exists, 10.0)
        lag, used = map(float, self.lags.read_text().split())
        return lag, used

    def usage(self) -> Usage:
        """CPU and memory."""
        return self.process.usage()

    def stop(self) -> None:
        """End it."""
        self.process.stop()


@contextmanager
def arena(
    kubeconfig: Path | None,
    *,
    latency: float = 0.0,
    writes_per_second: float | None = None,
    settings: dict[str, str],
) -> Iterator[tuple[Cluster, Daemon]]:
    """A cluster and a daemon on it; at the end, everything that was created is deleted."""
    with tempfile.TemporaryDirectory(prefix="stackd-bench-", dir=os.environ.get("BENCH_FOLDER")) as name:
        folder = Path(name)
        cluster = Cluster(folder, kubeconfig, latency, writes_per_second)
        try:
            daemon = Daemon(folder, cluster, settings)
            try:
                yield cluster, daemon
                if kubeconfig is not None and (ids := daemon.ids()):
                    daemon.batch_delete(ids)
            finally:
                daemon.stop()
        finally:
            cluster.stop()


class Bare:
    """The bare handler in a process of its own."""

    def __init__(self, process: Process, url: str) -> None:
        self._process = process
        self.url = url

    def usage(self) -> Usage:
        """CPU and memory."""
        return self._process.usage()


@contextmanager
def bare(status: bytes, everything: bytes) -> Iterator[Bare]:
    """The bare handler with these bodies."""
    with tempfile.TemporaryDirectory(prefix="stackd-bench-") as name:
        folder = Path(name)
        (folder / "status").write_bytes(status)
        (folder / "everything").write_bytes(everything)
        with _handler("bare", folder, folder / "status", folder / "everything") as (process, url):
            yield Bare(process, url)


@contextmanager
def _handler(module: str, folder: Path, *files: Path) -> Iterator[tuple[Process, str]]:
    """A floor's handler in a process of its own, and its address."""
    port = free_port()
    process = Process(module, python(f"benchmarks.{module}", str(port), *map(str, files)), folder, MEASURED)
    try:
        process.until(lambda: _answers(port), START_SECONDS)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.signal(signal.SIGKILL)
        process.stop()


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

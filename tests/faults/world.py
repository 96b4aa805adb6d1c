"""Everything around one schedule: the cluster, the clock, the machine with its daemons, and the clients.

Owns: what has been noted, counted and found wrong; the objects of others.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from msgspec import json

from stackd.embedded import EmbeddedCluster
from stackd.embedded.request import read_target
from stackd.embedded.resources import HTTP_ROUTES, NETWORK_POLICIES, PODS, SERVICES, Json, Resource
from stackd.embedded.store import LoopClock
from tests.faults.file import StateFile
from tests.faults.ledger import RUNS_ON, Ledger
from tests.faults.machine import GATEWAY, Machine
from tests.faults.skew import Skew
from tests.harness import KEY, fast_cluster

START_SECONDS = 30.0
REPLY_SECONDS = 40.0
NAMESPACE, ELSEWHERE = "stacks", "elsewhere"
OURS = {"app.kubernetes.io/managed-by": "stackd", "stackd.io/instance": "default"}
STACK, THEIRS = "stackd.io/stack", "example.org/theirs"
OUR_NAME = re.compile("(?:svc-|rt-)?(stack-[0-9a-f]{16})(?:-[a-z0-9]+)?")
RESOURCES = {"pods": PODS, "services": SERVICES}
TEMPLATE, SHARED = "pooled", "shared"
TEMPLATE_FILE = """\
target_port: [{{container_port: 80, protocol: TCP}}]
{kept}
values: {{FLAG: "flag{{<hex:32>}}"}}
pod:
  apiVersion: v1
  kind: Pod
  metadata: {{name: kept}}
  spec:
    containers:
    - name: app
      image: {image}
      ports: [{{containerPort: 80, protocol: TCP}}]
      resources: {{limits: {{cpu: 100m, memory: 64Mi}}}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a request; ``status`` None: no response came; ``sent`` then says whether it may have been accepted."""

    status: int | None = None
    body: Any = None
    sent: bool = True

    def __str__(self) -> str:
        if self.status is None:
            return "no answer" if self.sent else "not sent"
        named = [str(self.body[key]) for key in ("error", "stack_id", "job_id") if key in self.body]
        return " ".join([str(self.status), *named[: self.status != 200]])


@dataclass(slots=True, kw_only=True)
class World:
    """``starts`` has the crash point of each next start of a daemon; an empty string is none.

    ``pool``: how many stacks have to wait in the pool of ``TEMPLATE`` when all is quiet; 0: not checked.
    """

    folder: Path
    cluster: EmbeddedCluster
    foreign: Foreign
    session: aiohttp.ClientSession
    skew: Skew
    settings: dict[str, str]
    starts: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)
    pool: int = 0
    machine: Machine = field(init=False)

    @property
    def file(self) -> StateFile:
        return self.machine.file

    def may_be_gone(self, stack_id: str) -> bool:
        return self.ledger.may_be_gone(stack_id, self.skew.now())

    def note(self, text: str) -> None:
        self.trace.append(f"{time.monotonic() - self.began:7.3f}  {text}")

    def violated(self, invariant: str, text: str) -> None:
        self.note(f"VIOLATION {invariant}: {text}")
        self.violations.append(f"{invariant}: {text}")

    def checked(self, invariant: str, holds: bool, text: str) -> bool:
        if not holds:
            self.violated(invariant, text)
        return holds

    def put_template(self, name: str, kept: str, image: str = RUNS_ON) -> None:
        """``kept`` says how many stacks of it are kept, or that they are shared."""
        folder = self.folder / "templates"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(TEMPLATE_FILE.format(kept=kept, image=image))
        self.settings["STACKD_TEMPLATES__DIRECTORY"] = str(folder)

    # ---- the daemon

    async def keep_running(self) -> None:
        """Start the daemon, and start it again whenever it dies; return when it listens."""
        self.machine.keep()
        await self.listening()

    async def listening(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            await self.machine.up.wait()

    async def ready(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            while (await self.call("GET", "/readyz")).status != 200:
                await asyncio.sleep(0.02)

    # ---- clients

    async def call(
        self, method: str, path: str, body: object = None, *, key: str | None = None, patience: float | None = None
    ) -> Outcome:
        """One request on its own connection; the client leaves after ``patience`` seconds."""
        headers = {"X-API-KEY": KEY} | ({"Idempotency-Key": key} if key else {})
        self.machine.in_flight += 1
        try:
            async with asyncio.timeout(patience if patience is not None else REPLY_SECONDS):
                return await self._send(method, path, body, headers)
        except TimeoutError:
            if patience is None:
                self.violated("every request is answered", f"{method} {path}: nothing within {REPLY_SECONDS:.0f} s")
            return Outcome()
        finally:
            self.machine.in_flight -= 1

    async def _send(self, method: str, path: str, body: object, headers: dict[str, str]) -> Outcome:
        # another schedule's daemon may have the port of one that has ended
        machine = self.machine
        url = machine.process.url if machine.processes and machine.process.alive else ""
        if not url:
            await asyncio.sleep(0.005)  # as long as a refused connection takes: whoever tries again lets others run
            return Outcome(sent=False)
        try:
            async with self.session.request(method, url + path, json=body, headers=headers) as answer:
                text = await answer.text()
        except aiohttp.ClientConnectorError:
            return Outcome(sent=False)
        except (aiohttp.ClientError, OSError):
            return Outcome()
        return Outcome(status=answer.status, body=json.decode(text))

    # ---- the cluster, as it is

    def objects(self, kind: str) -> dict[str, dict[str, Any]]:
        """All of the namespace, by name, read without the API.

        ``routes`` are all that gives stacks names: HTTPRoutes, and the Services that are behind them alone. ``inner`` are all by
        which the pods of a stack reach each other. Neither's Services are among the ``services``.
        """
        if kind == "inner":
            policies = {f"policy {name}": obj for name, obj in self._all(NETWORK_POLICIES, "stack-").items()}
            return self._all(SERVICES, "stack-") | policies
        if kind == "routes":
            return self._all(HTTP_ROUTES) | self._all(SERVICES, "rt-")
        inner = self._all(SERVICES, "rt-", "stack-") if kind == "services" else {}
        return {name: obj for name, obj in self._all(RESOURCES[kind]).items() if name not in inner}

    def _all(self, resource: Resource, *prefixes: str) -> dict[str, dict[str, Any]]:
        every = {record.key[1]: record.obj for record in self.cluster.store.of(resource).in_namespace(NAMESPACE)}
        return {name: obj for name, obj in every.items() if not prefixes or name.startswith(prefixes)}

    def ours(self, kind: str) -> dict[str, dict[str, Any]]:
        """The objects that the daemon has made, even if somebody has removed their labels."""
        return {name: obj for name, obj in self.objects(kind).items() if self.made_by_us(obj)}

    def made_by_us(self, obj: dict[str, Any]) -> bool:
        named = OUR_NAME.fullmatch(obj["metadata"]["name"]) is not None
        return is_ours(obj) or (named and not is_theirs(obj))

    def remove(self, kind: str, name: str) -> bool:
        """Remove an object of the daemon by hand, if it is there."""
        store = self.cluster.store
        record = store.of(RESOURCES[kind]).records.get((NAMESPACE, name))
        if record is None or not self.made_by_us(record.obj):
            return False
        store.remove(record)
        return True


def is_ours(obj: dict[str, Any]) -> bool:
    return OURS.items() <= (obj["metadata"].get("labels") or {}).items()


def is_theirs(obj: dict[str, Any]) -> bool:
    """Whether somebody else has made the object, whatever its name and labels are."""
    return THEIRS in (obj["metadata"].get("annotations") or {})


class Skewed(LoopClock):
    """The cluster's clock follows the true time: the daemon would not trust its own clock if only that moved."""

    def __init__(self, skew: Skew) -> None:
        self._skew = skew

    def now(self) -> float:
        return self._skew.now() / 1e9


@asynccontextmanager
async def world(folder: Path, settings: dict[str, str]) -> AsyncIterator[World]:
    """A cluster and a machine with an empty folder; no daemon runs yet."""
    skew, home, kubeconfig = Skew(folder / "clock"), folder / "state", folder / "kubeconfig"
    home.mkdir()
    options = fast_cluster(gateway=GATEWAY, pod_gc_delay=0.4, clock=Skewed(skew))
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with EmbeddedCluster(options) as cluster, aiohttp.ClientSession(connector=connector) as session:
        here = World(
            folder=folder, cluster=cluster, foreign=Foreign(cluster), session=session, skew=skew, settings=settings
        )  # fmt: skip
        cluster.write_kubeconfig(kubeconfig)
        here.machine = Machine(world=here, folder=home, kubeconfig=kubeconfig)
        here.foreign.settle()
        try:
            yield here
        finally:
            await here.machine.shut()


# ---- objects of others, which must not have changed at the end (invariant 5)


class Foreign:
    """Objects with names and labels much like stackd's; each differs in one respect."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster = cluster
        self._kept: dict[tuple[str, str, str], tuple[Json, ...]] = {}
        self.ports = range(32700, 32704)

    def settle(self) -> None:
        for name in (NAMESPACE, ELSEWHERE):
            self._create("/api/v1/namespaces", {"metadata": {"name": name}})
        instance = "stackd.io/instance"
        others: tuple[Json, ...] = ({}, OURS | {instance: "other"}, {instance: "default"}, {"app": "stackd"})
        for port, labels in zip(self.ports, others, strict=True):
            name = f"stack-{port:016x}"
            self.put_pod(name, labels | {STACK: name})
            ports = [{"port": 80, "protocol": "TCP", "nodePort": port}]
            self._put("services", f"svc-{name}", {"type": "NodePort", "ports": ports}, labels | {STACK: name})
        self.put_pod("stack-00000000000000ff", OURS | {STACK: "stack-00000000000000ff"}, ELSEWHERE)

    def put_pod(self, name: str, labels: Json, namespace: str = NAMESPACE) -> None:
        """Create a pod of somebody else, which must not change unless it passes for an orphan of stackd."""
        spec = {"nodeSelector": {"for": "nobody"}, "containers": [{"name": "theirs", "image": "theirs/runs"}]}
        self._put("pods", name, spec, labels, namespace)

    def _put(self, kind: str, name: str, spec: Json, labels: Json, namespace: str = NAMESPACE) -> None:
        metadata = {"name": name, "labels": labels, "annotations": {THEIRS: "yes"}}
        self._create(f"/api/v1/namespaces/{namespace}/{kind}", {"metadata": metadata, "spec": spec})
        if namespace == ELSEWHERE or not OURS.items() <= labels.items():
            self._kept[kind, namespace, name] = self._seen(kind, namespace, name)

    def _create(self, path: str, obj: Json) -> None:
        self._cluster.api.create(read_target("POST", path, {}), {}, json.encode(obj))

    def differences(self) -> list[str]:
        now = {key: self._seen(*key) for key in self._kept}
        return [f"{key} was {before} and is {now[key]}" for key, before in self._kept.items() if now[key] != before]

    def _seen(self, kind: str, namespace: str, name: str) -> tuple[Json, ...]:
        """The uid, the labels, and the spec without the fields that the cluster adds."""
        record = self._cluster.store.of(RESOURCES[kind]).records.get((namespace, name))
        if record is None:
            return ()
        spec = {key: value for key, value in record.obj["spec"].items() if key not in ("nodeName", "tolerations")}
        return ({"uid": record.uid}, record.obj["metadata"].get("labels", {}), spec)

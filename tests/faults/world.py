"""Everything around one schedule: the cluster, the clock, the machines with their daemons, and the clients.

Owns: which machine clients turn to, and what has been noted, counted and found wrong; the objects of others.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from stackd.embedded import EmbeddedCluster
from stackd.embedded.auth import User, everything
from stackd.embedded.request import RequestInfo, read_target
from stackd.embedded.resources import CONFIG_MAPS, HTTP_ROUTES, PODS, SERVICES, Json, Resource
from stackd.embedded.store import LoopClock
from tests.certificates import authority, issued
from tests.faults.file import Disk, StateFile
from tests.faults.ledger import Ledger
from tests.faults.machine import GATEWAY, Machine
from tests.faults.process import ForkServer, Process
from tests.faults.skew import Skew
from tests.gate import Gate, gate
from tests.harness import KEY, fast_cluster

if TYPE_CHECKING:
    from tests.faults.owners import Owners

START_SECONDS = 30.0
REPLY_SECONDS = 40.0
NAMESPACE = "stacks"
OUR_NAME = re.compile("(?:svc-|rt-)?(stack-[0-9a-f]{16})(?:-[0-9]+)?")
RESOURCES = {"pods": PODS, "services": SERVICES, "configmaps": CONFIG_MAPS}
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
    """The result of a request; ``status`` None: no response came; ``sent`` then says whether it may have been accepted.

    ``at`` is the machine that was asked; ``unsettled``: its file may have lacked what the cluster has.
    """

    status: int | None = None
    body: Any = None
    sent: bool = True
    seconds: float = 0.0
    at: Machine = field(repr=False)
    unsettled: bool = False

    @property
    def file(self) -> StateFile:
        return self.at.file

    def __str__(self) -> str:
        if self.status is None:
            return "no answer" if self.sent else "not sent"
        named = [str(self.body[key]) for key in ("error", "stack_id", "job_id") if key in self.body]
        return " ".join([str(self.status), *named[: self.status != 200]])


@dataclass(slots=True, kw_only=True)
class World:
    """``starts`` has the crash point of each next start of a daemon; an empty string is none.

    ``owners`` knows which machine's daemon owns the stacks, where that may change. ``drifted``: the uids of Services that
    somebody else has changed; ``drifting``: an admission policy has changed Services when they were created. ``strays``: those of
    objects that came although their stacks were deleted, by calls that took effect late, or with another file. ``front``:
    the daemons' connections go through it, over TLS. ``pool``: how many stacks have to wait in the pool of ``TEMPLATE``
    when all is quiet; 0: not checked.
    """

    folder: Path
    cluster: EmbeddedCluster
    foreign: Foreign
    forkserver: ForkServer
    session: aiohttp.ClientSession
    skew: Skew
    settings: dict[str, str]
    starts: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)
    machines: list[Machine] = field(default_factory=list)
    owners: Owners | None = None
    drifted: set[str] = field(default_factory=set)
    drifting: bool = False
    strays: set[str] = field(default_factory=set)
    front: Gate | None = None
    pool: int = 0

    @property
    def machine(self) -> Machine:
        return self.machines[0] if self.owners is None else self.owners.machine

    @property
    def file(self) -> StateFile:
        return self.machine.file

    @property
    def processes(self) -> list[Process]:
        return [process for machine in self.machines for process in machine.processes]

    @property
    def unsettled(self) -> bool:
        """Whether the owner's file is a new one that may lack what the cluster has."""
        return self.owners is not None and not self.owners.settled

    def may_be_gone(self, stack_id: str) -> bool:
        return self.ledger.may_be_gone(stack_id, self.skew.highest())

    def note(self, text: str) -> None:
        self.trace.append(f"{time.monotonic() - self.began:7.3f}  {text}")

    def violated(self, invariant: str, text: str) -> None:
        self.note(f"VIOLATION {invariant}: {text}")
        self.violations.append(f"{invariant}: {text}")

    def checked(self, invariant: str, holds: bool, text: str = "") -> bool:
        """Count a check, and record a violation."""
        self.counts[f"checked {invariant}"] += 1
        if not holds:
            self.violated(invariant, text)
        return holds

    def put_template(self, pool: int, image: str) -> None:
        self._put_template(TEMPLATE, f"pool: {pool}", image)

    def put_shared(self, image: str, *, checked: bool = False) -> None:
        check = "\ncheck: {image: app/exit0, every: 10s}" if checked else ""
        self._put_template(SHARED, f"shared: true{check}", image)

    def put_unshared(self, image: str) -> None:
        self._put_template(SHARED, "shared: false", image)

    def _put_template(self, name: str, kept: str, image: str) -> None:
        folder = self.folder / "templates"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(TEMPLATE_FILE.format(kept=kept, image=image))
        self.settings["STACKD_TEMPLATES__DIRECTORY"] = str(folder)

    # ---- the daemon

    async def keep_running(self) -> None:
        """Start the daemons, and start each again whenever it dies; return when the first one listens."""
        self.machines[0].keep()
        await self.listening()
        for machine in self.machines[1:]:
            machine.keep()

    async def listening(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            await self.machine.up.wait()

    async def ready(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            while (await self.call("GET", "/readyz")).status != 200:
                await asyncio.sleep(0.02)

    async def shut(self) -> None:
        for machine in self.machines:
            await machine.shut()

    # ---- clients

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        patience: float | None = None,
        machine: Machine | None = None,
    ) -> Outcome:
        """One request to the owner, on its own connection; the client leaves after ``patience`` seconds."""
        asked, unsettled, files = machine or self.machine, self.unsettled, self.ledger.files
        headers = {"X-API-KEY": KEY} | ({"Idempotency-Key": key} if key else {})
        self.counts["requests"] += 1
        asked.in_flight += 1
        try:
            async with asyncio.timeout(patience if patience is not None else REPLY_SECONDS):
                outcome = await self._send(asked, method, path, body, headers)
        except TimeoutError:
            outcome = Outcome(at=asked)
            if patience is None:
                self.violated("every request is answered", f"{method} {path}: nothing within {REPLY_SECONDS:.0f} s")
        finally:
            asked.in_flight -= 1
        if self.owners is not None:
            self.owners.answered(asked, method, path, outcome)
        return replace(outcome, unsettled=unsettled or self.unsettled or files != self.ledger.files)

    async def _send(self, machine: Machine, method: str, path: str, body: object, headers: dict[str, str]) -> Outcome:
        # another schedule's daemon may have the port of one that has ended
        url = machine.process.url if machine.processes and machine.process.alive else ""
        if not url:
            await asyncio.sleep(0.005)  # as long as a refused connection takes: whoever tries again lets others run
            return Outcome(at=machine, sent=False)
        began = time.monotonic()
        try:
            async with self.session.request(method, url + path, json=body, headers=headers) as answer:
                text = await answer.text()
        except aiohttp.ClientConnectorError:
            return Outcome(at=machine, sent=False)
        except (aiohttp.ClientError, OSError):
            return Outcome(at=machine)
        return Outcome(at=machine, status=answer.status, body=json.loads(text), seconds=time.monotonic() - began)

    # ---- the cluster, as it is

    def objects(self, kind: str) -> dict[str, dict[str, Any]]:
        """All ``pods``, ``services`` or ``configmaps`` of the namespace, by name, read without the API.

        ``routes`` are all that gives stacks names: HTTPRoutes, and the Services that are behind them alone.
        """
        if kind == "routes":
            behind = {name: obj for name, obj in self._all(SERVICES).items() if name.startswith("rt-")}
            return self._all(HTTP_ROUTES) | behind
        return {name: obj for name, obj in self._all(RESOURCES[kind]).items() if not name.startswith("rt-")}

    def _all(self, resource: Resource) -> dict[str, dict[str, Any]]:
        return {record.key[1]: record.obj for record in self.cluster.store.of(resource).in_namespace(NAMESPACE)}

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


def is_anonymous(obj: dict[str, Any]) -> bool:
    """Whether somebody has removed all of our labels and annotations."""
    return not any(
        key in OURS or "stackd.io/" in key
        for part in ("labels", "annotations")
        for key in obj["metadata"].get(part) or ()
    )


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
async def world(
    folder: Path,
    forkserver: ForkServer,
    settings: dict[str, str],
    *,
    small_disk: bool = False,
    machines: int = 1,
    tls: bool = False,
) -> AsyncIterator[World]:
    """A cluster and this many machines, each with an empty folder; no daemon runs yet.

    ``tls``: the daemons reach the cluster through a front that speaks TLS and can reset their connections.
    """
    names = [f"vm{number}" for number in range(1, machines + 1)]
    async with AsyncExitStack() as stack:
        skew = Skew(folder / "clock")
        # one machine needs no user name that tells it from others
        users = tuple(User(token=name, name=name, rules=(everything(),)) for name in names if machines > 1)
        options = fast_cluster(gateway=GATEWAY, pod_gc_delay=0.4, clock=Skewed(skew), users=users)
        cluster = await stack.enter_async_context(EmbeddedCluster(options))
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        here = World(
            folder=folder, cluster=cluster, foreign=Foreign(cluster), forkserver=forkserver, session=session, skew=skew,
            settings=settings,
        )  # fmt: skip
        server: dict[str, str] = {}
        if tls:
            root = authority(folder)
            here.front = await stack.enter_async_context(gate(cluster.server.port, issued(folder, root)))
            server = {"server": f"https://127.0.0.1:{here.front.port}", "certificate-authority": str(root.cert)}
        for name in names:
            home = folder / name
            home.mkdir()
            disk = stack.enter_context(Disk.make(home, small=small_disk))
            kubeconfig = home / "kubeconfig"
            cluster.write_kubeconfig(kubeconfig, token=name if users else None)
            if server:
                config = json.loads(kubeconfig.read_text())
                config["clusters"][0]["cluster"] = server
                kubeconfig.write_text(json.dumps(config))
            here.machines.append(Machine(name=name, world=here, disk=disk, kubeconfig=kubeconfig))
        here.foreign.settle()
        stack.push_async_callback(here.shut)
        yield here


# ---- objects of others, which must not have changed at the end (invariant 5)


OURS = {"app.kubernetes.io/managed-by": "stackd", "stackd.io/instance": "default"}
ELSEWHERE, THEIRS = "elsewhere", "example.org/theirs"


class Foreign:
    """Objects with names and labels much like stackd's; each differs in one respect."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster = cluster
        self._kept: dict[tuple[str, str, str], tuple[Json, ...]] = {}
        self._in_the_way: set[tuple[str, str, str]] = set()
        self.ports: set[int] = set()

    def settle(self) -> None:
        for name in (NAMESPACE, ELSEWHERE):
            self._cluster.api.create(_target("/api/v1/namespaces"), {}, orjson.dumps({"metadata": {"name": name}}))
        for number, labels in enumerate(
            ({}, OURS | {"stackd.io/instance": "other"}, {"stackd.io/instance": "default"}, {"app": "stackd"})
        ):
            name, port = f"stack-{number:016x}", 32700 + number
            ports = [{"port": 80, "protocol": "TCP", "nodePort": port}]
            self.put_pod(name, labels | {"stackd.io/stack": name})
            self.put(
                "services", f"svc-{name}", {"type": "NodePort", "ports": ports}, labels | {"stackd.io/stack": name}
            )
            self.ports.add(port)
        self.put_pod("stack-00000000000000ff", OURS | {"stackd.io/stack": "stack-00000000000000ff"}, ELSEWHERE)

    def put_pod(self, name: str, labels: Json | None = None, namespace: str = NAMESPACE) -> None:
        spec = {"nodeSelector": {"for": "nobody"}, "containers": [{"name": "theirs", "image": "theirs/runs"}]}
        self.put("pods", name, spec, labels, namespace)

    def put_in_the_way(self, stack_id: str) -> None:
        """Create a pod that has the name of a stack's: the stack's next start deletes it."""
        self.put_pod(stack_id)
        self._in_the_way.add(("pods", NAMESPACE, stack_id))

    def put(self, kind: str, name: str, spec: Json, labels: Json | None, namespace: str = NAMESPACE) -> None:
        """Create an object of somebody else, which must not change unless it passes for an orphan of stackd."""
        metadata = {"name": name, "labels": labels or {}, "annotations": {THEIRS: "yes"}}
        target = _target(f"/api/v1/namespaces/{namespace}/{kind}")
        self._cluster.api.create(target, {}, orjson.dumps({"metadata": metadata, "spec": spec}))
        if namespace == ELSEWHERE or not OURS.items() <= (labels or {}).items():
            self._kept[kind, namespace, name] = self._seen(kind, namespace, name)

    def differences(self) -> list[str]:
        now = {key: self._seen(*key) for key in self._kept}
        changed = [
            key
            for key in now
            if now[key] != self._kept[key] and not (key in self._in_the_way and _is_cleared(now[key]))
        ]
        return [f"{'/'.join(key)} was {self._kept[key]} and is {now[key]}" for key in changed]

    def _seen(self, kind: str, namespace: str, name: str) -> tuple[Json, ...]:
        """The uid, the labels, and the spec without the fields that the cluster adds."""
        record = self._cluster.store.of(RESOURCES[kind]).records.get((namespace, name))
        if record is None:
            return ()
        spec = {key: value for key, value in record.obj["spec"].items() if key not in ("nodeName", "tolerations")}
        return ({"uid": record.uid}, record.obj["metadata"].get("labels", {}), spec)


def _is_cleared(seen: tuple[Json, ...]) -> bool:
    """Whether what was in a stack's way is gone: nothing has the name, or a pod of the stack."""
    return not seen or OURS.items() <= seen[1].items()


def _target(path: str) -> RequestInfo:
    return read_target("POST", path, {})

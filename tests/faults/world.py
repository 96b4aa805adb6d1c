"""Everything around one schedule: the cluster, the clock, the machines with their daemons, and the clients.

Owns: which machine clients turn to, and what has been noted, counted and found.
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

from stackd.embedded import EmbeddedCluster
from stackd.embedded.auth import User, everything
from stackd.embedded.resources import CONFIG_MAPS, HTTP_ROUTES, NAMESPACES, PODS, SERVICES, Json, Resource
from stackd.embedded.schema import default_namespace, default_pod, default_service, first_status
from stackd.embedded.store import LoopClock, Record
from tests.certificates import TlsFront, authority, issued, tls_in_front
from tests.faults.file import Disk, StateFile
from tests.faults.ledger import Ledger
from tests.faults.machine import GATEWAY, Machine
from tests.faults.processes import ForkServer, Process
from tests.faults.skew import Skew
from tests.harness import KEY, fast_cluster

if TYPE_CHECKING:
    from tests.faults.owners import Owners

START_SECONDS = 30.0
REPLY_SECONDS = 40.0
NAMESPACE = "stacks"
OUR_NAME = re.compile("(?:svc-|rt-)?(stack-[0-9a-f]{16})(?:-[0-9]+)?")
TEMPLATE = "pooled"
_TEMPLATE_FILE = """\
target_port: [{{container_port: 80, protocol: TCP}}]
pool: {pool}
values: {{FLAG: "flag{{<hex:32>}}"}}
pod:
  apiVersion: v1
  kind: Pod
  metadata: {{name: pooled}}
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

    ``at`` is the machine that was asked; ``unsettled``: it was not known to have all that the cluster has.
    """

    status: int | None = None
    body: Any = None
    sent: bool = True
    seconds: float = 0.0
    at: Machine = field(repr=False)
    unsettled: bool = False

    @property
    def file(self) -> StateFile:
        """The state file of the machine that was asked."""
        return self.at.file

    def __str__(self) -> str:
        if self.status is None:
            return "no answer" if self.sent else "not sent"
        error = f" {self.body['error']}" if isinstance(self.body, dict) and "error" in self.body else ""
        return f"{self.status}{error}"


@dataclass(slots=True, kw_only=True)
class World:
    """``starts`` has the crash point of each next start of a daemon; an empty string is none.

    ``owners`` knows which machine's daemon owns the stacks, where that may change.
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
    """The uids of Services that somebody else has changed: their ports are not those of their rows."""
    drifting: bool = False
    """Whether an admission policy has changed Services when they were created."""
    front: TlsFront | None = None
    """What the daemons' connections go through, over TLS; None: they reach the cluster itself."""
    pool: int = 0
    """How many stacks have to wait in the pool of ``TEMPLATE`` when all is quiet; 0: not checked."""

    @property
    def machine(self) -> Machine:
        """The machine whose daemon owns the stacks, or did last."""
        return self.machines[0] if self.owners is None else self.owners.machine

    @property
    def disk(self) -> Disk:
        """The disk under the owner's state file."""
        return self.machine.disk

    @property
    def file(self) -> StateFile:
        """The owner's state file."""
        return self.machine.file

    @property
    def processes(self) -> list[Process]:
        """All daemons that have ever run, by machine."""
        return [process for machine in self.machines for process in machine.processes]

    @property
    def process(self) -> Process:
        """The owner's current daemon, or its last one."""
        return self.machine.process

    @property
    def url(self) -> str:
        """The address of the owner's daemon; empty before it listens."""
        return self.machine.url

    @property
    def up(self) -> asyncio.Event:
        """Set while the owner's daemon listens."""
        return self.machine.up

    @property
    def expect_stop(self) -> bool:
        """Whether the owner's daemon was told to stop."""
        return self.machine.expect_stop

    @property
    def unsettled(self) -> bool:
        """Whether the owner's file is a new one that is not known to have all that the cluster has."""
        return self.owners is not None and not self.owners.settled

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{time.monotonic() - self.began:7.3f}  {text}")

    def violated(self, invariant: str, text: str) -> None:
        """Record a violated invariant."""
        self.note(f"VIOLATION {invariant}: {text}")
        self.violations.append(f"{invariant}: {text}")

    def checked(self, invariant: str, holds: bool, text: str = "") -> bool:
        """Count a check, and record a violation."""
        self.counts[f"checked {invariant}"] += 1
        if not holds:
            self.violated(invariant, text)
        return holds

    def put_template(self, pool: int, image: str) -> None:
        """Let the next daemon keep a pool of this size."""
        folder = self.folder / "templates"
        folder.mkdir(exist_ok=True)
        (folder / f"{TEMPLATE}.yaml").write_text(_TEMPLATE_FILE.format(pool=pool, image=image))
        self.settings["STACKD_TEMPLATES__DIRECTORY"] = str(folder)

    # ---- the daemon

    async def keep_running(self) -> None:
        """Start the daemons, and start each again whenever it dies; return when the first one listens."""
        self.machines[0].keep()
        await self.listening()
        for machine in self.machines[1:]:
            machine.keep()

    async def listening(self) -> None:
        """Return when the owner's daemon listens."""
        async with asyncio.timeout(START_SECONDS):
            await self.up.wait()

    async def ready(self) -> None:
        """Return when the owner's daemon has seen the cluster, too."""
        async with asyncio.timeout(START_SECONDS):
            while (await self.call("GET", "/readyz")).status != 200:
                await asyncio.sleep(0.02)

    def kill(self, pause: float = 0.0) -> None:
        """``kill -9`` the owner's daemon; another one is started after the pause."""
        self.machine.kill(pause)

    def stop(self, pause: float = 0.0) -> None:
        """Send the owner's daemon SIGTERM; another one is started when it has stopped."""
        self.machine.stop(pause)

    async def shut(self) -> None:
        """Stop the daemons for good; each has to stop in time."""
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
        asked.in_flight += 1
        self.counts["requests"] += 1
        try:
            outcome = await self._call(asked, method, path, body, key, patience)
        finally:
            asked.in_flight -= 1
        if self.owners is not None:
            self.owners.answered(asked, method, path, outcome)
        return replace(outcome, unsettled=unsettled or self.unsettled or files != self.ledger.files)

    async def _call(
        self, machine: Machine, method: str, path: str, body: object, key: str | None, patience: float | None
    ) -> Outcome:
        url = machine.url
        if not url:
            return Outcome(at=machine, sent=False)
        headers = {"X-API-KEY": KEY} | ({"Idempotency-Key": key} if key else {})
        began = time.monotonic()
        try:
            async with asyncio.timeout(patience if patience is not None else REPLY_SECONDS):
                async with self.session.request(method, url + path, json=body, headers=headers) as answer:
                    text = await answer.text()
            return Outcome(at=machine, status=answer.status, body=json.loads(text), seconds=time.monotonic() - began)
        except aiohttp.ClientConnectorError:
            return Outcome(at=machine, sent=False)
        except TimeoutError:
            if patience is None:
                self.violated("every request is answered", f"{method} {path}: nothing within {REPLY_SECONDS:.0f} s")
            return Outcome(at=machine)
        except (aiohttp.ClientError, OSError):
            return Outcome(at=machine)

    # ---- the cluster, as it is

    def record(self, kind: str, name: str) -> Record:
        """An object of the namespace. Raises ApiError if it does not exist."""
        return self.cluster.store.of(PODS if kind == "pods" else SERVICES).get(NAMESPACE, name)

    def objects(self, kind: str) -> dict[str, dict[str, Any]]:
        """All ``pods``, ``services`` or ``configmaps`` of the namespace, by name, read without the API.

        ``routes`` are all that gives stacks names: HTTPRoutes, and the Services that are behind them alone.
        """
        if kind == "routes":
            behind = {name: obj for name, obj in self._all(SERVICES).items() if name.startswith("rt-")}
            return self._all(HTTP_ROUTES) | behind
        resource = {"pods": PODS, "services": SERVICES, "configmaps": CONFIG_MAPS}[kind]
        return {name: obj for name, obj in self._all(resource).items() if not name.startswith("rt-")}

    def _all(self, resource: Resource) -> dict[str, dict[str, Any]]:
        return {record.key[1]: record.obj for record in self.cluster.store.of(resource).in_namespace(NAMESPACE)}

    def ours(self, kind: str) -> dict[str, dict[str, Any]]:
        """The objects that the daemon has made, even if somebody has removed their labels."""
        return {name: obj for name, obj in self.objects(kind).items() if self.made_by_us(obj)}

    def made_by_us(self, obj: dict[str, Any]) -> bool:
        """Whether the daemon has made the object."""
        named = OUR_NAME.fullmatch(obj["metadata"]["name"]) is not None
        return is_ours(obj) or (named and not self.foreign.is_theirs(obj))


def is_ours(obj: dict[str, Any]) -> bool:
    """Whether an object carries the labels of the daemon under test."""
    labels = obj["metadata"].get("labels") or {}
    return labels.get("app.kubernetes.io/managed-by") == "stackd" and labels.get("stackd.io/instance") == "default"


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
        # One machine needs no user name to be told from others.
        users = tuple(User(token=name, name=name, rules=(everything(),)) for name in names if machines > 1)
        options = fast_cluster(gateway=GATEWAY, pod_gc_delay=0.4, clock=Skewed(skew), users=users)
        cluster = await stack.enter_async_context(EmbeddedCluster(options))
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        made = World(
            folder=folder,
            cluster=cluster,
            foreign=Foreign(cluster),
            forkserver=forkserver,
            session=session,
            skew=skew,
            settings=settings,
        )
        root = authority(folder) if tls else None
        if root is not None:
            front = tls_in_front(cluster.server.port, issued(folder, root))
            made.front = await stack.enter_async_context(front)
        for name in names:
            home = folder if machines == 1 else folder / name
            home.mkdir(exist_ok=True)
            disk = stack.enter_context(Disk.make(home, small=small_disk))
            kubeconfig = home / "kubeconfig"
            cluster.write_kubeconfig(kubeconfig, token=name if users else None)
            if made.front is not None and root is not None:
                config = json.loads(kubeconfig.read_text())
                server = f"https://127.0.0.1:{made.front.port}"
                config["clusters"][0]["cluster"] = {"server": server, "certificate-authority": str(root.cert)}
                kubeconfig.write_text(json.dumps(config))
            made.machines.append(Machine(name=name, world=made, disk=disk, kubeconfig=kubeconfig))
        made.foreign.settle()
        stack.push_async_callback(made.shut)
        yield made


# ---- objects of others, which must not have changed at the end (invariant 5)


OURS = {"app.kubernetes.io/managed-by": "stackd", "stackd.io/instance": "default"}
ELSEWHERE = "elsewhere"


class Foreign:
    """Objects with names and labels much like stackd's; each differs in one respect."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster = cluster
        self._put: dict[tuple[str, str, str], tuple[str, Json, Json]] = {}
        self._uids: set[str] = set()
        self.ports: set[int] = set()

    def settle(self) -> None:
        """Create the objects."""
        for name in (NAMESPACE, ELSEWHERE):
            namespace: Json = {"metadata": {"name": name}}
            default_namespace(namespace)
            self._cluster.store.create(NAMESPACES, self._cluster.store.prepare(NAMESPACES, "", namespace))
        for number, labels in enumerate(
            ({}, OURS | {"stackd.io/instance": "other"}, {"stackd.io/instance": "default"}, {"app": "stackd"})
        ):
            name = f"stack-{number:016x}"
            self.put_pod(name, labels | {"stackd.io/stack": name})
            self.put_service(f"svc-{name}", 32700 + number, labels | {"stackd.io/stack": name})
        self.put_pod("stack-00000000000000ff", OURS | {"stackd.io/stack": "stack-00000000000000ff"}, ELSEWHERE)

    def put_pod(self, name: str, labels: dict[str, str] | None = None, namespace: str = NAMESPACE) -> None:
        """Create somebody else's pod."""
        self._keep(PODS, namespace, self.new_pod(name, labels, namespace))

    def new_pod(self, name: str, labels: dict[str, str] | None = None, namespace: str = NAMESPACE) -> Json:
        """A pod that fits on no node, ready to be stored."""
        pod: Json = {
            "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
            "spec": {"nodeSelector": {"for": "nobody"}, "containers": [{"name": "theirs", "image": "theirs/runs"}]},
        }
        default_pod(pod)
        pod["status"] = first_status(pod)
        return self._cluster.store.prepare(PODS, namespace, pod)

    def put_service(self, name: str, port: int, labels: dict[str, str]) -> None:
        """Create somebody else's Service."""
        service: Json = {
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": port}], "selector": {}},
        }
        default_service(service)
        self._cluster.ports.assign(service)
        self.ports.add(port)
        self._keep(SERVICES, NAMESPACE, self._cluster.store.prepare(SERVICES, NAMESPACE, service))

    def is_theirs(self, obj: Json) -> bool:
        """Whether the object belongs to somebody else, whatever its name is."""
        return obj["metadata"]["uid"] in self._uids

    def differences(self) -> list[str]:
        """Which of the objects have changed."""
        found = []
        for (kind, namespace, name), (uid, labels, spec) in self._put.items():
            record = self._cluster.store.of(PODS if kind == "Pod" else SERVICES).records.get((namespace, name))
            if record is None:
                found.append(f"{kind} {namespace}/{name} of somebody else is gone")
            elif (record.uid, record.obj["metadata"].get("labels"), _own(record.obj)) != (uid, labels, spec):
                found.append(f"{kind} {namespace}/{name} of somebody else was changed")
        return found

    def _keep(self, resource: Resource, namespace: str, obj: Json) -> None:
        self._uids.add(obj["metadata"]["uid"])
        record = self._cluster.store.create(resource, obj)
        known = (record.uid, record.obj["metadata"].get("labels"), _own(record.obj))
        self._put[resource.kind, namespace, record.key[1]] = known


def _own(obj: Json) -> dict[str, Any]:
    """The spec without the fields that the cluster adds."""
    return {key: value for key, value in obj["spec"].items() if key not in ("nodeName", "tolerations")}

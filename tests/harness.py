"""A whole stackd on an embedded cluster, over real HTTP and a real file: what most tests run on."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import aiohttp

from stackd.clock import Clock
from stackd.codes import ErrorCode
from stackd.config import Config, load
from stackd.daemon import Daemon, running
from stackd.embedded import DEFAULT_NODES, EmbeddedCluster, EmbeddedOptions, resources
from stackd.embedded.faults import Counts, Faults
from stackd.embedded.store import ObjectChange
from stackd.keys import ApiKey, digest
from stackd.kube import guards
from stackd.lifecycle.loop import CREATES_AT_ONCE, Priority
from stackd.lifecycle.templates import read_again
from stackd.model import DeleteReason
from stackd.store.transaction import Counters
from stackd.tasks import ServiceEnded
from stackd.templates import read_templates
from stackd.upkeep.systemd import ProcessContext
from tests.ports import OWN_LOOPBACK

KEY = "sk-test-0123456789abcdef0123456789"
READ_KEY = "sk-read-0123456789abcdef0123456789"
METRICS_KEY = "sk-checks-0123456789abcdef0123456789"
T = TypeVar("T")
DEADLINE = 60.0 if "STACKD_TEST_KUBECONFIG" in os.environ else 30.0
"""Seconds that a condition may take to come true: far more than it needs, also on a busy machine."""

MIRRORED = "pods|services|configmaps|nodes"
"""The resources of which stackd keeps a mirror."""


def seed() -> dict[str, Any]:
    """The example request of the API document."""
    return request_for("nginx:stable")


def request_for(image: str, **resources: str) -> dict[str, Any]:
    """A create request for a pod with one container; ``cpu`` and ``memory`` are its requests and limits."""
    cpu, memory = resources.get("cpu", "100m"), resources.get("memory", "128Mi")
    spec = f"""apiVersion: v1
kind: Pod
metadata:
  name: challenge
spec:
  containers:
    - name: app
      image: {image}
      ports:
        - containerPort: 80
          protocol: TCP
      resources:
        requests:
          cpu: "{cpu}"
          memory: "{memory}"
        limits:
          cpu: "{cpu}"
          memory: "{memory}\""""
    return {"target_port": [{"container_port": 80, "protocol": "TCP"}], "pod_spec": spec}


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response, read to its end."""

    status: int
    text: str
    headers: dict[str, str] = field(repr=False)

    @property
    def json(self) -> Any:
        """The body as JSON, key order kept."""
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """The error text of an error response; it may have only the documented fields beside it."""
        body = self.json
        assert list(body)[:2] == ["error", "code"], body
        assert {code: code.status for code in ErrorCode}[body["code"]] == self.status, body
        assert body.keys() <= {"error", "code", "player_message", "detail", "reasons", "stack_id"}, body
        assert body["player_message"], body
        return str(body["error"])

    @property
    def code(self) -> str:
        assert self.error
        return str(self.json["code"])

    @property
    def for_players(self) -> str:
        return str(self.json.get("player_message", ""))

    @property
    def detail(self) -> str:
        return str(self.json.get("detail", ""))

    @property
    def reasons(self) -> list[tuple[str, int | None, str]]:
        """Path, line and text of each mistake in a request."""
        return [(each["path"], each["line"], each["text"]) for each in self.json["reasons"]]


@dataclass(slots=True, kw_only=True)
class Client:
    """A client of a stackd, with a key."""

    session: aiohttp.ClientSession
    url: str
    key: str = field(default=KEY, repr=False)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    # ---- requests

    async def call(self, method: str, path: str, body: object = None, key: str | None = "", **options: Any) -> Reply:
        """Send one request, with the client's own key unless there is another; ``body`` is JSON unless it is bytes."""
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers["X-API-KEY"] = key or self.key
        data = None if body is None else io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        async with self.session.request(method, self.url + path, data=data, headers=headers, **options) as answer:
            return Reply(answer.status, await answer.text(), dict(answer.headers))

    async def get(self, path: str, **options: Any) -> Any:
        reply = await self.call("GET", path, **options)
        assert reply.status == 200, reply.text
        return reply.json

    async def post(self, path: str, body: object = None, status: int = 200, **options: Any) -> Any:
        """The JSON of a POST, which has to be answered with this status."""
        reply = await self.call("POST", path, body, **options)
        assert reply.status == status, reply.text
        return reply.json

    async def refused(self, status: int, words: str, path: str, body: object = None, **options: Any) -> Reply:
        """The answer to a request (a POST, unless there is a ``method``) that has to be refused with these words."""
        reply = await self.call(options.pop("method", "POST"), path, body, **options)
        assert (reply.status, words in reply.error) == (status, True), reply.text
        assert status not in (429, 503) or int(reply.headers["Retry-After"]) > 0
        return reply

    async def create(self, body: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """Create a stack: of the seed request, or of another ``body``, with these changes."""
        stack: dict[str, Any] = await self.post("/stacks", (body or seed()) | changes, 201)
        return stack

    async def running(self, body: dict[str, Any] | None = None, **changes: Any) -> str:
        """Create a stack, and return its id once it runs."""
        stack_id: str = (await self.create(body, **changes))["stack_id"]
        await self.until_status(stack_id, "running")
        return stack_id

    async def stack(self, stack_id: str) -> dict[str, Any]:
        stack: dict[str, Any] = await self.get(f"/stacks/{stack_id}")
        return stack

    async def do(self, verb: str, stack_id: str, ttl: str | None = None) -> dict[str, Any]:
        """Stop, start, restart or extend a stack; return it as answered."""
        stack: dict[str, Any] = await self.post(f"/stacks/{stack_id}/{verb}", None if ttl is None else {"ttl": ttl})
        return stack

    async def delete(self, stack_id: str) -> None:
        reply = await self.call("DELETE", f"/stacks/{stack_id}")
        assert (reply.status, reply.json) == (200, {"deleted": True, "stack_id": stack_id})

    async def batch_delete(self, *ids: str) -> str:
        """The id of a new job that deletes these stacks."""
        return str((await self.post("/stacks/batch-delete", {"stack_ids": ids}, 202))["job_id"])

    async def timeline(self, stack_id: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = (await self.get(f"/stacks/{stack_id}/timeline"))["events"]
        return events

    async def answers(self) -> dict[str, Any]:
        """All stacks as the API shows them, without the time of their last change."""
        return {stack_id: await self.stack(stack_id) | {"updated_at": ""} for stack_id in await self.listed()}

    async def stacks(self) -> list[dict[str, Any]]:
        stacks: list[dict[str, Any]] = (await self.get("/stacks"))["stacks"]
        return stacks

    async def listed(self) -> list[str]:
        return [stack["stack_id"] for stack in (await self.get("/stacks?fields=stack_id"))["stacks"]]

    async def used_ports(self) -> int:
        return int((await self.get("/stats"))["used_node_ports"])

    async def role(self) -> str:
        """The role of this stackd: ``owner``, ``standby``, ``lost`` or ``released``."""
        return str((await self.get("/owner"))["role"])

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = (await self.call("GET", "/metrics")).text
        samples = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
        assert samples, f"there is no metric {name}"
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        return sum(float(value) for label, value in samples if wanted <= set(label.split(",")))

    # ---- waiting

    async def until_metric(self, name: str, *values: float, **labels: str) -> None:
        await until(lambda: self.metric(name, **labels), lambda seen: seen in values)

    async def until_at_least(self, name: str, least: float, **labels: str) -> None:
        await until(lambda: self.metric(name, **labels), lambda seen: seen >= least)

    async def passes(self, count: int) -> None:
        """Return after ``count`` more reconciliation passes."""
        done = await self.metric("stackd_reconcile_passes_total")
        await self.until_at_least("stackd_reconcile_passes_total", done + count)

    async def until_listed(self, count: int) -> list[str]:
        """Return the ids of all stacks once there are ``count``."""
        return await until(self.listed, lambda seen: len(seen) == count)

    async def until_status(self, stack_id: str, status: str) -> dict[str, Any]:
        return await until(lambda: self.stack(stack_id), lambda seen: seen["status"] == status)

    async def until_ready(self, deadline: float = DEADLINE) -> None:
        await until(lambda: self.call("GET", "/readyz"), lambda seen: seen.status == 200, deadline)

    async def until_unready(self, words: str) -> str:
        """Return why the daemon is not ready, once that contains ``words``."""

        async def why() -> str:
            reply = await self.call("GET", "/readyz")
            return "" if reply.status == 200 else "; ".join(reply.json.get("reasons", [reply.json["error"]]))

        reason = await until(why, lambda seen: words in seen)
        await self.until_metric("stackd_ready", 0)
        return reason

    async def finished_job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = await until(
            lambda: self.get(f"/stacks/batch-delete/{job_id}"), lambda seen: seen["status"] in ("completed", "failed")
        )
        return job


@dataclass(slots=True, kw_only=True)
class Harness(Client):
    """The daemon and its cluster, and a client."""

    daemon: Daemon
    cluster: EmbeddedCluster
    admin: str | None = None

    @property
    def config(self) -> Config:
        return self.daemon.context.config

    @property
    def faults(self) -> Faults:
        return self.cluster.faults

    @property
    def counts(self) -> Counts:
        """Of the requests that the cluster has got."""
        return self.cluster.counts

    async def ended(self) -> str:
        """Wait until the daemon ends its process by itself, and return why it does."""
        failure = self.daemon.context.tasks.failure
        await asyncio.wait([failure], timeout=DEADLINE)
        assert failure.done(), "the daemon goes on"
        error = failure.exception()
        assert isinstance(error, ServiceEnded), error
        return str(error)

    async def until_listed(self, count: int) -> list[str]:
        """Return the ids of all stacks once there are ``count``, and nothing is left of creates that were undone."""
        ids = await Client.until_listed(self, count)
        rows = self.daemon.context.store.stacks
        await eventually(lambda: all(row.delete_reason is not DeleteReason.UNDO for row in rows))
        return ids

    # ---- the state file

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        path = self.config.state.path
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
            return reader.execute(query).fetchall()

    @property
    def store_counters(self) -> Counters:
        """The store's counters, which /metrics shows, and its disk syncs; without a request."""
        return self.daemon.context.store.counters

    @property
    def is_writing(self) -> bool:
        """Whether the store has work, or will get some because the wall clock has just become trusted."""
        return bool(self.daemon.context.wall_clock.changed or self.daemon.context.store.pending)

    async def lose_file(self) -> None:
        """Close the store, so that nothing can be read from the state file."""
        await self.daemon.context.store.close()

    @contextmanager
    def no_writing(self) -> Iterator[None]:
        """Hold the write lock of the state file: the daemon's writes wait for the end of this block."""
        with closing(sqlite3.connect(self.config.state.path, isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                shell.execute("ROLLBACK")

    # ---- the process

    def tell_changes(self, stack_id: str, times: int) -> None:
        """Report a stack as changed to all event streams, ``times`` times, before any other task runs."""
        row = self.daemon.context.store.stacks.get(stack_id)
        for _ in range(times):
            self.daemon.api.feed.row_changed(row, row)

    async def run_now(self, task: str) -> None:
        await self.daemon.schedule.now(task)

    @asynccontextmanager
    async def no_create_slots(self) -> AsyncIterator[None]:
        """Take all create slots: within this block creates wait."""
        slots = self.daemon.context.loop._creates
        async with AsyncExitStack() as held:
            for _ in range(CREATES_AT_ONCE):
                await held.enter_async_context(slots.acquired(Priority.WAITED))
            yield

    @contextmanager
    def worked_on(self, stack_id: str) -> Iterator[None]:
        """Within this block some task is at work on the stack, so that nothing else is done to it."""
        queue = self.daemon.context.loop.queue
        queue._begin(stack_id)
        yield
        queue._working.discard(stack_id)
        queue._again.pop(stack_id, None)
        queue.add(stack_id)

    def observe_all(self) -> None:
        """Mark all stacks dirty, so that the daemon looks at each of them again."""
        self.daemon.context.observe_all()

    def verify_again(self) -> None:
        """Let the daemon check whether this is still the same cluster."""
        self.daemon.context.gate.identity.doubt()

    def lose_lease(self, why: str) -> None:
        """Close the daemon's fence, as when its Lease was not renewed in time; clients read ``why``."""
        self.daemon.context.fence.close(why)

    @contextmanager
    def without_lease(self, why: str) -> Iterator[None]:
        """The same, and within this block no renewal opens the fence again."""
        self.lose_lease(why)
        with mock.patch.object(self.daemon.context.fence, "allow_until"):
            yield

    async def reload_templates(self) -> None:
        """Put the templates that are in the folder now in force, as a reload does."""
        context, settings = self.daemon.context, self.daemon.context.settings
        async with settings.changing:
            files = read_templates(settings.current)
            settings.replace(settings.current, await read_again(context, files, settings.current))
        context.wake_templates()

    def reload(self, section: str, **values: object) -> None:
        """Put other settings in force, as a reload does."""
        context = self.daemon.context
        changed = getattr(context.config, section).model_copy(update=values)
        context.settings.replace(context.config.model_copy(update={section: changed}))
        self.daemon.api.limits.replace(context.config)
        context.wake_templates()

    def give_kubernetes(self, **seconds: float) -> None:
        """Set the time limits of requests to the cluster: ``timeout``, ``attempt_timeout``."""
        cluster = self.daemon.context.cluster
        cluster.target = replace(cluster.target, **seconds)  # type: ignore[arg-type]

    @contextmanager
    def hurried(self, **seconds: float) -> Iterator[None]:
        """Within this block requests to the cluster have these time limits."""
        cluster = self.daemon.context.cluster
        target = cluster.target
        self.give_kubernetes(**seconds)
        yield
        cluster.target = target

    async def until_away(self) -> None:
        """Return once the daemon knows that Kubernetes does not answer; it learns so sooner than by its own limits."""
        with (
            self.hurried(attempt_timeout=0.5),
            mock.patch.multiple(guards, QUIET_SECONDS=0.0, FAILING_SECONDS=0.0),
        ):
            await self.until_unready("has not answered")

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Within this block the daemon starts nothing new, as during a stop."""
        self.daemon.context.gate.closing = True
        yield
        self.daemon.context.gate.closing = False

    def end_waits(self) -> None:
        """End streams and waiting reads at once, as a stop does."""
        self.daemon.api.feed.closed = self.daemon.api.draining = True
        self.daemon.context.loop.rows.give_up()

    def put_keys_in_force(self, *keys: ApiKey) -> None:
        """Accept these keys from now on, and no other."""
        config = self.config
        self.daemon.api.keys.replace(config.model_copy(update={"auth": config.auth.model_copy(update={"keys": keys})}))

    # ---- the cluster

    @contextmanager
    def no_pod_starting(self) -> Iterator[None]:
        """Within this block no new pod comes to run; afterwards they do."""
        self.faults.hold_starts()
        yield
        self.faults.let_start()

    async def objects(self, kind: str) -> dict[str, Any]:
        """What the cluster has, by name, of ``nodes`` or of a kind in the stacks' namespace: ``pods``, ``services``, …"""
        return {item["metadata"]["name"]: item for item in (await self.kubectl("GET", path_of(kind)))["items"]}

    async def pods_and_services(self) -> dict[str, str]:
        """The uid of each pod and Service, by name."""
        every = {**await self.objects("pods"), **await self.objects("services")}
        return {name: one["metadata"]["uid"] for name, one in every.items()}

    async def kubectl(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """A request to the cluster that does not come from stackd."""
        headers = {"Authorization": f"Bearer {self.admin}"} if self.admin else {}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        async with self.session.request(method, self.cluster.url + path, json=body, headers=headers) as answer:
            result: dict[str, Any] = await answer.json()
            return result

    async def apply(self, kind: str, name: str, **content: Any) -> None:
        """Create an object in the stacks' namespace by hand; ``labels``, ``annotations``, … belong to its metadata."""
        metadata = {key: content.pop(key) for key in content.keys() & {"labels", "annotations", "finalizers"}}
        made = await self.kubectl("POST", path_of(kind), {"metadata": {"name": name} | metadata, **content})
        assert made["kind"] != "Status", made

    async def patch(self, kind: str, name: str, change: object) -> dict[str, Any]:
        patched = await self.kubectl("PATCH", f"{path_of(kind)}/{name}", change)
        assert patched["kind"] != "Status", patched
        return patched

    async def delete_object(self, kind: str, name: str) -> None:
        path = f"{path_of(kind)}/{name}"
        await self.kubectl("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})


def path_of(kind: str) -> str:
    """The path of all nodes, or of all objects of a kind in the stacks' namespace."""
    if kind == "nodes":
        return "/api/v1/nodes"
    groups = {"networkpolicies": "apis/networking.k8s.io"}
    group = "apis/gateway.networking.k8s.io" if kind.endswith("routes") else groups.get(kind, "api")
    return f"/{group}/v1/namespaces/stacks/{kind}"


async def eventually(
    check: Callable[[], Any], why: Callable[[], str] = lambda: "", deadline: float = DEADLINE, *, pause: float = 0.005
) -> None:
    """Return as soon as the condition holds, checked again after each pause; fail with ``why`` after the deadline."""
    end = time.monotonic() + deadline
    while True:
        result = check()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < end, why() or "the condition did not come true in time"
        await asyncio.sleep(pause)


async def until(ask: Callable[[], Awaitable[T]], check: Callable[[T], object], deadline: float = DEADLINE) -> T:
    """Ask again and again; return the first answer that fulfils the condition."""
    answers: list[T] = []

    async def fulfilled() -> bool:
        answers[:] = [await ask()]
        return bool(check(answers[0]))

    await eventually(fulfilled, lambda: f"it is still {answers}", deadline)
    return answers[0]


def lose_file(folder: Path) -> None:
    """Move all state files in ``folder`` away.

    They are not deleted, since a new lock file could get the inode of the old one and would pass for it.
    """
    lost = Path(tempfile.mkdtemp(prefix="lost-", dir=folder))
    for file in folder.glob("stackd.db*"):
        file.rename(lost / file.name)


def fast_cluster(**options: Any) -> EmbeddedOptions:
    """An embedded cluster without the delays of a real one.

    If a test says whether node ports answer, those of other runs of the tests do not: the nodes have another address.
    """
    delays = {"start_delay": 0.01, "run_time": 0.02, "stop_delay": 0.01, "backoff": 0.02}
    quick: dict[str, Any] = delays | {"pod_gc_delay": 0.1, "bookmark_interval": 0.5, "serve_node_ports": False}
    if "serve_node_ports" in options:
        nodes = options.get("nodes", DEFAULT_NODES)
        own = [replace(one, external_ip=OWN_LOOPBACK) if one.external_ip else one for one in nodes]
        quick |= {"host": OWN_LOOPBACK}
        options = options | {"nodes": tuple(own)}
    return EmbeddedOptions(**(quick | options))


def variables(folder: Path, kubeconfig: Path | str) -> dict[str, str]:
    """The environment of a stackd with its state in ``folder``, on the cluster of this kubeconfig."""
    return {
        "STACKD_AUTH__KEY": KEY,
        "STACKD_SERVER__PORT": "0",
        "STACKD_STATE__PATH": str(folder / "stackd.db"),
        "STACKD_CLUSTER__MODE": "kubeconfig",
        "STACKD_CLUSTER__KUBECONFIG": str(kubeconfig),
        "STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "false",
        "STACKD_STACKS__SPARE_SERVICES": "0",  # so that tests see only what they ask for
    }


@asynccontextmanager
async def harness(
    folder: Path,
    settings: dict[str, str] | None = None,
    *,
    cluster: EmbeddedCluster | None = None,
    wait: bool = True,
    config: Path | None = None,
    token: str | None = None,
    admin: str | None = None,
    clock: Clock | None = None,
    host: str | None = None,
    edited: dict[str, str] | None = None,
    process: ProcessContext | None = None,
    **more: str,
) -> AsyncIterator[Harness]:
    """A stackd with its state in ``folder``; ``settings`` are ``STACKD_…`` variables, and ``more`` too: ``stacks__ttl``.

    ``wait`` says whether to wait until the daemon is ready; ``config`` is a file beside the settings; ``token`` is the
    daemon's token for the cluster, ``admin`` the test's; ``clock`` is the daemon's; ``host`` is the name of its
    machine. A SIGHUP reloads the configuration only with ``edited``: these settings have changed by then. ``process`` is
    what the service manager has passed.
    """
    async with AsyncExitStack() as stack:
        if cluster is None:
            cluster = await stack.enter_async_context(EmbeddedCluster(fast_cluster()))
        kubeconfig = folder / "kubeconfig"
        cluster.write_kubeconfig(kubeconfig, token=token)
        environment = {
            **variables(folder, kubeconfig),
            "STACKD_SERVER__SHUTDOWN_TIMEOUT": "2s",
            "STACKD_RECONCILE__INTERVAL": "200ms",
            **(settings or {}),
            **{f"STACKD_{key.upper()}": value for key, value in more.items()},
        }
        if edited is not None:
            process = replace(process or ProcessContext(), again=lambda: load(config, environment | edited))
        with mock.patch("socket.gethostname", return_value=host) if host else nullcontext():
            daemon = await stack.enter_async_context(running(load(config, environment), clock=clock, process=process))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        if wait:
            async with asyncio.timeout(DEADLINE):
                await daemon.ready.wait()
        url = f"http://127.0.0.1:{daemon.port}"
        yield Harness(daemon=daemon, cluster=cluster, session=session, url=url, admin=admin)


@dataclass(slots=True, kw_only=True)
class Machine:
    """A machine beside a cluster, on which one stackd runs after the other, each with the same state file."""

    folder: Path
    cluster: EmbeddedCluster
    options: dict[str, Any] = field(default_factory=dict)
    """The options of ``harness`` for each start."""
    _running: AsyncExitStack | None = None

    async def start(self, **options: Any) -> Harness:
        """Start stackd, after a stop of the one that runs; ``options`` of ``harness`` go before those of the machine."""
        await self.stop()
        self.folder.mkdir(exist_ok=True)
        self._running = AsyncExitStack()
        starting = harness(self.folder, cluster=self.cluster, **(self.options | options))
        return await self._running.enter_async_context(starting)

    async def stop(self) -> None:
        if self._running is not None:
            running, self._running = self._running, None
            await running.aclose()

    async def lose_file(self) -> None:
        await self.stop()
        lose_file(self.folder)


@dataclass(slots=True, kw_only=True)
class Machines:
    """Machines beside one cluster, each with its own file; ``holders``: the Lease's holders in order."""

    cluster: EmbeddedCluster
    folder: Path
    each: dict[str, Machine] = field(default_factory=dict)
    holders: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cluster.store.observe(self._follow_lease)

    def _follow_lease(self, change: ObjectChange) -> None:
        if change.after.resource is resources.LEASES:
            holder = change.after.obj["spec"].get("holderIdentity", "").partition("/")[0]
            if self.holders[-1:] != [holder]:
                self.holders.append(holder)

    async def start(self, name: str, *, folder: str = "", lease: str = "4s", **options: Any) -> Harness:
        """Start the stackd of this machine; ``folder`` has its file, if not that of the machine's name."""
        place = folder or name
        machine = self.each.setdefault(place, Machine(folder=self.folder / place, cluster=self.cluster))
        return await machine.start(host=name, cluster__lease_duration=lease, **options)

    async def stop(self, name: str) -> None:
        await self.each[name].stop()


def accept_a_reader(at: Harness) -> None:
    keys = (*at.config.auth.keys, ApiKey(name="reader", sha256=digest(READ_KEY), scope="read"))
    at.reload("auth", keys=keys)
    at.put_keys_in_force(*keys)


def key_for_checks(folder: Path) -> Path:
    """A configuration with the key that HAProxy checks with."""
    config = folder / "config.toml"
    config.write_text(f'[[auth.keys]]\nname = "checks"\nsha256 = "{digest(METRICS_KEY).hex()}"\nscope = "metrics"\n')
    return config

"""A whole stackd on an embedded cluster, over real HTTP and a real file: what most tests run on."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import io
import json
import logging
import re
import sqlite3
import tempfile
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import aiohttp

from stackd.clock import Clock
from stackd.config import Config, load
from stackd.daemon import Daemon, running
from stackd.embedded import EmbeddedCluster, EmbeddedOptions
from stackd.keys import ApiKey
from stackd.lifecycle.context import CREATES_AT_ONCE
from stackd.store.transaction import Counters
from stackd.tasks import ServiceEnded
from stackd.templates import read_templates
from stackd.upkeep.systemd import ProcessContext

KEY = "sk-test-0123456789abcdef0123456789"
READ_KEY = "sk-read-0123456789abcdef0123456789"
T = TypeVar("T")
DEADLINE = 30.0
"""Seconds that a condition may take to come true: far more than it needs, also on a busy machine."""

SHARED = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.FrameType,
    asyncio.Task,
    asyncio.AbstractEventLoop,
    logging.Logger,
    logging.Handler,
)
"""Types of objects that a daemon shares with others, such as the test itself."""

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
        assert next(iter(body)) == "error", body
        assert body.keys() <= {"error", "player_message", "detail", "reasons", "stack_id"}, body
        return str(body["error"])

    @property
    def for_players(self) -> str:
        """What an error response says to players."""
        return str(self.json.get("player_message", ""))

    @property
    def detail(self) -> str:
        """What an error response says to the operator."""
        return str(self.json.get("detail", ""))

    @property
    def reasons(self) -> list[tuple[str, int | None, str]]:
        """Path, line and text of each mistake in a request."""
        return [(each["path"], each["line"], each["text"]) for each in self.json["reasons"]]


@dataclass(slots=True, kw_only=True)
class Harness:
    """The daemon, its cluster, and a client with a key."""

    daemon: Daemon
    cluster: EmbeddedCluster
    session: aiohttp.ClientSession
    url: str
    admin: str | None = None

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self.daemon.context.config

    @property
    def port(self) -> int:
        """The port that the daemon listens on."""
        return int(self.url.rpartition(":")[2])

    @property
    def as_admin(self) -> dict[str, str]:
        """The headers of a cluster administrator."""
        return {"Authorization": f"Bearer {self.admin}"} if self.admin else {}

    async def call(self, method: str, path: str, body: object = None, key: str | None = KEY, **options: Any) -> Reply:
        """Send one request; ``body`` is sent as JSON unless it is bytes."""
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers["X-API-KEY"] = key
        data = None if body is None else io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        async with self.session.request(method, self.url + path, data=data, headers=headers, **options) as answer:
            return Reply(answer.status, await answer.text(), dict(answer.headers))

    async def create(self, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Create a stack."""
        reply = await self.call("POST", "/stacks", body or seed())
        assert reply.status == 201, reply.text
        stack: dict[str, Any] = reply.json
        return stack

    async def running(self, body: dict[str, Any] | None = None) -> str:
        """Create a stack, and return its id once it runs."""
        stack_id: str = (await self.create(body))["stack_id"]
        await self.until_status(stack_id, "running")
        return stack_id

    async def stack(self, stack_id: str) -> dict[str, Any]:
        """The stack as the API shows it now."""
        reply = await self.call("GET", f"/stacks/{stack_id}")
        assert reply.status == 200, reply.text
        stack: dict[str, Any] = reply.json
        return stack

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = (await self.call("GET", "/metrics")).text
        samples = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
        assert samples, f"there is no metric {name}"
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        return sum(float(value) for given, value in samples if wanted <= set(given.split(",")))

    async def until_metric(self, name: str, *values: float, **labels: str) -> None:
        """Return once the metric has one of these values."""
        seen = 0.0

        async def check() -> bool:
            nonlocal seen
            seen = await self.metric(name, **labels)
            return seen in values

        await eventually(check, lambda: f"{name} is {seen}, not {values}")

    async def until_at_least(self, name: str, least: float, **labels: str) -> None:
        """Return once the metric is at least ``least``."""

        async def check() -> bool:
            return await self.metric(name, **labels) >= least

        await eventually(check)

    async def passes(self, count: int) -> None:
        """Return after ``count`` more reconciliation passes."""
        done = await self.metric("stackd_reconcile_passes_total")
        await self.until_at_least("stackd_reconcile_passes_total", done + count)

    async def listed(self) -> list[str]:
        """The ids of all stacks."""
        stacks = (await self.call("GET", "/stacks?fields=stack_id")).json["stacks"]
        return [stack["stack_id"] for stack in stacks]

    async def until_listed(self, count: int) -> list[str]:
        """Return the ids of all stacks once there are ``count``."""
        ids: list[str] = []

        async def check() -> bool:
            ids[:] = await self.listed()
            return len(ids) == count

        await eventually(check, lambda: f"{len(ids)} stacks are listed, not {count}")
        return ids

    async def until_ready(self, deadline: float = DEADLINE) -> None:
        """Return once the daemon says that it is ready."""

        async def check() -> bool:
            return (await self.call("GET", "/readyz")).status == 200

        await eventually(check, deadline=deadline)

    async def until_unready(self, words: str, deadline: float = DEADLINE) -> str:
        """Return why the daemon is not ready, once that contains ``words``."""
        why = ""

        async def check() -> bool:
            nonlocal why
            reply = await self.call("GET", "/readyz")
            why = reply.text if reply.status == 200 else "; ".join(reply.json.get("reasons", [reply.json["error"]]))
            return words in why

        await eventually(check, lambda: f"/readyz says {why}", deadline)
        assert await self.metric("stackd_ready") == 0
        return why

    async def until_unblocked(self) -> None:
        """Return once nothing blocks the reconciliation."""

        async def check() -> bool:
            return not (await self.call("GET", "/reconcile")).json["blocked"]

        await eventually(check)

    async def role(self) -> str:
        """The role of this stackd: ``owner``, ``standby``, ``lost`` or ``released``."""
        return str((await self.call("GET", "/owner")).json["role"])

    async def ended(self) -> str:
        """Wait until the daemon ends its process by itself, and return why it does."""
        failure = self.daemon.context.tasks.failure
        await asyncio.wait([failure], timeout=DEADLINE)
        assert failure.done(), "the daemon goes on"
        error = failure.exception()
        assert isinstance(error, ServiceEnded), error
        return str(error)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The result of a query on the state file, over a connection of its own."""
        path = self.config.state.path
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
            return reader.execute(query).fetchall()

    @property
    def store_counters(self) -> Counters:
        """The store's counters, which /metrics shows, and its disk syncs; without a request."""
        return self.daemon.context.store.counters

    def texts_in_memory(self) -> Iterator[str]:
        """All texts that the daemon holds, also as bytes; not those that only ``SHARED`` objects lead to."""
        seen: set[int] = {id(self.daemon)}
        waiting: list[object] = [self.daemon]
        while waiting:
            for found in gc.get_referents(waiting.pop()):
                if id(found) in seen or isinstance(found, SHARED):
                    continue
                seen.add(id(found))
                waiting.append(found)
                if isinstance(found, str | bytes):
                    yield found if isinstance(found, str) else found.decode(errors="replace")

    @property
    def is_writing(self) -> bool:
        """Whether the store has work, or will get some because the wall clock has just become trusted."""
        return bool(self.daemon.context.wall_clock.changed or self.daemon.context.store.pending)

    def tell_changes(self, stack_id: str, times: int) -> None:
        """Report a stack as changed to all event streams, ``times`` times, before any other task runs."""
        row = self.daemon.context.store.stacks.get(stack_id)
        for _ in range(times):
            self.daemon.api.feed.row_changed(row, row)

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

    def backup(self, path: Path) -> None:
        """Copy the state file to ``path``."""
        with (
            closing(sqlite3.connect(self.config.state.path)) as source,
            closing(sqlite3.connect(path)) as to,
        ):
            source.backup(to)

    async def run_now(self, task: str) -> None:
        """Run this task of the schedule now."""
        await self.daemon.schedule.now(task)

    def on_their_way(self, template: str) -> tuple[int, int]:
        """For the template's pool: how many creates are under way, and how many stacks do not run yet."""
        context = self.daemon.context
        figures = context.pools.figures(context.settings.templates[template])
        return context.pools.of(template).making, figures.starting

    @property
    def changes_told(self) -> int:
        """How many changes the event streams were told since the start."""
        return self.daemon.api.feed.number

    @property
    def creates_under_way(self) -> int:
        """How many creates are under way, including those that wait for a slot."""
        return len(self.daemon.context.creating)

    @property
    def abandoned_creates(self) -> int:
        """How many of the creates under way have lost their client."""
        return sum(one.abandoned for one in self.daemon.context.creating.values())

    @asynccontextmanager
    async def no_create_slots(self) -> AsyncIterator[None]:
        """Take all create slots: within this block creates wait."""
        slots = self.daemon.context.create_slots
        for _ in range(CREATES_AT_ONCE):
            await slots.acquire()
        yield
        for _ in range(CREATES_AT_ONCE):
            slots.release()

    @asynccontextmanager
    async def at_work_on(self, stack_id: str) -> AsyncIterator[None]:
        """Within this, stackd is at work on the stack, so that it is not given from its pool."""
        with self.daemon.context.worker.reserve(stack_id):
            yield

    def look_again(self) -> None:
        """Mark all stacks dirty, so that the daemon looks at each of them again."""
        self.daemon.observer.mark_all_dirty()

    def doubt(self) -> None:
        """Let the daemon check whether this is still the same cluster."""
        self.daemon.context.gate.doubt()

    def lose_lease(self, why: str) -> None:
        """Close the daemon's fence, as when its Lease was not renewed in time; a renewal opens it again.

        ``why`` is what clients are told.
        """
        self.daemon.context.fence.close(why)

    def stop_renewing(self) -> None:
        """Stop the renewals of the Lease, as when the daemon hangs; it can still be stopped as usual."""
        ownership = self.daemon.context.ownership
        ownership._renew = ownership._release.wait  # type: ignore[assignment,method-assign]

    def reload_templates(self) -> None:
        """Put the templates that are in the folder now in force, as a reload does."""
        settings = self.daemon.context.settings
        settings.replace(settings.current, read_templates(settings.current))

    def reload(self, section: str, **values: object) -> None:
        """Put other settings in force, as a reload does."""
        context = self.daemon.context
        changed = getattr(context.config, section).model_copy(update=values)
        context.settings.replace(context.config.model_copy(update={section: changed}))
        self.daemon.api.limits.replace(context.config)

    def give_kubernetes(self, **seconds: float) -> None:
        """Set the time limits of requests to the cluster: ``timeout``, ``attempt_timeout``."""
        cluster = self.daemon.context.cluster
        cluster.target = dataclasses.replace(cluster.target, **seconds)  # type: ignore[arg-type]

    @contextmanager
    def no_pod_starting(self) -> Iterator[None]:
        """Within this block no new pod comes to run; afterwards they do."""
        self.cluster.faults.hold_starts()
        yield
        self.cluster.faults.let_start()

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Within this block the daemon starts nothing new, as during a stop."""
        self.daemon.context.gate.closing = True
        yield
        self.daemon.context.gate.closing = False

    def end_waits(self) -> None:
        """End streams and waiting reads at once, as a stop does."""
        self.daemon.api.feed.closed = self.daemon.api.draining = True
        self.daemon.context.rows.give_up()

    def put_keys_in_force(self, *keys: ApiKey) -> None:
        """Accept these keys from now on, and no other."""
        config = self.config
        self.daemon.api.keys.replace(config.model_copy(update={"auth": config.auth.model_copy(update={"keys": keys})}))

    async def until_status(self, stack_id: str, status: str) -> dict[str, Any]:
        """Return the stack as soon as it has this status."""
        found: dict[str, Any] = {}

        async def check() -> bool:
            found.update(await self.stack(stack_id))
            return bool(found["status"] == status)

        await eventually(check, lambda: f"{stack_id} is {found.get('status')}, not {status}")
        return found

    async def finished_job(self, job_id: str) -> dict[str, Any]:
        """Return the batch-delete job once it has finished."""
        job: dict[str, Any] = {}

        async def check() -> bool:
            job.clear()
            job.update((await self.call("GET", f"/stacks/batch-delete/{job_id}")).json)
            return job["status"] in ("completed", "failed")

        await eventually(check, lambda: f"the job is {job}")
        return job

    async def objects(self, kind: str) -> dict[str, Any]:
        """What the cluster has, by name, of ``nodes`` or of a kind in the stacks' namespace: ``pods``, ``services``, …"""
        path = "/api/v1/nodes" if kind == "nodes" else path_of(kind)
        async with self.session.get(self.cluster.url + path, headers=self.as_admin) as answer:
            return {item["metadata"]["name"]: item for item in (await answer.json())["items"]}

    async def kubectl(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """A request to the cluster that does not come from stackd."""
        headers = self.as_admin | ({"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {})
        async with self.session.request(method, self.cluster.url + path, json=body, headers=headers) as answer:
            result: dict[str, Any] = await answer.json()
            return result

    async def delete_object(self, kind: str, name: str) -> None:
        """Delete a pod, a Service or a route by hand."""
        path = f"{path_of(kind)}/{name}"
        await self.kubectl("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})


def path_of(kind: str) -> str:
    """The path of all objects of this kind in the stacks' namespace."""
    group = "apis/gateway.networking.k8s.io" if kind.endswith("routes") else "api"
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


async def until(ask: Callable[[], Awaitable[T]], check: Callable[[T], object]) -> T:
    """Ask again and again; return the first answer that fulfils the condition."""
    found: list[T] = []

    async def fulfilled() -> bool:
        found[:] = [await ask()]
        return bool(check(found[0]))

    await eventually(fulfilled, lambda: f"it is still {found}")
    return found[0]


def lose_file(folder: Path) -> None:
    """Move all state files in ``folder`` away.

    They are not deleted, since a new lock file could get the inode of the old one and would pass for it.
    """
    lost = Path(tempfile.mkdtemp(prefix="lost-", dir=folder))
    for file in folder.glob("stackd.db*"):
        file.rename(lost / file.name)


def fast_cluster(**options: Any) -> EmbeddedOptions:
    """An embedded cluster without the delays of a real one."""
    quick: dict[str, Any] = {
        "start_delay": 0.01,
        "run_time": 0.02,
        "stop_delay": 0.01,
        "backoff": 0.02,
        "gc_delay": 0.02,
        "pod_gc_delay": 0.1,
        "bookmark_interval": 0.5,
        "serve_node_ports": False,
    }
    return EmbeddedOptions(**(quick | options))


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
) -> AsyncIterator[Harness]:
    """A stackd with its state in ``folder``; ``settings`` are ``STACKD_…`` variables.

    ``wait`` says whether to wait until the daemon is ready; ``config`` is a file beside the settings; ``token`` is the
    daemon's token for the cluster, ``admin`` the test's; ``clock`` is the daemon's; ``host`` is the name of its
    machine. A SIGHUP reloads the configuration only with ``edited``: these settings have changed by then.
    """
    async with AsyncExitStack() as stack:
        if cluster is None:
            cluster = await stack.enter_async_context(EmbeddedCluster(fast_cluster()))
        kubeconfig = folder / "kubeconfig"
        cluster.write_kubeconfig(kubeconfig, token=token)
        environment = {
            "STACKD_AUTH__KEY": KEY,
            "STACKD_SERVER__PORT": "0",
            "STACKD_SERVER__SHUTDOWN_TIMEOUT": "2s",
            "STACKD_STATE__PATH": str(folder / "stackd.db"),
            "STACKD_CLUSTER__MODE": "kubeconfig",
            "STACKD_CLUSTER__KUBECONFIG": str(kubeconfig),
            "STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "false",
            "STACKD_RECONCILE__INTERVAL": "200ms",
            **(settings or {}),
        }
        process = None
        if edited is not None:
            process = ProcessContext(again=lambda: load(config, environment | edited))
        with mock.patch("socket.gethostname", return_value=host) if host else nullcontext():
            daemon = await stack.enter_async_context(running(load(config, environment), clock=clock, process=process))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        if wait:
            async with asyncio.timeout(DEADLINE):
                await daemon.ready.wait()
        url = f"http://127.0.0.1:{daemon.port}"
        yield Harness(daemon=daemon, cluster=cluster, session=session, url=url, admin=admin)

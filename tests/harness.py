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
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp

from stackd.clock import Clock
from stackd.config import Config, load
from stackd.daemon import Daemon, running
from stackd.embedded import EmbeddedCluster, EmbeddedOptions
from stackd.embedded.resources import NODES
from stackd.keys import ApiKey
from stackd.lifecycle.context import CREATES_AT_ONCE
from stackd.lifecycle.delete import creates_in_need
from stackd.lifecycle.plan import Orphan
from stackd.model import DeleteReason
from stackd.store.transaction import Counters
from stackd.tasks import ServiceEnded
from stackd.templates import read_templates
from stackd.upkeep.systemd import ProcessContext

KEY = "sk-test-0123456789abcdef0123456789"
READ_KEY = "sk-read-0123456789abcdef0123456789"
SPEC_FOLDER = Path(__file__).parent / "unit" / "podspec"
DEADLINE = 30.0
"""For a condition that has to come true: far more than it takes, also on a busy machine."""

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
"""What a daemon shares with others, such as the test itself."""

MIRRORED = "pods|services|configmaps|nodes"
"""The resources of which a stackd keeps a copy."""


def seed() -> dict[str, Any]:
    """The request of the API document's own example."""
    return request_for("nginx:stable")


def request_for(image: str, **resources: str) -> dict[str, Any]:
    """A create request for a pod of one container; ``cpu`` and ``memory`` as limits."""
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
    """An HTTP answer, read whole."""

    status: int
    text: str
    headers: dict[str, str] = field(repr=False)

    @property
    def json(self) -> Any:
        """The body as JSON, key order kept."""
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """The sentence of an error answer; beside it are at most the documented fields."""
        body = self.json
        assert next(iter(body)) == "error", body
        assert body.keys() <= {"error", "detail", "reasons", "stack_id"}, body
        return str(body["error"])

    @property
    def detail(self) -> str:
        """What an error answer says to whoever runs stackd."""
        return str(self.json.get("detail", ""))

    @property
    def reasons(self) -> list[tuple[str, int | None, str]]:
        """Path, line and text of each thing that is wrong with a request."""
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
        """Where the daemon listens."""
        return int(self.url.rpartition(":")[2])

    @property
    def as_admin(self) -> dict[str, str]:
        """The headers of somebody who may do everything to the cluster."""
        return {"Authorization": f"Bearer {self.admin}"} if self.admin else {}

    async def call(self, method: str, path: str, body: object = None, key: str | None = KEY, **options: Any) -> Reply:
        """One request; ``body`` is sent as JSON unless it is bytes."""
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers["X-API-KEY"] = key
        data = None if body is None else io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        async with self.session.request(method, self.url + path, data=data, headers=headers, **options) as answer:
            return Reply(answer.status, await answer.text(), dict(answer.headers))

    async def create(self, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A stack, created."""
        reply = await self.call("POST", "/stacks", body or seed())
        assert reply.status == 201, reply.text
        stack: dict[str, Any] = reply.json
        return stack

    async def stack(self, stack_id: str) -> dict[str, Any]:
        """The stack as it reads now."""
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
        """Return once the metric is so large."""

        async def check() -> bool:
            return await self.metric(name, **labels) >= least

        await eventually(check)

    async def passes(self, count: int) -> None:
        """Return after so many more passes of the reconciliation."""
        done = await self.metric("stackd_reconcile_passes_total")
        await self.until_at_least("stackd_reconcile_passes_total", done + count)

    async def listed(self) -> list[str]:
        """The ids of all stacks."""
        stacks = (await self.call("GET", "/stacks?fields=stack_id")).json["stacks"]
        return [stack["stack_id"] for stack in stacks]

    async def until_listed(self, count: int) -> list[str]:
        """The ids of all stacks, once there are so many."""
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
        """Why the daemon says that it is not ready, once these words are among it."""
        why = ""

        async def check() -> bool:
            nonlocal why
            reply = await self.call("GET", "/readyz")
            why = reply.text if reply.status == 200 else "; ".join(reply.json.get("reasons", [reply.json["error"]]))
            return words in why

        await eventually(check, lambda: f"/readyz says {why}", deadline)
        return why

    async def until_unblocked(self) -> None:
        """Return once the reconciliation may do what it finds to do."""

        async def check() -> bool:
            return not (await self.call("GET", "/reconcile")).json["blocked"]

        await eventually(check)

    async def role(self) -> str:
        """What this stackd is to the stacks: ``owner``, ``standby``, ``lost`` or ``released``."""
        return str((await self.call("GET", "/owner")).json["role"])

    async def ended(self) -> str:
        """Why the daemon ends its process, once it does by itself."""
        failure = self.daemon.context.tasks.failure
        await asyncio.wait([failure], timeout=DEADLINE)
        assert failure.done(), "the daemon goes on"
        error = failure.exception()
        assert isinstance(error, ServiceEnded), error
        return str(error)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the state file says, read by somebody else."""
        path = self.config.state.path
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
            return reader.execute(query).fetchall()

    @property
    def store_counters(self) -> Counters:
        """What /metrics tells of the store, and how often it waited for the disk, without a request."""
        return self.daemon.context.store.counters

    def texts_in_memory(self) -> Iterator[str]:
        """All texts that the daemon holds, also as bytes; not those that are reached only by way of what is ``SHARED``."""
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
        """Whether anything is under way in the store, or to come because the clock is believed from now on."""
        return bool(self.daemon.context.wall_clock.changed or self.daemon.context.store.pending)

    def tell_changes(self, stack_id: str, times: int) -> None:
        """Tell all who follow that a stack has changed, before anybody gets a turn."""
        row = self.daemon.context.store.stacks.get(stack_id)
        for _ in range(times):
            self.daemon.api.feed.row_changed(row, row)

    async def lose_file(self) -> None:
        """Nothing can be read from the state file any more."""
        await self.daemon.context.store.close()

    @contextmanager
    def no_writing(self) -> Iterator[None]:
        """Meanwhile nothing can be written into the state file, and what is to be written waits."""
        with closing(sqlite3.connect(self.config.state.path, isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                shell.execute("ROLLBACK")

    def backup(self, path: Path) -> None:
        """A copy of the state file."""
        with (
            closing(sqlite3.connect(self.config.state.path)) as source,
            closing(sqlite3.connect(path)) as to,
        ):
            source.backup(to)

    async def run_now(self, task: str) -> None:
        """Do what is done at regular times now."""
        await self.daemon.schedule.now(task)

    def remove_object(self, kind: str, name: str, uid: str) -> None:
        """Let the daemon remove an object, as a pass does that has found no row for it."""
        self.daemon.context.removals.add(Orphan(resource=kind, name=name, uid=uid))

    def see_quotas(self, *quotas: dict[str, Any]) -> None:
        """Let the daemon believe that the namespace has these quotas, also such as the embedded cluster refuses."""
        seen = self.daemon.context.quotas
        seen.seen_at, seen.objects = 1, list(quotas)

    def creates_in_line(self, template: str) -> int:
        """How many creates wait for the next stack of the template's pool."""
        context = self.daemon.context
        return context.pools.waiting(context.settings.templates[template].digest)

    def on_their_way(self, template: str) -> tuple[int, int]:
        """Of the template's pool: creates under way, and stacks that do not run yet."""
        context = self.daemon.context
        figures = context.pools.figures(context.settings.templates[template])
        return context.pools.of(template).making, figures.starting

    @property
    def changes_told(self) -> int:
        """How many changes were told to those who follow, since the start."""
        return self.daemon.api.feed.number

    @property
    def creates_under_way(self) -> int:
        """How many creates are under way, those that wait for their turn included."""
        return len(self.daemon.context.creating)

    @property
    def abandoned_creates(self) -> int:
        """How many creates under way their clients have left."""
        return sum(one.abandoned for one in self.daemon.context.creating.values())

    @property
    def creates_in_need(self) -> bool:
        """Whether ends that nobody waits for give way."""
        return creates_in_need(self.daemon.context)

    async def end_in_background(self, stack_ids: list[str]) -> None:
        """Let the daemon end these, as at the end of their time to live."""
        context = self.daemon.context
        await context.store.stacks.mark_deleting(stack_ids, DeleteReason.EXPIRED)
        for stack_id in stack_ids:
            context.removals.add(stack_id)

    @asynccontextmanager
    async def no_create_slots(self) -> AsyncIterator[None]:
        """Meanwhile creates wait for their turn."""
        slots = self.daemon.context.create_slots
        for _ in range(CREATES_AT_ONCE):
            await slots.acquire()
        yield
        for _ in range(CREATES_AT_ONCE):
            slots.release()

    def look_again(self) -> None:
        """Let the daemon look at every stack again, changed or not."""
        self.daemon.observer.mark_all_dirty()

    def doubt(self) -> None:
        """It may be another cluster by now: let the daemon ask."""
        self.daemon.context.doubt()

    def lose_lease(self, why: str) -> None:
        """Let the daemon change nothing until it renews its Lease, as when it could not do so in time.

        ``why`` is what clients are told.
        """
        self.daemon.context.fence.close(why)

    def stop_renewing(self) -> None:
        """Let the daemon renew its Lease no more, as when it hangs; it still ends when it is told to."""
        ownership = self.daemon.context.ownership
        ownership._renew = ownership._release.wait  # type: ignore[assignment,method-assign]

    def reload_templates(self) -> None:
        """Put the templates in force that are in their folder now, as a reload does."""
        settings = self.daemon.context.settings
        settings.replace(settings.current, read_templates(settings.current))

    def reload(self, section: str, **values: object) -> None:
        """Put other settings in force, as a reload does."""
        context = self.daemon.context
        changed = getattr(context.config, section).model_copy(update=values)
        context.settings.replace(context.config.model_copy(update={section: changed}))
        self.daemon.api.limits.replace(context.config)

    def give_kubernetes(self, **seconds: float) -> None:
        """How long requests to the cluster may take: ``timeout``, ``attempt_timeout``."""
        cluster = self.daemon.context.cluster
        cluster.target = dataclasses.replace(cluster.target, **seconds)  # type: ignore[arg-type]

    def silence_nodes(self) -> None:
        """No node's kubelet answers any more, and the cluster says so."""
        store = self.cluster.store
        for record in list(store.of(NODES).records.values()):
            conditions = [one | {"status": "Unknown"} for one in record.obj["status"]["conditions"]]
            store.update(record, status=record.obj["status"] | {"conditions": conditions})

    @contextmanager
    def no_pod_starting(self) -> Iterator[None]:
        """Meanwhile no fresh pod gets to run; afterwards they do."""
        self.cluster.faults.hold_starts()
        yield
        self.cluster.faults.let_start()

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """As in a stop: nothing new is begun."""
        self.daemon.context.closing = True
        yield
        self.daemon.context.closing = False

    def end_waits(self) -> None:
        """As in a stop: streams and waiting reads end at once."""
        self.daemon.api.feed.closed = self.daemon.api.draining = True
        self.daemon.context.rows.give_up()

    def put_keys_in_force(self, *keys: ApiKey) -> None:
        """These keys, and no other, are taken from now on."""
        config = self.config
        self.daemon.api.keys.replace(config.model_copy(update={"auth": config.auth.model_copy(update={"keys": keys})}))

    async def until_status(self, stack_id: str, status: str) -> dict[str, Any]:
        """The stack as soon as it has that status."""
        found: dict[str, Any] = {}

        async def check() -> bool:
            found.update(await self.stack(stack_id))
            return bool(found["status"] == status)

        await eventually(check, lambda: f"{stack_id} is {found.get('status')}, not {status}")
        return found

    async def finished_job(self, job_id: str) -> dict[str, Any]:
        """The batch-delete job when it has finished."""
        job: dict[str, Any] = {}

        async def check() -> bool:
            job.clear()
            job.update((await self.call("GET", f"/stacks/batch-delete/{job_id}")).json)
            return job["status"] in ("completed", "failed")

        await eventually(check, lambda: f"the job is {job}")
        return job

    async def objects(self, kind: str) -> dict[str, Any]:
        """What the cluster itself holds, by name: ``pods``, ``services`` (in the stacks' namespace) or ``nodes``."""
        path = "/api/v1/nodes" if kind == "nodes" else f"/api/v1/namespaces/stacks/{kind}"
        async with self.session.get(self.cluster.url + path, headers=self.as_admin) as answer:
            return {item["metadata"]["name"]: item for item in (await answer.json())["items"]}

    async def kubectl(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """A request of somebody else to the cluster."""
        async with self.session.request(method, self.cluster.url + path, json=body, headers=self.as_admin) as answer:
            result: dict[str, Any] = await answer.json()
            return result

    async def delete_object(self, kind: str, name: str) -> None:
        """Delete a pod or a service by hand."""
        path = f"/api/v1/namespaces/stacks/{kind}/{name}"
        await self.kubectl("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})


async def eventually(
    check: Callable[[], Any], why: Callable[[], str] = lambda: "", deadline: float = DEADLINE, *, pause: float = 0.005
) -> None:
    """Return as soon as the condition holds, looked at again after each pause; fail with ``why`` after the deadline."""
    end = time.monotonic() + deadline
    while True:
        result = check()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < end, why() or "the condition did not come true in time"
        await asyncio.sleep(pause)


def lose_file(folder: Path) -> None:
    """Nothing is left of the state in ``folder``.

    The files are moved away, not removed: a new lock that happened to get the inode of the old one would pass for it.
    """
    lost = Path(tempfile.mkdtemp(prefix="lost-", dir=folder))
    for file in folder.glob("stackd.db*"):
        file.rename(lost / file.name)


def fast_cluster(**options: Any) -> EmbeddedOptions:
    """An embedded cluster without the waiting of a real one."""
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
    """A stackd with its state in ``folder``; ``settings`` are ``STACKD_…`` variables; ``wait`` for the daemon's readiness.

    ``config`` is a file beside the settings; ``token`` is who the daemon is to the cluster, ``admin`` who the test is;
    ``clock`` is the daemon's; ``host`` is the name of its machine. A SIGHUP reloads the configuration only with ``edited``:
    these are the settings that have changed by then.
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

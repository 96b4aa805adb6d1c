"""The daemon: open, start tasks, serve, and close in reverse.

Owns: all wiring, the signals, and the order of starting and stopping. Reads are served as soon as the file is open, before
the cluster has answered; creates once the mirror is in sync.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stackd import __version__
from stackd.clock import Clock, SystemClock
from stackd.config import Config, Loaded, require_cluster
from stackd.embedded import EmbeddedCluster, EmbeddedOptions
from stackd.jobs.queue import BatchQueue
from stackd.jobs.schedule import EXPIRE_SECONDS, PURGE_SECONDS, QUOTAS_SECONDS, Entry, Schedule
from stackd.kube.client import Cluster, ClusterTarget
from stackd.kube.mirror import Mirror
from stackd.lifecycle import crashpoints, evidence, retire
from stackd.lifecycle.brake import Brake
from stackd.lifecycle.bring_up import bring_up
from stackd.lifecycle.expire import Expiries, expire
from stackd.lifecycle.observe import Observer
from stackd.lifecycle.purge import purge
from stackd.lifecycle.quotas import refresh_quotas
from stackd.lifecycle.rebuild import Rebuilt
from stackd.lifecycle.rebuild import rebuild as recover
from stackd.lifecycle.reconcile import Reconciler
from stackd.lifecycle.replay import Replays
from stackd.lifecycle.retire import Retirement
from stackd.lifecycle.room import Room, Settings
from stackd.metrics import Metrics
from stackd.notify import Notifier
from stackd.podspec import prepare as prepare_podspec
from stackd.store import Store
from stackd.tasks import Tasks
from stackd.upkeep import lag, memory, watchdog
from stackd.upkeep.certificate import Certificate
from stackd.upkeep.keyfile import KeyFile
from stackd.upkeep.outside import Outside
from stackd.upkeep.reload import Reloader, apply_keys
from stackd.upkeep.report import report
from stackd.web.answers import Answers
from stackd.web.api import Api
from stackd.web.auth import Keys
from stackd.web.hub import Hub
from stackd.web.limits import Limits
from stackd.web.serving import IDLE_SECONDS, Door, prepare

log = logging.getLogger(__name__)

EMBEDDED = "embedded"
HURRIED_EXIT = 1
DOOR_SECONDS = 5.0
"""How long connections may queue at a handed-over socket while the cluster is being looked at."""

STOP_EXTRA_SECONDS = 15.0


@dataclass(slots=True, kw_only=True)
class Daemon:
    """A daemon at work."""

    room: Room
    api: Api
    observer: Observer
    schedule: Schedule
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0


async def serve(
    loaded: Loaded,
    *,
    again: Callable[[], Loaded] | None = None,
    on_listening: Callable[[Daemon], None] | None = None,
) -> None:
    """Run until SIGTERM or SIGINT; a second one ends the process at once. SIGHUP takes over what ``again`` reads.

    Raises ConfigError, StoreError, OSError (the address is taken) or ServiceEnded.
    """
    stop = asyncio.Event()
    _handle_signals(stop)
    async with running(loaded, outside=Outside.of_process(os.environ, again)) as daemon:
        if on_listening is not None:
            on_listening(daemon)
        settling = asyncio.create_task(memory.settle(daemon.ready), name="memory")
        try:
            await _until(stop, daemon.room.tasks)
        finally:
            settling.cancel()
        log.info("stopping")


@asynccontextmanager
async def running(
    loaded: Loaded, *, clock: Clock | None = None, outside: Outside | None = None
) -> AsyncIterator[Daemon]:
    """A daemon that listens; stopped in order on leaving."""
    config, outside = loaded.config, outside or Outside()
    require_cluster(config)
    outside.notifier.status("opening the file")
    for warning in loaded.warnings:
        log.warning("%s", warning)
    crashpoints.arm(os.environ)
    async with AsyncExitStack() as stack:
        daemon = await _open(stack, config, clock or SystemClock())
        await _start(stack, daemon, outside)
        yield daemon


async def _open(stack: AsyncExitStack, config: Config, clock: Clock) -> Daemon:
    store = await _store(stack, config, clock)
    url = await _embedded(stack, config) if config.cluster.mode == EMBEDDED else ""
    metrics = Metrics()
    cluster = await Cluster.connect(_target(config, url), observer=metrics.asked)
    stack.push_async_callback(cluster.close)
    tasks = Tasks()
    stack.push_async_callback(tasks.stop)
    room = Room(
        store=store,
        cluster=cluster,
        mirror=Mirror(cluster),
        clock=clock,
        settings=Settings(config),
        tasks=tasks,
        brake=Brake(clock),
        retirement=Retirement(),
        metrics=metrics,
    )
    return _wire(room)


async def _store(stack: AsyncExitStack, config: Config, clock: Clock) -> Store:
    ports = (config.stacks.node_port_min, config.stacks.node_port_max)
    store = await Store.open(Path(config.state.path), clock=clock, node_ports=ports)
    stack.push_async_callback(store.close)
    return store


def _wire(room: Room) -> Daemon:
    observer, expiries = Observer(room), Expiries()
    reconciler = Reconciler(room, observer)
    keys = Keys(room.clock)
    api = Api(
        room=room,
        keys=keys,
        limits=Limits(room.clock, room.config),
        answers=Answers(room),
        batch=BatchQueue(room),
        replays=Replays(room),
        reconciler=reconciler,
        hub=Hub(room),
    )
    apply_keys(keys, room.config)
    room.store.jobs.subscribe(api.hub.job_changed)
    for owner in (room, api.hub, api.answers, observer, room.metrics):
        room.store.stacks.subscribe(owner.row_changed)
    room.store.stacks.subscribe(expiries.follow)
    for stack in room.store.stacks.ordered():
        expiries.follow(None, stack)
    room.mirror.subscribe(observer.cluster_changed)
    room.cluster.connection.refused = observer.doubt
    entries = [
        Entry(name="expire", every=EXPIRE_SECONDS, verb=lambda: expire(room, expiries)),
        Entry(name="reconcile", every=room.config.reconcile.interval, verb=reconciler.reconcile),
        Entry(name="purge", every=PURGE_SECONDS, verb=lambda: purge(room)),
        Entry(name="quotas", every=QUOTAS_SECONDS, verb=lambda: refresh_quotas(room)),
    ]
    return Daemon(room=room, api=api, observer=observer, schedule=Schedule(entries, room.tasks))


async def _start(stack: AsyncExitStack, daemon: Daemon, outside: Outside) -> None:
    room, config = daemon.room, daemon.room.config
    certificate = Certificate.of(config)
    sockets, lasting = outside.sockets(config)
    door = await prepare(daemon.api, sockets, lasting=lasting)
    daemon.port = door.port
    stack.push_async_callback(_drain, daemon, door, outside.notifier)
    room.tasks.serve("store", _watch_store(room.store))
    room.tasks.serve("cluster", _follow_cluster(daemon))
    room.tasks.errand("prepare", asyncio.to_thread(prepare_podspec))
    if outside.inherited:
        await _first_look(daemon)
    await door.open(certificate.context if certificate else None)
    log.info("stackd %s: listening on %s, %d stacks", __version__, door.address, len(room.store.stacks))
    room.tasks.serve("batch-delete", daemon.api.batch.run())
    daemon.schedule.start()
    stack.callback(daemon.schedule.stop)
    room.tasks.serve("clock", daemon.schedule.follow_clock())
    _look_after(daemon, outside, certificate)


async def _first_look(daemon: Daemon) -> None:
    """Wait for the cluster a moment: what connects meanwhile queues at the handed-over socket, and is served then."""
    ready = asyncio.create_task(daemon.ready.wait(), name="first look")
    either: list[asyncio.Future[Any]] = [ready, daemon.room.tasks.failure]
    try:
        await asyncio.wait(either, timeout=DOOR_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ready.cancel()


def _look_after(daemon: Daemon, outside: Outside, certificate: Certificate | None) -> None:
    """Start what tells the service manager, reloads and measures."""
    room, notifier = daemon.room, outside.notifier
    room.tasks.serve("report", report(room, daemon.ready, notifier))
    if notifier.watchdog:
        room.tasks.serve("watchdog", watchdog.feed(room, notifier))
    room.tasks.serve("lag", lag.sample(room.metrics.loop_lag))
    if certificate is not None:
        room.tasks.serve("certificate", certificate.follow())
    if outside.again is not None:
        room.tasks.serve("key-file", KeyFile(room, daemon.api.keys, outside.again).follow())
        reloader = Reloader(
            room=room,
            keys=daemon.api.keys,
            limits=daemon.api.limits,
            schedule=daemon.schedule,
            observer=daemon.observer,
            notifier=notifier,
            again=outside.again,
            certificate=certificate,
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.wanted.set)
        room.tasks.serve("reload", reloader.run())


async def _follow_cluster(daemon: Daemon) -> None:
    """Reach the cluster, bring rows and cluster together once, and follow it from then on."""
    room = daemon.room
    policies = room.config.stacks.require_ingress_network_policy and room.config.cluster.mode != EMBEDDED
    await bring_up(room, check_policies=policies)
    async with asyncio.TaskGroup() as group:
        group.create_task(room.mirror.run(), name="mirror")
        await room.mirror.wait_synced()
        group.create_task(daemon.observer.run(), name="observe")
        group.create_task(retire.work(room), name="retire")
        group.create_task(evidence.work(room), name="evidence")
        daemon.observer.look_at_all()
        await daemon.schedule.now("reconcile")
        daemon.ready.set()
        log.info("ready: %d stacks, %d nodes", len(room.store.stacks), len(room.mirror.nodes))


async def _watch_store(store: Store) -> None:
    await asyncio.shield(store.failed)


async def _drain(daemon: Daemon, door: Door, notifier: Notifier) -> None:
    """Finish what is in flight within the time allowed; the rest is undone now or at the next start.

    Where the sockets outlive the process, whoever was let in is still served, and who comes later waits for the next one.
    """
    room = daemon.room
    timeout = room.config.server.shutdown_timeout
    started = room.clock.monotonic()
    notifier.stopping("finishing what is under way")
    notifier.extend(timeout + STOP_EXTRA_SECONDS)
    await door.stop_accepting()
    daemon.api.draining = True
    daemon.api.hub.close()
    room.rows.give_up()
    if door.lasting:
        await door.last_requests(min(IDLE_SECONDS, timeout))
    room.closing = True
    await door.runner.cleanup()
    for abandon in list(room.creating.values()):
        abandon.set()
    late = await room.tasks.finish(max(1.0, timeout - (room.clock.monotonic() - started)))
    if late:
        log.warning("%d operations were not done in time; they go on at the next start", late)


async def _until(stop: asyncio.Event, tasks: Tasks) -> None:
    waiting = asyncio.create_task(stop.wait(), name="signal")
    either: list[asyncio.Future[Any]] = [waiting, tasks.failure]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if tasks.failure.done() and not stop.is_set():
        tasks.failure.result()


def _handle_signals(stop: asyncio.Event) -> None:
    def received(name: str) -> None:
        if stop.is_set():
            log.warning("%s again: stopping at once", name)
            logging.shutdown()
            os._exit(HURRIED_EXIT)
        log.info("%s", name)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number.name)


async def _embedded(stack: AsyncExitStack, config: Config) -> str:
    state = Path(config.state.path)
    options = EmbeddedOptions(state_path=state.with_name(state.name + ".cluster"))
    cluster = await stack.enter_async_context(EmbeddedCluster(options))
    log.warning("the embedded cluster answers at %s; stacks on it are make-believe", cluster.url)
    return cluster.url


def _target(config: Config, url: str) -> ClusterTarget:
    cluster = config.cluster
    return ClusterTarget(
        mode=cluster.mode,
        kubeconfig=cluster.kubeconfig,
        context=cluster.context,
        url=url,
        instance=cluster.instance,
        namespace=config.stacks.namespace,
    )


async def rebuild(loaded: Loaded) -> Rebuilt:
    """Recover the rows from the cluster into an empty file. Raises StoreError, ClusterUnavailable, ConfigError."""
    config = loaded.config
    async with AsyncExitStack() as stack:
        store = await _store(stack, config, SystemClock())
        url = await _embedded(stack, config) if config.cluster.mode == EMBEDDED else ""
        cluster = await Cluster.connect(_target(config, url))
        stack.push_async_callback(cluster.close)
        return await recover(store, cluster)

"""The daemon: open, start tasks, serve, and close in reverse.

Owns: all wiring, the signals, and the order of starting and stopping. The daemon serves reads as soon as the file is
open, before the cluster has answered, and creates once the mirror is synced.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from stackd import crashpoints, timing
from stackd.clock import NANOSECONDS, Clock, SystemClock, WallClock
from stackd.config import Config, LoadedConfig, require_cluster
from stackd.errors import ClusterError, ClusterUnavailable, NotOwner, StackdError, StoreError, StoreUnavailable
from stackd.jobs.batch import BatchQueue
from stackd.jobs.schedule import Schedule, Table
from stackd.kube import labels
from stackd.kube.client import Cluster
from stackd.kube.connection import Deadline
from stackd.kube.credentials import ClusterTarget, Renewal
from stackd.kube.guards import watch_over
from stackd.kube.mirror import Mirror
from stackd.kube.routes import kinds_of
from stackd.kube.wire import CONFIG_MAPS
from stackd.lifecycle import diagnostics
from stackd.lifecycle import templates as templating
from stackd.lifecycle.audit import Audit
from stackd.lifecycle.bring_up import ask_node_ports, bring_up, follow_identity, refresh_policies, refresh_rights
from stackd.lifecycle.capacity import refresh_quotas
from stackd.lifecycle.context import Context, Diagnostics, Settings
from stackd.lifecycle.gate import Gate
from stackd.lifecycle.keep_spares import keep as keep_spares
from stackd.lifecycle.loop import Loop
from stackd.lifecycle.ownership import Ownership, Role
from stackd.lifecycle.passes import Expiry, Reconciler, purge
from stackd.lifecycle.prepull import PrePulls
from stackd.lifecycle.rebuild import Rebuilt, RecordBounds, update_rows
from stackd.lifecycle.rebuild import rebuild as recover
from stackd.lifecycle.reconcile import ClusterEvents, reconcile
from stackd.lifecycle.refill import Refill
from stackd.lifecycle.template_pods import TemplatePods
from stackd.lifecycle.verbs import write_records
from stackd.metrics import HOUR, Metrics
from stackd.model import AuditKind
from stackd.play import Players
from stackd.store import Store
from stackd.tasks import ServiceEnded, Tasks, first_of
from stackd.templates import Reader, TemplateSet, in_force, read_templates
from stackd.upkeep import health
from stackd.upkeep.backup import left_at
from stackd.upkeep.reload import HandOver, Reloader
from stackd.upkeep.systemd import ProcessContext
from stackd.upkeep.tls import Certificate
from stackd.version import VERSION
from stackd.web.api import Api
from stackd.web.auth import Keys
from stackd.web.bodies import BodyCache
from stackd.web.change_feed import ChangeFeed
from stackd.web.idempotency import Replays
from stackd.web.limits import Limits
from stackd.web.serving import IDLE_SECONDS, SHARE_OF_REQUESTS, HttpListener, listener_of
from stackd.workqueue import WorkQueue

log = logging.getLogger(__name__)

SECOND_SIGNAL_EXIT = 1


@dataclass(slots=True, kw_only=True)
class Daemon:
    """A running daemon."""

    context: Context
    api: Api
    schedule: Schedule
    prepulls: PrePulls
    refill: Refill
    certificate: Certificate | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0


async def serve(
    loaded: LoadedConfig,
    *,
    again: Callable[[], LoadedConfig] | None = None,
    on_listening: Callable[[Daemon], None] | None = None,
) -> None:
    """Run until SIGTERM or SIGINT; a second one ends the process at once. SIGHUP applies what ``again`` reads. SIGUSR1
    says that the next stop is for a restart.

    When another stackd owns the stacks, a new daemon begins in this process, and stands by.
    Raises ConfigError, StoreError, OSError (the address is taken) or ServiceEnded.
    """
    stop = asyncio.Event()
    process = ProcessContext.of_process(os.environ, again)
    _handle_signals(stop, process)
    while not stop.is_set():
        async with running(loaded, process=process) as daemon:
            if on_listening is not None:
                on_listening(daemon)
            freezing = asyncio.create_task(health.freeze_memory(daemon.ready), name="memory")
            failure = daemon.context.tasks.failure
            try:
                await first_of(stop, failure=failure)
                if failure.done() and not stop.is_set():
                    failure.result()
                log.info("stopping")
            except ServiceEnded as ended:
                if not isinstance(ended.__cause__, NotOwner):
                    raise
                log.info("%s", ended.__cause__)
            finally:
                freezing.cancel()
        loaded = replace(loaded, config=daemon.context.config, warnings=())
        del daemon
        gc.unfreeze()


@asynccontextmanager
async def running(
    loaded: LoadedConfig, *, clock: Clock | None = None, process: ProcessContext | None = None
) -> AsyncIterator[Daemon]:
    """A daemon that listens; leaving the context stops it in order."""
    config, process = loaded.config, process or ProcessContext()
    require_cluster(config)
    templates = await asyncio.to_thread(read_templates, config)
    process.notifier.status("opening the file")
    for warning in loaded.warnings:
        log.warning("%s", warning)
    crashpoints.arm(os.environ)
    async with AsyncExitStack() as stack:
        daemon = await _build(stack, config, templates, clock or SystemClock())
        await _start(stack, daemon, process)
        yield daemon


async def _build(stack: AsyncExitStack, config: Config, templates: TemplateSet, clock: Clock) -> Daemon:
    wall_clock = WallClock(clock)
    store = await _store(stack, config, wall_clock)
    certificate = Certificate.of(config)
    metrics = Metrics(
        certificate_ends=(lambda: certificate.ends) if certificate else lambda: 0.0,
        backup_left=lambda: left_at(config.state.path),
    )
    cluster = await Cluster.connect(
        ClusterTarget.of(config),
        on_request=metrics.kubernetes_request,
        on_date=wall_clock.observe_date,
    )
    stack.push_async_callback(cluster.close)
    templates = await asyncio.to_thread(in_force, templates, list(store.templates), Reader(config))
    tasks, settings, mirror = Tasks(), Settings(config, templates), Mirror(cluster, clock=clock)
    templating.report(templates)
    stack.push_async_callback(tasks.stop)
    gate = Gate(store, cluster, mirror, wall_clock, lease_duration=config.cluster.lease_duration)
    loop = Loop(tasks, store.stacks)
    context = Context(
        store=store,
        cluster=cluster,
        wall_clock=wall_clock,
        settings=settings,
        tasks=tasks,
        metrics=metrics,
        mirror=mirror,
        gate=gate,
        audit=Audit(store, gate.ownership, clock, lambda: settings.current.log.audit),
        loop=loop,
        diagnostics=Diagnostics(queue=WorkQueue("diagnostics", tasks, timing.DIAGNOSTICS_RETRIES)),
        template_pods=TemplatePods(cluster, mirror, loop),
        template_loop=WorkQueue("template", tasks, timing.TEMPLATE_RETRIES),
    )
    now = clock.now()
    metrics.add_starts(await store.timeline.starts(now - round(HOUR * NANOSECONDS)), now)
    return _wire(stack, context, certificate)


async def _store(stack: AsyncExitStack, config: Config, clock: Clock) -> Store:
    store = await Store.open(
        Path(config.state.path),
        clock=clock,
        node_ports=config.stacks.node_ports,
        keys=[key.principal for key in config.auth.keys],
    )
    stack.push_async_callback(store.close)
    namespace, instance = config.stacks.namespace, config.cluster.instance
    spares = [row.stack_id for row in store.stacks.ordered() if row.spare]
    stacks = len(store.stacks) - len(spares)
    store.identity.require_own(config.state.path, stacks, namespace=namespace, instance=instance)
    if spares and (why := store.identity.contradiction(namespace, instance)):
        own = store.identity
        log.warning(
            "%d spare Services are forgotten, and stay where they are with their node ports, because %s; delete them: "
            "kubectl delete services -n %s -l %s,%s",
            len(spares), why, own.namespace, labels.selector(own.instance), labels.SPARE,
        )  # fmt: skip
        await store.stacks.remove(spares)
    await store.begin(namespace, instance)
    return store


def _wire(stack: AsyncExitStack, context: Context, certificate: Certificate | None) -> Daemon:
    reconciler, events = Reconciler(context), ClusterEvents(context)
    prepulls = PrePulls(context)
    refill, feed, links = Refill(context, prepulls), ChangeFeed(context), context.store.links
    keys = Keys(
        context.clock,
        replaced=feed.wake,
        revoked=lambda link_id: link_id in links.revoked,
        link=lambda text: players.helper(text),  # noqa: PLW0108 - who are made from the keys
    )
    players = Players(context, keys)
    stack.push_async_callback(_last_visits, players)
    api = Api(
        context=context,
        keys=keys,
        limits=Limits(context.clock, context.config),
        bodies=BodyCache(context),
        batch=BatchQueue(context),
        replays=Replays(context),
        reconciler=reconciler,
        feed=feed,
        prepulls=prepulls,
        players=players,
    )
    keys.replace(context.config)
    context.store.jobs.subscribe(api.feed.job_changed)
    context.pools.load(context.store.stacks.ordered())
    context.spares.load(context.store.stacks.ordered())
    for owner in (context.loop, context.memory, context.pools, context.checks, context.spares, refill):
        context.store.stacks.subscribe(owner.row_changed)
    for seen_by_clients in (api.feed, api.bodies, players, context.metrics):
        context.store.assigned.subscribe(seen_by_clients.row_changed)
    context.mirror.subscribe(events.changed)
    context.mirror.subscribe(context.template_pods.changed, "pods")
    context.mirror.subscribe(refill.node_changed, "nodes")
    context.mirror.subscribe(lambda _: context.settings.template_news.set(), CONFIG_MAPS)
    context.mirror.follow((CONFIG_MAPS, *kinds_of(context.config.routes)))
    context.cluster.connection.contact.subscribe(events.contact_changed)
    table: Table = {
        "expire": (timing.EXPIRE_SECONDS, Expiry(context).check),
        "reconcile": (context.config.reconcile.interval, reconciler.reconcile),
        "purge": (timing.PURGE_SECONDS, lambda: purge(context)),
        "visits": (timing.VISITS_SECONDS, players.keep_visits),
        "spares": (timing.SPARES_SECONDS, lambda: keep_spares(context)),
        "outcomes": (timing.OUTCOMES_SECONDS, api.batch.outcomes.write_final),
        "quotas": (timing.QUOTAS_SECONDS, lambda: refresh_quotas(context)),
        "policies": (timing.POLICIES_SECONDS, lambda: refresh_policies(context)),
        "rights": (timing.RIGHTS_SECONDS, lambda: refresh_rights(context)),
    }
    schedule = Schedule(table, context.tasks)
    return Daemon(
        context=context, api=api, schedule=schedule, prepulls=prepulls, refill=refill, certificate=certificate
    )


async def _start(stack: AsyncExitStack, daemon: Daemon, process: ProcessContext) -> None:
    context, config = daemon.context, daemon.context.config
    began = context.clock.monotonic()
    certificate = daemon.certificate
    listener = listener_of(daemon.api, process.sockets(config), lasting=process.can_keep)
    daemon.port = listener.port
    stack.push_async_callback(_drain, daemon, listener, process)
    context.tasks.supervise("store", context.store.failed())
    context.tasks.supervise("cluster", _follow_cluster(daemon))
    if process.inherited:  # meanwhile connections queue at the handed-over socket
        events = (daemon.ready, context.gate.ownership.stands_by)
        await first_of(*events, failure=context.tasks.failure, timeout=timing.START_SECONDS)
    listener.open((lambda: certificate.context) if certificate else None)
    log.info("stackd %s: listening on %s, %d stacks", VERSION, listener.address, len(context.store.assigned))
    stack.callback(daemon.schedule.stop)
    patience = max(0.0, timing.START_SECONDS - (context.clock.monotonic() - began))
    context.tasks.supervise("report", health.report(context, daemon.ready, process.notifier, patience, process.build))
    _look_after(daemon, process)


def _look_after(daemon: Daemon, process: ProcessContext) -> None:
    """Start the services for the watchdog, the loop lag, credentials, certificate, key file and reloads."""
    context, certificate, notifier = daemon.context, daemon.certificate, process.notifier
    if notifier.watchdog:
        context.tasks.supervise("watchdog", health.feed(context, notifier))
    context.tasks.supervise("audit", _audit(context))
    context.tasks.supervise("lag", health.sample_lag(context.metrics.loop_lag))
    renewal = Renewal(context.cluster.connection.access, context.cluster.answer, context.clock)
    context.tasks.supervise("credentials", renewal.run())
    if certificate is not None:
        context.tasks.supervise("certificate", certificate.follow())
    if process.again is not None:
        reloader = Reloader(
            context=context,
            keys=daemon.api.keys,
            limits=daemon.api.limits,
            schedule=daemon.schedule,
            notifier=notifier,
            ready=daemon.ready,
            again=process.again,
            hand_over=HandOver(process.handed_over),
            certificate=certificate,
            mount=process.credentials,
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.wanted.set)
        context.tasks.supervise("reload", reloader.run())


async def _last_visits(players: Players) -> None:
    try:
        await players.keep_visits()
    except StackdError as error:
        log.warning("when links were used last is lost: %s", error)


async def _follow_cluster(daemon: Daemon) -> None:
    """Reach the cluster, become the owner of its stacks, reconcile rows and cluster once, then follow the cluster."""
    context, gate, ownership = daemon.context, daemon.context.gate, daemon.context.gate.ownership
    await bring_up(context)
    async with asyncio.TaskGroup() as group:
        identity = follow_identity(context, confirmed=partial(_look_at_all, context))
        group.create_task(identity, name="identity")
        group.create_task(_follow_contact(context.cluster), name="contact")
        context.tasks.supervise("ownership", _own(context))
        context.tasks.supervise("takeover", _step_back(context))
        is_wrong = bool(gate.wrong_cluster)
        if not is_wrong:
            await ownership.owned.wait()
        group.create_task(context.mirror.run(), name="mirror")
        await context.mirror.wait_synced()
        if is_wrong:  # nothing may be done in the wrong cluster, and /readyz says so
            gate.contact_tried.set()
            daemon.ready.set()
            await ownership.owned.wait()
        gate.compared = not (context.store.incomplete and len(context.store.stacks))
        await _learn(context)
        # What only an owner does: the schedule, and the rest of unfinished batch jobs.
        daemon.api.batch.start()
        daemon.schedule.start()
        context.tasks.supervise("clock", daemon.schedule.follow_clock())
        await _compare_rows(context)
        if not context.store.incomplete:
            gate.contact_tried.set()
        context.loop.start(partial(reconcile, context))
        diagnostics.start(context)
        context.loop.wake_all()
        await daemon.schedule.now("reconcile")
        while context.store.incomplete and not gate.wrong_cluster:
            gate.contact_tried.set()  # waiting requests get the reason
            await asyncio.sleep(timing.COMPLETE_SECONDS)
            await daemon.schedule.now("reconcile")
        gate.contact_tried.set()
        daemon.ready.set()
        daemon.refill.start()
        group.create_task(templating.follow(context))
        log.info("ready: %d stacks, %d nodes", len(context.store.assigned), len(context.mirror.nodes))


async def _follow_contact(cluster: Cluster) -> None:
    await watch_over(cluster.connection.contact, cluster.probe, lambda: cluster.target.attempt_timeout)


def _look_at_all(context: Context) -> None:
    """The cluster is the file's own: what has failed is tried again, too."""
    context.loop.wake_all()
    context.loop.queue.retry_all()
    context.settings.template_news.set()


async def _learn(context: Context) -> None:
    """Put the templates of the cluster in force before anything is made from an older text, and ask for the rest that an owner
    has to know. Without a right to read the templates, those in the file stay."""
    if not await context.mirror.until_known(CONFIG_MAPS, timing.TEMPLATES_LISTED_SECONDS):
        why = context.mirror.extra_health[CONFIG_MAPS].last_error or "Kubernetes has not answered yet"
        log.warning("the templates in the cluster are not known yet, and those in the file stay in force: %s", why)
    async with context.settings.changing:
        await templating.refresh(context)
    await ask_node_ports(context)
    await refresh_rights(context)


async def _own(context: Context) -> None:
    """Stand by, own the stacks, and end the process when the ownership ends. On the wrong cluster, only wait."""
    while context.gate.wrong_cluster:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(timing.COMPLETE_SECONDS)
    try:
        await context.gate.ownership.serve()
    except NotOwner as error:
        noted = context.gate.ownership.asked_for.is_set() or context.gate.closing  # or it is a stop
        if not noted:
            context.audit.note(AuditKind.TAKEOVER, str(error))
        raise


async def _audit(context: Context) -> None:
    """Keep the audit. It begins with a takeover, if this was one, and with the keys, if they are others than before."""
    ownership = context.gate.ownership
    await ownership.owned.wait()
    last = ownership.predecessor
    if last is not None and last.lock_id != context.store.identity.lock_id:
        before = last.holder.partition("/")[0] or "a stackd that gave them back"
        context.audit.note(AuditKind.TAKEOVER, f"{ownership.host} owns the stacks now; before: {before}")
    await context.audit.keys_in_force(context.config.auth.keys)
    await context.audit.serve()


async def _step_back(context: Context) -> None:
    """End the daemon when another stackd asks for the stacks: the stop hands them over, and the next daemon stands by."""
    ownership = context.gate.ownership
    await ownership.asked_for.wait()
    why = f"{ownership.asker} takes over; this stackd will stand by"
    context.audit.note(AuditKind.TAKEOVER, why)
    raise NotOwner(why)


async def _compare_rows(context: Context) -> None:
    """Update the rows of a restored file from the cluster, before anything is done to its stacks."""
    while not context.gate.compared:
        try:
            await update_rows(context)
            context.gate.compared = True
        except (ClusterError, ClusterUnavailable, StoreUnavailable) as error:
            log.warning("rows cannot be compared with the cluster now: %s", error)
            context.gate.contact_tried.set()
            await asyncio.sleep(timing.COMPLETE_SECONDS)


async def _drain(daemon: Daemon, listener: HttpListener, process: ProcessContext) -> None:
    """Finish running requests and operations within ``server.shutdown_timeout``; undo the rest now or at next start. If
    the sockets outlive the daemon, accepted connections are still served, and later ones wait for the next daemon."""
    context, notifier = daemon.context, process.notifier
    stands_by = process.stays and context.gate.ownership.stepped_back
    timeout = context.config.server.shutdown_timeout
    deadline = Deadline(timeout)
    if stands_by:
        notifier.status("finishing what is under way, to stand by")
    else:
        notifier.stopping("finishing what is under way")
        notifier.extend(timeout + timing.STOP_EXTRA_SECONDS)
        process.close()
    daemon.api.draining = True
    daemon.api.feed.close()
    context.loop.rows.give_up()
    daemon.api.batch.waiters.give_up()
    ownership = context.gate.ownership
    if ownership.role is Role.OWNER and (ownership.asked_for.is_set() or not process.restarts):
        await _hand_over(daemon, deadline)
    await listener.stop_accepting()
    if listener.lasting or stands_by:
        await listener.last_requests(min(IDLE_SECONDS, SHARE_OF_REQUESTS * deadline.left))
    context.gate.closing = True
    context.gate.contact_tried.set()
    await listener.close(SHARE_OF_REQUESTS * deadline.left)
    await _finish(context, deadline.left)
    await _release(context, keep=True)


async def _hand_over(daemon: Daemon, deadline: Deadline) -> None:
    """Finish the changes under way, and give the Lease back: a standby takes over at once. Until then, reads are answered."""
    context = daemon.context
    context.gate.closing = True
    context.gate.contact_tried.set()
    await daemon.api.leave(SHARE_OF_REQUESTS * deadline.left)
    await _finish(context, deadline.left)
    await _release(context, keep=False)


async def _finish(context: Context, seconds: float) -> None:
    """Let the creates under way undo themselves, and the operations end."""
    for stack_id in list(context.creates):
        context.abandon_create(stack_id)
    context.template_pods.close()
    if running := await context.tasks.finish(seconds):
        log.warning("%d operations did not end in time; they go on at the next start", running)


async def _release(context: Context, *, keep: bool) -> None:
    """Write what the cluster's records lack, and give the Lease back, or shorten it to the time that a restart takes."""
    ownership = context.gate.ownership
    if ownership.role is Role.OWNER:
        await write_records(context, timing.RECORDS_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if ownership.asked_for.is_set() else timing.SHORTEN_SECONDS):
                await ownership.release(keep=keep)


def _handle_signals(stop: asyncio.Event, process: ProcessContext) -> None:
    def received(name: str) -> None:
        if stop.is_set():
            log.warning("%s again: stopping at once", name)
            logging.shutdown()
            os._exit(SECOND_SIGNAL_EXIT)
        log.info("%s", name)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number.name)
    loop.add_signal_handler(signal.SIGUSR1, lambda: setattr(process, "restarts", True))


async def rebuild(loaded: LoadedConfig) -> Rebuilt:
    """Recover the rows from the cluster into an empty file, and leave the Lease to that file.

    Waits for the end of the Lease that the lost file held. Raises StoreError, ConfigError; ClusterUnavailable, also if
    another stackd goes on owning the stacks.
    """
    config, clock = loaded.config, SystemClock()
    async with AsyncExitStack() as stack:
        store = await _store(stack, config, clock)
        if len(store.stacks):
            raise StoreError(f"the file already holds {len(store.stacks)} stacks; rebuild needs an empty one")
        cluster = await Cluster.connect(ClusterTarget.of(config))
        stack.push_async_callback(cluster.close)
        longest = round(config.stacks.max_ttl * NANOSECONDS)
        templates = await asyncio.to_thread(read_templates, config)
        bounds = RecordBounds(now=clock.now(), max_ttl=longest, templates=templates)
        ownership = Ownership(cluster, store, duration=config.cluster.lease_duration, clock=clock)
        owning = asyncio.create_task(ownership.run(), name="ownership")
        try:
            async with asyncio.timeout(ownership.longest_wait):
                await ownership.owned.wait()
            return await recover(store, cluster, bounds)
        except TimeoutError:
            raise ClusterUnavailable(ownership.standby or ownership.error or "the Lease is not free") from None
        finally:
            owning.cancel()
            await asyncio.gather(owning, return_exceptions=True)

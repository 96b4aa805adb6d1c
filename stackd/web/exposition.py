"""``GET /metrics``: the daemon's numbers in Prometheus' text format.

Owns: names, units and labels. Each request computes all values, from what the daemon's parts keep anyway and from
``/proc/self``: the unit's sandbox hides the rest of ``/proc``.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from stackd import __version__
from stackd.kube.credentials import expiry_remark
from stackd.lifecycle.gate import NOT_READY
from stackd.lifecycle.next_step import StepKind
from stackd.lifecycle.ownership import Role
from stackd.lifecycle.pools import PoolFigures
from stackd.metrics import CREATED, INVALID, PHASES, Histogram
from stackd.model import StackStatus
from stackd.web.api import Answer, Api, ApiCall, admit, route
from stackd.web.system import HEALTH

Labels = tuple[str, ...]

UNEXPECTED = {500: 0}
"""Exported before the first 500 happens: Prometheus sees no increase in a series that it has not seen before."""

PROC = Path("/proc/self")
STARTED = time.time()


@route(
    "GET",
    "/metrics",
    id="metrics",
    tag=HEALTH,
    summary="Metrics for Prometheus",
    about="Needs a key unless `metrics.public` is set.",
    answers={200: Answer(about="Prometheus' text format.", media="text/plain")},
    public=True,
    standby=True,
)
async def metrics(call: ApiCall) -> web.Response:
    """The daemon's numbers: with a key, unless ``metrics.public`` is set."""
    api = call.api
    if not api.context.config.metrics.public:
        admit(api, call.request, call.route)
    return web.Response(body=exposition(api), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def exposition(api: Api) -> bytes:
    """All metrics as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(DaemonCollector(api))
    return generate_latest(registry)


class DaemonCollector(Collector):
    """Reads one daemon."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def describe(self) -> Iterable[Metric]:
        """Return nothing in advance: no other collector uses these names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics; for a standby only those about itself, because its file does not have the present stacks."""
        yield from self._about()
        yield from self._requests()
        if not self._api.context.ownership.stands_by.is_set():
            yield from self._creates()
            yield from self._stacks()
            yield from self._pools()
            yield from self._work()
            yield from self._mirror()
            yield from self._templates()
            yield from self._store()
        yield from self._kubernetes()
        yield from self._credentials()
        yield from process_metrics()

    def _about(self) -> Iterator[Metric]:
        api, measured = self._api, self._api.context.metrics
        labels = {"version": __version__, "python": platform.python_version()}
        yield gauge("stackd_build_info", "What runs; always 1.", {tuple(labels.values()): 1}, tuple(labels))
        reasons = api.context.gate.why_not_ready()
        yield gauge("stackd_ready", "1 while /readyz is 200.", {(): not reasons})
        keeps = {(reason,): reason in reasons for reason in NOT_READY}
        yield gauge("stackd_not_ready", "1 while this keeps stackd from being ready.", keeps, ("reason",))
        ownership = api.context.ownership
        yield gauge(
            "stackd_owner",
            "1 while this stackd owns the stacks and may change them.",
            {(): ownership.role is Role.OWNER and api.context.fence.open},
        )
        yield gauge(
            "stackd_standby",
            "1 while this stackd stands by: another one owns the stacks.",
            {(): ownership.stands_by.is_set()},
        )
        yield counter(
            "stackd_lease_transitions_total",
            "How often the Lease moved from one stackd to another.",
            {(): ownership.lease.transitions if ownership.lease is not None else 0},
        )
        yield gauge(
            "stackd_config_reload_successful",
            "1 unless the last reload was refused.",
            {(): not measured.reloads.refused},
        )
        yield gauge(
            "stackd_config_reload_timestamp_seconds", "When the last reload was; 0 if never.", {(): measured.reloads.at}
        )
        yield histogram(
            "stackd_event_loop_lag_seconds", "How late the event loop was, sampled.", {(): measured.loop_lag}
        )

    def _requests(self) -> Iterator[Metric]:
        routes = self._api.context.metrics.routes
        yield counter(
            "stackd_http_requests_total",
            "Requests by route and status code.",
            {
                (*route, str(code)): count
                for route, meter in routes.items()
                for code, count in (UNEXPECTED | meter.codes).items()
            },
            ("method", "route", "code"),
        )
        durations = {route: meter.durations for route, meter in routes.items() if meter.codes}
        yield histogram(
            "stackd_http_request_duration_seconds", "Time to the answer, by route.", durations, ("method", "route")
        )

    def _creates(self) -> Iterator[Metric]:
        measured = self._api.context.metrics
        creates = dict.fromkeys((CREATED, INVALID), 0) | measured.creates
        yield counter(
            "stackd_creates_total",
            "Creates by outcome.",
            {(name,): count for name, count in creates.items()},
            ("outcome",),
        )
        yield histogram(
            "stackd_create_phase_duration_seconds",
            "Time of each phase of a create.",
            {(phase,): measured.phases[phase] for phase in PHASES},
            ("phase",),
        )
        in_flight = len(self._api.context.creating)
        yield gauge("stackd_creates_in_flight", "Creates under way.", {(): in_flight})
        yield histogram(
            "stackd_time_to_running_seconds",
            "From the create to the first time that the stack runs and is ready.",
            {(): measured.time_to_running},
        )

    def _stacks(self) -> Iterator[Metric]:
        context = self._api.context
        counts: Counter[Labels] = Counter({(str(status), ""): 0 for status in StackStatus})
        counts.update((str(stack.status), stack.node_id or "") for stack in context.store.assigned.ordered())
        yield gauge("stackd_stacks", "Stacks by status and node.", counts, ("status", "node"))
        yield gauge("stackd_nodes", "Nodes in the cluster.", {(): len(context.mirror.nodes)})
        ports = context.store.ports
        by_state = {"used": ports.used, "free": ports.free, "quarantined": ports.quarantined}
        yield gauge(
            "stackd_node_ports", "Node ports by state.", {(name,): n for name, n in by_state.items()}, ("state",)
        )

    def _pools(self) -> Iterator[Metric]:
        context = self._api.context
        templates = context.settings.templates.values()
        figures = {template.name: context.pools.figures(template) for template in templates}
        by_state = {(name, state): count for name, one in figures.items() for state, count in _pool_states(one).items()}
        about = "Unassigned stacks of a template's pool: ready, starting or failing; held is always 0."
        yield gauge("stackd_pool_stacks", about, by_state, ("template", "state"))
        wanted = {(template.name,): template.pool for template in templates}
        yield gauge("stackd_pool_wanted_stacks", "Stacks that the pool should have.", wanted, ("template",))
        hits = {(name,): one.hits for name, one in figures.items()}
        yield counter("stackd_pool_hits_total", "Creates that were answered from a pool.", hits, ("template",))
        misses = {(name,): one.misses for name, one in figures.items()}
        yield counter("stackd_pool_misses_total", "Creates that found the pool empty.", misses, ("template",))
        yield histogram(
            "stackd_pool_assign_duration_seconds",
            "Time to assign a stack from a pool, disk included.",
            {(): context.metrics.assignments},
        )

    def _work(self) -> Iterator[Metric]:
        context, reconciler = self._api.context, self._api.reconciler
        since = [stack.deleting_since for stack in context.store.stacks.ordered() if stack.deleting_since is not None]
        oldest = (context.clock.now() - min(since)) / 1e9 if since else 0.0
        yield gauge("stackd_deletes_pending", "Stacks whose delete is not yet confirmed.", {(): len(since)})
        yield gauge("stackd_delete_oldest_age_seconds", "Age of the oldest of them.", {(): max(0.0, oldest)})
        yield gauge(
            "stackd_removals_pending",
            "Stacks whose objects are to be removed, and objects without a row.",
            {(): len(context.worker)},
        )
        yield counter("stackd_reconcile_passes_total", "Passes of the reconciliation.", {(): reconciler.passes})
        yield counter(
            "stackd_reconcile_actions_total",
            "Actions of the reconciliation.",
            {(str(kind),): count for kind, count in reconciler.actions.items()},
            ("action",),
        )
        yield gauge("stackd_brake_on", "1 while a brake holds the reconciliation back.", {(): context.gate.braked})
        yield gauge("stackd_brake_held_stacks", "Stacks that a brake holds back.", {(): len(context.brake.held)})
        yield counter(
            "stackd_adoptions_total", "Stacks adopted from their pods.", {(): reconciler.actions[StepKind.ADOPT]}
        )
        yield gauge(
            "stackd_unknown_objects",
            "Objects with stackd's labels that belong to no known stack, and are left alone.",
            {(): len(reconciler.unknown)},
        )
        yield gauge("stackd_jobs_waiting", "Batch jobs that wait for a worker.", {(): len(self._api.batch)})
        yield gauge("stackd_event_streams", "Event streams that are open.", {(): self._api.feed.followers})
        yield gauge("stackd_waiting_requests", "Requests that wait for a stack's status.", {(): len(context.rows)})
        unfinished = len(context.store.jobs.unfinished())
        yield gauge("stackd_jobs_unfinished", "Batch jobs that have not finished.", {(): unfinished})

    def _mirror(self) -> Iterator[Metric]:
        kind = ("kind",)
        mirror = self._api.context.mirror
        health_by_kind = mirror.watches
        objects = {"pods": mirror.pods, "services": mirror.services}
        yield gauge(
            "stackd_mirror_objects",
            "stackd's objects in the mirror.",
            {(name,): len(held) for name, held in objects.items()},
            kind,
        )
        staleness = {(name,): health.staleness() for name, health in health_by_kind.items()}
        yield gauge("stackd_mirror_staleness_seconds", "Time since the cluster was last heard from.", staleness, kind)
        connected = {(name,): health.connected for name, health in health_by_kind.items()}
        yield gauge(
            "stackd_mirror_connected", "1 while the watch has a connection that reports changes.", connected, kind
        )
        relists = {(name,): health.relists for name, health in health_by_kind.items()}
        yield counter("stackd_mirror_relists_total", "Lists read again because a watch was too old.", relists, kind)
        restarts = {(name,): health.restarts for name, health in health_by_kind.items()}
        yield counter("stackd_mirror_watch_restarts_total", "Watches that ended and were restarted.", restarts, kind)
        events = {(name,): health.events for name, health in health_by_kind.items()}
        yield counter("stackd_mirror_events_total", "Changes that the watches reported.", events, kind)

    def _kubernetes(self) -> Iterator[Metric]:
        yield counter(
            "stackd_kubernetes_requests_total",
            "Requests to Kubernetes; code none where no answer came.",
            dict(self._api.context.cluster.counts),
            ("verb", "resource", "code"),
        )
        contact = self._api.context.cluster.connection.contact
        yield gauge(
            "stackd_kubernetes_answers",
            "0 while Kubernetes is known not to answer: creates are refused.",
            {(): not contact.lost},
        )
        yield gauge(
            "stackd_kubernetes_silence_seconds", "Time since Kubernetes was last heard from.", {(): contact.silence}
        )
        yield gauge(
            "stackd_kubernetes_failures_in_a_row",
            "Requests without an answer since the last one.",
            {(): contact.failures},
        )
        yield histogram(
            "stackd_kubernetes_request_duration_seconds",
            "Time to Kubernetes' answer; of a watch, until it is open.",
            self._api.context.metrics.kubernetes,
            ("verb", "resource"),
        )

    def _templates(self) -> Iterator[Metric]:
        yield gauge(
            "stackd_prepull_images",
            "Images to pull ahead, by state.",
            {(str(state),): count for state, count in self._api.prepulls.counts().items()},
            ("state",),
        )

    def _credentials(self) -> Iterator[Metric]:
        context = self._api.context
        access = context.cluster.connection.access
        expiry = access.expiry
        yield gauge(
            "stackd_kubernetes_credentials_expiry_timestamp_seconds",
            "When the credentials for Kubernetes end; 0 if they do not, or are renewed by others.",
            {(): expiry.at if expiry is not None else 0},
        )
        yield gauge(
            "stackd_kubernetes_credentials_expiring",
            "1 when they have ended, or end within two weeks and are not renewed.",
            {(): bool(expiry_remark(access, context.clock.now() / 1e9))},
        )

        yield gauge(
            "stackd_tls_certificate_expiry_timestamp_seconds",
            "When the API's TLS certificate in force expires; 0 without TLS.",
            {(): context.metrics.certificate_ends()},
        )

    def _store(self) -> Iterator[Metric]:
        store = self._api.context.store
        counters = store.counters
        yield counter("stackd_store_commits_total", "Transactions committed.", {(): counters.commits})
        failed = counters.failed_commits
        yield counter("stackd_store_commit_failures_total", "Transactions that could not be committed.", {(): failed})
        yield histogram(
            "stackd_store_commit_duration_seconds", "Time of a commit, disk included.", {(): counters.commit_durations}
        )
        yield counter("stackd_store_operations_total", "Operations on the file.", {(): counters.operations})
        yield counter("stackd_store_statements_total", "SQL statements.", {(): counters.statements})
        yield gauge("stackd_store_pending_operations", "Operations that wait for their commit.", {(): store.pending})
        yield gauge("stackd_store_file_bytes", "Size of the file and its log.", {(): store.file_bytes()})


def gauge(name: str, text: str, values: Mapping[Any, float], labels: Labels = ()) -> GaugeMetricFamily:
    """A gauge with its samples, by label values."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, float(value))
    return family


def counter(name: str, text: str, values: Mapping[Any, float], labels: Labels = ()) -> CounterMetricFamily:
    """A counter with its samples, by label values."""
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, float(value))
    return family


def histogram(name: str, text: str, values: Mapping[Any, Histogram], labels: Labels = ()) -> HistogramMetricFamily:
    """A histogram with its samples, by label values."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value.buckets(), value.total)
    return family


def process_metrics() -> Iterator[Metric]:
    """CPU, memory, descriptors and start time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    yield CounterMetricFamily("process_cpu_seconds_total", "User and system CPU time.", value=cpu)
    yield GaugeMetricFamily("process_start_time_seconds", "When the process started, since the epoch.", value=STARTED)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield GaugeMetricFamily("process_max_fds", "Most descriptors that may be open.", value=soft)
    try:
        pages = int((PROC / "statm").read_text().split()[1])
        descriptors = len(os.listdir(PROC / "fd"))
    except OSError:
        return
    memory = pages * resource.getpagesize()
    yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory.", value=memory)
    yield GaugeMetricFamily("process_open_fds", "Open descriptors.", value=descriptors)


def _pool_states(figures: PoolFigures) -> dict[str, int]:
    return {
        "ready": figures.ready,
        "starting": figures.starting,
        "failing": figures.failing,
        "held": 0,
    }

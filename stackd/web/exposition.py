"""``GET /metrics``: the daemon's numbers in Prometheus' text form.

Owns: names, units and labels. Everything is computed when it is asked for, from what the daemon's parts keep anyway.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from stackd import __version__
from stackd.metrics import CREATED, INVALID, PHASES, Histogram
from stackd.model import StackStatus
from stackd.web import process
from stackd.web.api import Api, Call
from stackd.web.auth import permit

Labels = tuple[str, ...]


async def metrics(call: Call) -> web.Response:
    """``GET /metrics``: with a key, unless ``metrics.public`` is set."""
    api, request = call.api, call.request
    if not api.room.config.metrics.public:
        key = api.keys.identify(request)
        api.limits.request(key.name)
        permit(key, request.method)
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
        """Nothing ahead of time; the names are this class' own."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything."""
        yield from self._about()
        yield from self._requests()
        yield from self._creates()
        yield from self._stacks()
        yield from self._work()
        yield from self._mirror()
        yield from self._kubernetes()
        yield from self._store()
        yield from process.collect()

    def _about(self) -> Iterator[Metric]:
        api, measured = self._api, self._api.room.metrics
        labels = {"version": __version__, "python": platform.python_version()}
        yield gauge("stackd_build_info", "What runs; always 1.", {tuple(labels.values()): 1}, tuple(labels))
        yield gauge("stackd_ready", "1 once the file is open and the mirror in sync.", {(): api.room.mirror.synced})
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
        routes = self._api.room.metrics.routes
        yield counter(
            "stackd_http_requests_total",
            "Requests by route and status code.",
            {(*route, str(code)): count for route, meter in routes.items() for code, count in meter.codes.items()},
            ("method", "route", "code"),
        )
        durations = {route: meter.durations for route, meter in routes.items() if meter.codes}
        yield histogram(
            "stackd_http_request_duration_seconds", "Time to the answer, by route.", durations, ("method", "route")
        )

    def _creates(self) -> Iterator[Metric]:
        measured = self._api.room.metrics
        creates = dict.fromkeys((CREATED, INVALID), 0) | measured.creates
        yield counter(
            "stackd_creates_total",
            "Creates by what became of them.",
            {(name,): count for name, count in creates.items()},
            ("outcome",),
        )
        yield histogram(
            "stackd_create_phase_duration_seconds",
            "Time of each phase of a create.",
            {(phase,): measured.phases[phase] for phase in PHASES},
            ("phase",),
        )
        in_flight = len(self._api.room.creating)
        yield gauge("stackd_creates_in_flight", "Creates under way.", {(): in_flight})
        yield histogram(
            "stackd_time_to_running_seconds",
            "From the create to the first time that the stack runs and is ready.",
            {(): measured.time_to_running},
        )

    def _stacks(self) -> Iterator[Metric]:
        room = self._api.room
        counts: Counter[Labels] = Counter({(str(status), ""): 0 for status in StackStatus})
        counts.update((str(stack.status), stack.node_id or "") for stack in room.store.stacks.ordered())
        yield gauge("stackd_stacks", "Stacks by status and node.", counts, ("status", "node"))
        yield gauge("stackd_nodes", "Nodes in the cluster.", {(): len(room.mirror.nodes)})
        ports = room.store.ports
        by_state = {"used": ports.used, "free": ports.free, "quarantined": ports.quarantined}
        yield gauge(
            "stackd_node_ports", "Node ports by state.", {(name,): n for name, n in by_state.items()}, ("state",)
        )

    def _work(self) -> Iterator[Metric]:
        room, reconciler = self._api.room, self._api.reconciler
        since = [stack.deleting_since for stack in room.store.stacks.ordered() if stack.deleting_since is not None]
        oldest = (room.clock.now() - min(since)) / 1e9 if since else 0.0
        yield gauge("stackd_deletes_pending", "Stacks whose delete is not yet confirmed.", {(): len(since)})
        yield gauge("stackd_delete_oldest_age_seconds", "Age of the oldest of them.", {(): max(0.0, oldest)})
        yield gauge("stackd_retirements_pending", "Stacks whose objects are to be removed.", {(): len(room.retirement)})
        yield counter("stackd_reconcile_passes_total", "Passes of the reconciliation.", {(): reconciler.passes})
        yield counter(
            "stackd_reconcile_actions_total",
            "What the reconciliation found to do.",
            {(str(kind),): count for kind, count in reconciler.actions.items()},
            ("action",),
        )
        yield gauge("stackd_brake_on", "1 while a brake holds the reconciliation back.", {(): room.brake.on})
        yield gauge("stackd_brake_held_stacks", "Stacks that a brake holds back.", {(): len(room.brake.held)})
        yield gauge("stackd_jobs_waiting", "Batch-delete jobs that wait for the worker.", {(): len(self._api.batch)})
        unfinished = len(room.store.jobs.unfinished())
        yield gauge("stackd_jobs_unfinished", "Batch-delete jobs that have not finished.", {(): unfinished})

    def _mirror(self) -> Iterator[Metric]:
        pulses = self._api.room.mirror.pulses
        kind = ("kind",)
        staleness = {(name,): pulse.staleness() for name, pulse in pulses.items()}
        yield gauge("stackd_mirror_staleness_seconds", "Since the cluster was last heard of.", staleness, kind)
        connected = {(name,): pulse.disconnected_since is None for name, pulse in pulses.items()}
        yield gauge("stackd_mirror_connected", "1 while the watch has a connection.", connected, kind)
        relists = {(name,): pulse.relists for name, pulse in pulses.items()}
        yield counter("stackd_mirror_relists_total", "Lists taken again because a watch was too old.", relists, kind)
        restarts = {(name,): pulse.restarts for name, pulse in pulses.items()}
        yield counter("stackd_mirror_watch_restarts_total", "Watches that ended and were begun again.", restarts, kind)
        events = {(name,): pulse.events for name, pulse in pulses.items()}
        yield counter("stackd_mirror_events_total", "Changes that the watches told.", events, kind)

    def _kubernetes(self) -> Iterator[Metric]:
        yield counter(
            "stackd_kubernetes_requests_total",
            "Requests to Kubernetes; code none where no answer came.",
            dict(self._api.room.cluster.counts),
            ("verb", "resource", "code"),
        )
        yield histogram(
            "stackd_kubernetes_request_duration_seconds",
            "Time to Kubernetes' answer; of a watch, until it is open.",
            self._api.room.metrics.kubernetes,
            ("verb", "resource"),
        )

    def _store(self) -> Iterator[Metric]:
        store = self._api.room.store
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

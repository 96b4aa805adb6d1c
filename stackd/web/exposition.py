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
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from stackd.kube.credentials import expiry_remark
from stackd.lifecycle.ownership import Role
from stackd.metrics import CREATED, INVALID, PHASES, Histogram
from stackd.model import StackStatus
from stackd.version import VERSION
from stackd.web.api import Answer, Api, ApiCall, admit, route
from stackd.web.system import HEALTH

UNEXPECTED = {500: 0}
"""Exported before the first 500 happens: Prometheus sees no increase in a series that it has not seen before."""

PROC = Path("/proc/self")
STARTED = time.time()


@route("GET", "/metrics", HEALTH, Answer("Prometheus' text format.", media="text/plain"), public=True, standby=True)
async def metrics(call: ApiCall) -> web.Response:
    """Metrics for Prometheus.

    Needs a key unless `metrics.public` is set.
    """
    api = call.api
    if not api.context.config.metrics.public:
        admit(api, call.request, call.route)
    return web.Response(body=exposition(api), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def exposition(api: Api) -> bytes:
    return generate_latest(DaemonCollector(api))


class DaemonCollector(Collector):
    """Reads one daemon."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._context = api.context

    def collect(self) -> Iterator[Metric]:
        """All metrics; for a standby only those about itself, because its file does not have the present stacks."""
        yield from self._about()
        yield from self._requests()
        if not self._context.gate.ownership.stands_by.is_set():
            yield from self._creates()
            yield from self._stacks()
            yield from self._pools()
            yield from self._work()
            yield from self._mirror()
            yield from self._store()
        yield from self._kubernetes()
        yield from self._credentials()
        yield from process_metrics()

    def _about(self) -> Iterator[Metric]:
        context, measured = self._context, self._context.metrics
        labels = {"version": VERSION, "python": platform.python_version()}
        yield gauge("stackd_build_info", "What runs; always 1.", {tuple(labels.values()): 1}, *labels)
        unready = {reason: bool(sentence) for reason, sentence in context.gate.readiness().items()}
        yield gauge("stackd_ready", "1 while /readyz is 200.", not any(unready.values()))
        yield gauge("stackd_not_ready", "1 while this keeps stackd from being ready.", unready, "reason")
        ownership, lease = context.gate.ownership, context.gate.ownership.lease
        owns = ownership.role is Role.OWNER and context.fence.open
        yield gauge("stackd_owner", "1 while this stackd owns the stacks and may change them.", owns)
        about = "1 while this stackd stands by: another one owns the stacks."
        yield gauge("stackd_standby", about, ownership.stands_by.is_set())
        about = "How often the Lease moved from one stackd to another."
        yield counter("stackd_lease_transitions_total", about, lease.transitions if lease is not None else 0)
        accepted = not measured.reloads.refused
        yield gauge("stackd_config_reload_successful", "1 unless the last reload was refused.", accepted)
        about = "When the last reload was; 0 if never."
        yield gauge("stackd_config_reload_timestamp_seconds", about, measured.reloads.at)
        about = "1 while another build is installed than the one that runs."
        yield gauge("stackd_older_build", about, measured.older_build)
        yield histogram("stackd_event_loop_lag_seconds", "How late the event loop was, sampled.", measured.loop_lag)

    def _requests(self) -> Iterator[Metric]:
        routes = self._context.metrics.routes
        codes = {
            (*route, str(code)): count
            for route, meter in routes.items()
            for code, count in (UNEXPECTED | meter.codes).items()
        }
        about = "Requests by route and status code."
        yield counter("stackd_http_requests_total", about, codes, "method", "route", "code")
        durations = {route: meter.durations for route, meter in routes.items() if meter.codes}
        about = "Time to the answer, by route."
        yield histogram("stackd_http_request_duration_seconds", about, durations, "method", "route")

    def _creates(self) -> Iterator[Metric]:
        measured = self._context.metrics
        creates = dict.fromkeys((CREATED, INVALID), 0) | measured.creates
        yield counter("stackd_creates_total", "Creates by outcome.", creates, "outcome")
        phases = {phase: measured.phases[phase] for phase in PHASES}
        about = "Time of each phase of a create."
        yield histogram("stackd_create_phase_duration_seconds", about, phases, "phase")
        yield gauge("stackd_creates_in_flight", "Creates under way.", len(self._context.creates))
        about = "From the create to the first time that the stack runs and is ready."
        yield histogram("stackd_time_to_running_seconds", about, measured.time_to_running)

    def _stacks(self) -> Iterator[Metric]:
        context, ports = self._context, self._context.store.ports
        counts: Counter[tuple[str, ...]] = Counter({(str(status), ""): 0 for status in StackStatus})
        counts.update((str(stack.status), stack.node_id or "") for stack in context.store.assigned.ordered())
        yield gauge("stackd_stacks", "Stacks by status and node.", counts, "status", "node")
        yield gauge("stackd_nodes", "Nodes in the cluster.", len(context.mirror.nodes))
        by_state = {"used": ports.used, "free": ports.free, "quarantined": ports.quarantined}
        about = "Services that are there before a create asks for one; their node ports count as free."
        yield gauge("stackd_spare_services", about, context.spares.ready(context.mirror))
        yield gauge("stackd_node_ports", "Node ports by state.", by_state, "state")

    def _pools(self) -> Iterator[Metric]:
        context = self._context
        templates = context.settings.templates.values()
        figures = {template.name: context.pools.figures(template) for template in templates}
        by_state = {
            (name, state): getattr(one, state, 0)
            for name, one in figures.items()
            for state in ("ready", "starting", "failing", "held")
        }
        about = "Unassigned stacks of a template's pool: ready, starting or failing; held is always 0."
        yield gauge("stackd_pool_stacks", about, by_state, "template", "state")
        wanted = {template.name: template.pool for template in templates}
        yield gauge("stackd_pool_wanted_stacks", "Stacks that the pool should have.", wanted, "template")
        hits = {name: one.hits for name, one in figures.items()}
        yield counter("stackd_pool_hits_total", "Creates that were answered from a pool.", hits, "template")
        misses = {name: one.misses for name, one in figures.items()}
        yield counter("stackd_pool_misses_total", "Creates that found the pool empty.", misses, "template")
        results = {name: context.checks.of_template.get(name) for name in wanted}
        seen = {name: one for name, one in results.items() if one is not None and one.healthy is not None}
        healthy = {name: bool(one.healthy) for name, one in seen.items()}
        about = "1 if the last check of the template's shared stack, or of one of its pool, ended well."
        yield gauge("stackd_template_check_healthy", about, healthy, "template")
        ages = {name: max(0.0, (context.clock.now() - one.at) / 1e9) for name, one in seen.items()}
        yield gauge("stackd_template_check_age_seconds", "Time since that check.", ages, "template")
        about = "Time to assign a stack from a pool, disk included."
        yield histogram("stackd_pool_assign_duration_seconds", about, context.metrics.assignments)

    def _work(self) -> Iterator[Metric]:
        context, reconciler = self._context, self._api.reconciler
        since = [stack.deleting_since for stack in context.store.stacks.ordered() if stack.deleting_since is not None]
        oldest = (context.clock.now() - min(since)) / 1e9 if since else 0.0
        yield gauge("stackd_deletes_pending", "Stacks whose delete is not yet confirmed.", len(since))
        yield gauge("stackd_delete_oldest_age_seconds", "Age of the oldest of them.", max(0.0, oldest))
        about = "Stacks whose objects are to be removed, and objects without a row."
        yield gauge("stackd_removals_pending", about, len(context.loop.queue))
        yield counter("stackd_reconcile_passes_total", "Passes of the reconciliation.", reconciler.passes)
        about = "Actions of the reconciliation."
        yield counter("stackd_reconcile_actions_total", about, reconciler.actions, "action")
        yield gauge("stackd_brake_on", "1 while a brake holds the reconciliation back.", context.gate.braked)
        yield gauge("stackd_brake_held_stacks", "Stacks that a brake holds back.", len(context.gate.brake.held))
        about = "Stacks adopted from their pods."
        yield counter("stackd_adoptions_total", about, reconciler.adopted)
        about = "Objects with stackd's labels that belong to no known stack, and are left alone."
        yield gauge("stackd_unknown_objects", about, len(reconciler.unknown))
        yield gauge("stackd_jobs_waiting", "Batch jobs that wait for a worker.", len(self._api.batch))
        yield gauge("stackd_event_streams", "Event streams that are open.", self._api.feed.followers)
        waiting = len(context.loop.rows) + len(self._api.batch.waiters)
        yield gauge("stackd_waiting_requests", "Requests that wait for a status of a stack or job.", waiting)
        unfinished = len(context.store.jobs.unfinished())
        yield gauge("stackd_jobs_unfinished", "Batch jobs that have not finished.", unfinished)

    def _mirror(self) -> Iterator[Metric]:
        mirror = self._context.mirror

        def each(name: str) -> dict[str, float]:
            return {kind: getattr(health, name) for kind, health in mirror.watches.items()}

        objects = {"pods": len(mirror.pods), "services": len(mirror.services)}
        yield gauge("stackd_mirror_objects", "stackd's objects in the mirror.", objects, "kind")
        staleness = {kind: health.staleness() for kind, health in mirror.watches.items()}
        about = "Time since the cluster was last heard from."
        yield gauge("stackd_mirror_staleness_seconds", about, staleness, "kind")
        about = "1 while the watch has a connection that reports changes."
        yield gauge("stackd_mirror_connected", about, each("connected"), "kind")
        about = "Lists read again because a watch was too old."
        yield counter("stackd_mirror_relists_total", about, each("relists"), "kind")
        about = "Watches that ended and were restarted."
        yield counter("stackd_mirror_watch_restarts_total", about, each("restarts"), "kind")
        yield counter("stackd_mirror_events_total", "Changes that the watches reported.", each("events"), "kind")
        pulls = self._api.prepulls.counts()
        yield gauge("stackd_prepull_images", "Images to pull ahead, by state.", pulls, "state")

    def _kubernetes(self) -> Iterator[Metric]:
        cluster = self._context.cluster
        about = "Requests to Kubernetes; code none where no answer came."
        yield counter("stackd_kubernetes_requests_total", about, cluster.counts, "verb", "resource", "code")
        contact = cluster.connection.contact
        about = "0 while Kubernetes is known not to answer: creates are refused."
        yield gauge("stackd_kubernetes_answers", about, not contact.lost)
        about = "Time since Kubernetes was last heard from."
        yield gauge("stackd_kubernetes_silence_seconds", about, contact.silence)
        about = "Requests without an answer since the last one."
        yield gauge("stackd_kubernetes_failures_in_a_row", about, contact.failures)
        about = "Time to Kubernetes' answer; of a watch, until it is open."
        durations = self._context.metrics.kubernetes
        yield histogram("stackd_kubernetes_request_duration_seconds", about, durations, "verb", "resource")

    def _credentials(self) -> Iterator[Metric]:
        context = self._context
        access = context.cluster.connection.access
        about = "When the credentials for Kubernetes end; 0 if they do not, or are renewed by others."
        ends = access.expiry.at if access.expiry is not None else 0
        yield gauge("stackd_kubernetes_credentials_expiry_timestamp_seconds", about, ends)
        about = "1 when they have ended, or end within two weeks and are not renewed."
        expiring = bool(expiry_remark(access, context.clock.now() / 1e9))
        yield gauge("stackd_kubernetes_credentials_expiring", about, expiring)
        about = "When the API's TLS certificate in force expires; 0 without TLS."
        yield gauge("stackd_tls_certificate_expiry_timestamp_seconds", about, context.metrics.certificate_ends())
        about = "When a backup last left this machine, by backup.command; 0 if none has."
        yield gauge("stackd_backup_left_timestamp_seconds", about, context.metrics.backup_left())

    def _store(self) -> Iterator[Metric]:
        store, counters = self._context.store, self._context.store.counters
        yield counter("stackd_store_commits_total", "Transactions committed.", counters.commits)
        about = "Transactions that could not be committed."
        yield counter("stackd_store_commit_failures_total", about, counters.failed_commits)
        about = "Time of a commit, disk included."
        yield histogram("stackd_store_commit_duration_seconds", about, counters.commit_durations)
        yield counter("stackd_store_operations_total", "Operations on the file.", counters.operations)
        yield counter("stackd_store_statements_total", "SQL statements.", counters.statements)
        yield gauge("stackd_store_pending_operations", "Operations that wait for their commit.", store.pending)
        yield gauge("stackd_store_file_bytes", "Size of the file and its log.", store.file_bytes())


def _family(kind: Any, name: str, text: str, values: Any, *labels: str) -> Metric:
    """A metric of this kind: one value, or values by the values of the labels."""
    family: Metric = kind(name, text, labels=labels)
    for key, value in values.items() if isinstance(values, Mapping) else [((), values)]:
        measured = (value.buckets(), value.total) if isinstance(value, Histogram) else (float(value),)
        family.add_metric(key if isinstance(key, tuple) else (str(key),), *measured)  # type: ignore[attr-defined]
    return family


gauge, counter, histogram = (
    partial(_family, kind) for kind in (GaugeMetricFamily, CounterMetricFamily, HistogramMetricFamily)
)


def process_metrics() -> Iterator[Metric]:
    """CPU, memory, descriptors and start time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield counter("process_cpu_seconds_total", "User and system CPU time.", used.ru_utime + used.ru_stime)
    yield gauge("process_start_time_seconds", "When the process started, since the epoch.", STARTED)
    yield gauge("process_max_fds", "Most descriptors that may be open.", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    try:
        pages = int((PROC / "statm").read_text().split()[1])
        descriptors = len(os.listdir(PROC / "fd"))
    except OSError:
        return
    yield gauge("process_resident_memory_bytes", "Resident memory.", pages * resource.getpagesize())
    yield gauge("process_open_fds", "Open descriptors.", descriptors)

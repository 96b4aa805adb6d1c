"""Decides which new or changed objects are accepted, with the checks in the order of Kubernetes; quotas and limit ranges.

For a create: namespace (404, 403) → LimitRange defaults → node ports and addresses (422, 500) → validation (422) →
LimitRange → Pod Security → ResourceQuota (all 403) → the name (409, checked by the store). The usage of a namespace is
updated with each change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stackd.embedded import schema
from stackd.embedded.gateway import default_http_route, default_route
from stackd.embedded.nodeports import PortAllocator, node_ports
from stackd.embedded.nodes import Amounts, amounts, is_terminal, pod_amounts, shown
from stackd.embedded.resources import (
    ALL,
    EVENTS,
    HTTP_ROUTES,
    LEASES,
    LIMIT_RANGES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    RESOURCE_QUOTAS,
    SERVICES,
    TLS_ROUTES,
    Json,
    Resource,
)
from stackd.embedded.schema import containers
from stackd.embedded.status import StatusError, bad_request, forbidden, invalid, not_allowed, not_found
from stackd.embedded.store import Key, ObjectChange, ObjectStore, Record, timestamp
from stackd.embedded.validation import security_violation, validate
from stackd.quantity import parse

_DEFAULTS = {
    PODS: schema.default_pod,
    SERVICES: schema.default_service,
    NAMESPACES: schema.default_namespace,
    NODES: schema.default_node,
    LIMIT_RANGES: schema.default_limit_range,
    NETWORK_POLICIES: schema.default_network_policy,
    LEASES: schema.default_lease,
    HTTP_ROUTES: default_http_route,
    TLS_ROUTES: default_route,
}


class Admission:
    """Checks and completes objects; stores none."""

    def __init__(self, store: ObjectStore, ports: PortAllocator, quotas: QuotaController) -> None:
        self._store = store
        self._ports = ports
        self._quotas = quotas

    def for_create(self, resource: Resource, namespace: str, obj: Json, *, dry_run: bool = False) -> Json:
        """The new object, ready to be stored. Raises StatusError."""
        metadata = obj["metadata"]
        self._check_namespace(resource, namespace, metadata)
        if resource in _DEFAULTS:
            _DEFAULTS[resource](obj)
        limits = self._limit_ranges(namespace) if resource is PODS else []
        if resource is PODS:
            apply_limit_ranges(obj, limits)
            obj["status"] = schema.first_status(obj)
        elif resource is SERVICES:
            self._ports.assign(obj, dry_run=dry_run)
        elif resource is RESOURCE_QUOTAS:
            obj["status"] = {}
        elif resource is NODES:
            self._taint_times(obj)
        if causes := validate(resource, obj):
            raise invalid(resource, metadata.get("name", ""), causes)
        if resource is PODS:
            self._check_pod(obj, namespace, limits)
        if resource.namespaced and resource is not EVENTS:
            self._quotas.check(resource, obj, namespace)
        return obj

    def for_update(self, before: Record, obj: Json) -> Json:
        """The new version, ready to be stored. Raises StatusError."""
        resource, name = before.resource, before.key[1]
        if resource is PODS:
            if _frozen(before.obj["spec"]) != _frozen(obj["spec"]):
                changes = "pod updates may not change fields other than `spec.containers[*].image`"
                raise invalid(resource, name, [not_allowed("spec", changes)])
        elif resource is SERVICES:
            schema.default_service(obj)
            self._ports.assign(obj, held=node_ports(before.obj["spec"]))
        elif resource in (LIMIT_RANGES, LEASES, HTTP_ROUTES, TLS_ROUTES):
            _DEFAULTS[resource](obj)
        if causes := validate(resource, obj):
            raise invalid(resource, name, causes)
        if resource is SERVICES:
            self._quotas.check(resource, obj, before.key[0], before=before.obj)
        return obj

    def _check_namespace(self, resource: Resource, namespace: str, metadata: Json) -> None:
        if not resource.namespaced:
            return
        given = metadata.get("namespace")
        if given and given != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        found = self._store.of(NAMESPACES).records.get(("", namespace))
        if found is None:
            raise not_found(NAMESPACES, namespace)
        if found.obj["status"]["phase"] == "Terminating":
            message = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            raise forbidden(resource, metadata.get("name", ""), message, [cause])

    def _limit_ranges(self, namespace: str) -> list[Json]:
        return [record.obj for record in self._store.of(LIMIT_RANGES).in_namespace(namespace)]

    def _check_pod(self, pod: Json, namespace: str, limits: list[Json]) -> None:
        name = pod["metadata"]["name"]
        if problems := limit_violations(pod, limits):
            raise forbidden(PODS, name, described(problems))
        labels = self._store.of(NAMESPACES).get("", namespace).obj["metadata"].get("labels", {})
        if problem := security_violation(pod, labels):
            raise forbidden(PODS, name, problem)

    def _taint_times(self, node: Json) -> None:
        if node["spec"].get("unschedulable"):
            taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
            taint["timeAdded"] = timestamp(self._store.clock.now())
            node["spec"].setdefault("taints", []).append(taint)


def _frozen(spec: Json) -> Json:
    loose = {"containers", "initContainers", "activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"}
    fixed = {key: value for key, value in spec.items() if key not in loose}
    fixed["images"] = [{k: v for k, v in one.items() if k != "image"} for one in schema.containers(spec)]
    return fixed


_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_MUST_SPECIFY = frozenset(
    [*_COMPUTE, *(f"requests.{name}" for name in _COMPUTE), *(f"limits.{name}" for name in _COMPUTE)]
)
_REFRESH_SECONDS = 0.02
_ANNOTATION = "kubernetes.io/limit-ranger"


class QuotaController:
    """The usage under each quota. `status.used` of the quota objects is updated shortly afterwards."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._used: dict[Key, Amounts] = {}
        self._stale: set[Key] = set()
        self._refreshing = False
        for record in store.of(RESOURCE_QUOTAS).records.values():
            self._used[record.key] = self._measure(record.key[0])
        store.observe(self._follow)

    def check(self, resource: Resource, obj: Json, namespace: str, *, before: Json | None = None) -> None:
        """Raise StatusError 403 if the object, new or in place of `before`, exceeds a quota."""
        quotas = self._quotas(namespace)
        if not quotas:
            return
        usage = object_usage(resource, obj)
        old = object_usage(resource, before) if before is not None else {}
        for record in quotas:
            self._check_one(record, resource, obj, {k: v - old.get(k, 0) for k, v in usage.items()})

    def refresh(self) -> None:
        """Update the quotas' status now."""
        self._refreshing = False
        stale, self._stale = self._stale, set()
        for key in stale:
            record = self._store.of(RESOURCE_QUOTAS).records.get(key)
            if record is not None:
                hard = record.obj.get("spec", {}).get("hard", {})
                used = {name: shown(name, self._used[key].get(name, 0)) for name in hard}
                self._store.update(record, status={"hard": hard, "used": used})

    def _check_one(self, record: Record, resource: Resource, obj: Json, delta: Amounts) -> None:
        name = record.key[1]
        hard = {k: parse(v).milli for k, v in record.obj.get("spec", {}).get("hard", {}).items()}
        subject = obj["metadata"].get("name", "")
        if resource is PODS and (missing := _unspecified(obj, hard)):
            raise forbidden(resource, subject, f"failed quota: {name}: must specify {'; '.join(missing)}")
        used = self._used[record.key]
        over = sorted(k for k, v in delta.items() if k in hard and v > 0 and used.get(k, 0) + v > hard[k])
        if over:
            raise _exceeded(resource, subject, name, over, (delta, used, hard))

    def _quotas(self, namespace: str) -> list[Record]:
        return self._store.of(RESOURCE_QUOTAS).in_namespace(namespace) if self._used else []

    def _measure(self, namespace: str) -> Amounts:
        used: Amounts = {}
        for resource in ALL:
            if resource.namespaced and resource is not EVENTS:
                for record in self._store.of(resource).in_namespace(namespace):
                    _add(used, object_usage(resource, record.obj), 1)
        return used

    def _follow(self, change: ObjectChange) -> None:
        resource, key = change.after.resource, change.after.key
        if resource is RESOURCE_QUOTAS:
            if change.type == "DELETED":
                self._used.pop(key, None)
            elif key not in self._used:
                self._used[key] = self._measure(key[0])
                self._mark(key)
                return
            elif change.before and change.before.obj.get("spec") != change.after.obj.get("spec"):
                self._mark(key)
        if not self._used or not resource.namespaced or resource is EVENTS:
            return
        if change.type == "MODIFIED" and change.before and not _usage_changed(resource, change):
            return
        for quota in self._quotas(key[0]):
            used = self._used.get(quota.key)
            if used is not None:
                if change.before is not None:
                    _add(used, object_usage(resource, change.before.obj), -1)
                if change.type != "DELETED":
                    _add(used, object_usage(resource, change.after.obj), 1)
                self._mark(quota.key)

    def _mark(self, key: Key) -> None:
        self._stale.add(key)
        if not self._refreshing:
            self._refreshing = True
            self._store.clock.later(_REFRESH_SECONDS, self.refresh)


def object_usage(resource: Resource, obj: Json) -> Amounts:
    """What one object counts for, in thousandths."""
    usage = {f"count/{resource.qualified}": 1000}
    if resource is PODS:
        if not is_terminal(obj):
            usage |= dict(_pod_usage(obj["spec"]))
    elif resource is SERVICES:
        usage["services"] = 1000
        if obj["spec"]["type"] in {"NodePort", "LoadBalancer"}:
            usage["services.nodeports"] = 1000 * max(len(node_ports(obj["spec"])), len(obj["spec"].get("ports", ())))
    elif not resource.group:
        usage[resource.plural] = 1000
    return usage


def _pod_usage(spec: Json) -> Iterator[tuple[str, int]]:
    yield "pods", 1000
    for name, value in pod_amounts(spec, "requests").items():
        yield f"requests.{name}", value
        yield name, value
    for name, value in pod_amounts(spec, "limits").items():
        yield f"limits.{name}", value


def _unspecified(pod: Json, hard: Amounts) -> list[str]:
    missing = []
    for wanted in sorted(_MUST_SPECIFY & hard.keys()):
        part, _, name = wanted.rpartition(".")
        blank = [
            container.get("name", "")
            for container in pod["spec"]["containers"]
            if name not in container["resources"].get(part or "requests", {})
        ]
        if blank:
            missing.append(f"{wanted} for: {','.join(sorted(blank))}")
    return missing


def _exceeded(
    resource: Resource, subject: str, quota: str, over: list[str], amounts: tuple[Amounts, Amounts, Amounts]
) -> StatusError:
    def listed(values: Amounts) -> str:
        return ",".join(f"{name}={shown(name, values.get(name, 0))}" for name in over)

    requested, used, limited = (listed(values) for values in amounts)
    message = f"exceeded quota: {quota}, requested: {requested}, used: {used}, limited: {limited}"
    return forbidden(resource, subject, message)


def _usage_changed(resource: Resource, change: ObjectChange) -> bool:
    if change.before is None:
        return True
    before, after = change.before.obj, change.after.obj
    if resource is PODS:
        return is_terminal(before) != is_terminal(after)
    return resource is SERVICES and before["spec"] is not after["spec"]


def _add(into: Amounts, usage: Amounts, sign: int) -> None:
    for name, value in usage.items():
        into[name] = into.get(name, 0) + sign * value


def apply_limit_ranges(pod: Json, limit_ranges: Iterable[Json]) -> None:
    """Fill in the missing requests and limits of containers."""
    notes: list[str] = []
    for item in _items(limit_ranges):
        for container in containers(pod["spec"]):
            kind = "init container" if container in pod["spec"].get("initContainers", ()) else "container"
            resources = container["resources"]
            for part, defaults in (("requests", "defaultRequest"), ("limits", "default")):
                missing = {k: v for k, v in item.get(defaults, {}).items() if k not in resources.get(part, {})}
                if missing:
                    resources[part] = resources.get(part, {}) | missing
                    notes.append(f"{', '.join(missing)} {part[:-1]} for {kind} {container.get('name', '')}")
    if notes:
        metadata = pod["metadata"]
        annotations = metadata.get("annotations", {}) | {_ANNOTATION: f"LimitRanger plugin set: {'; '.join(notes)}"}
        pod["metadata"] = metadata | {"annotations": annotations}


def limit_violations(pod: Json, limit_ranges: Iterable[Json]) -> list[str]:
    """Why the limit ranges forbid the pod; empty if they allow it."""
    found: list[str] = []
    for item in _items(limit_ranges):
        for container in containers(pod["spec"]):
            requests = amounts(container["resources"], "requests")
            limits = amounts(container["resources"], "limits")
            found.extend(_check(item, requests, limits))
    return found


def described(problems: list[str]) -> str:
    """One message for all problems, in brackets if there are several."""
    return problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"


def _items(limit_ranges: Iterable[Json]) -> Iterator[Json]:
    for limit_range in limit_ranges:
        for item in limit_range.get("spec", {}).get("limits", ()):
            if item.get("type") == "Container":
                yield item


def _check(item: Json, requests: Amounts, limits: Amounts) -> Iterator[str]:
    for name, bound in item.get("min", {}).items():
        text = f"minimum {name} usage per Container is {bound}"
        if name not in requests:
            yield f"{text}.  No request is specified"
        elif requests[name] < parse(bound).milli:
            yield f"{text}, but request is {shown(name, requests[name])}"
    for name, bound in sorted(item.get("max", {}).items(), reverse=True):
        text = f"maximum {name} usage per Container is {bound}"
        if name not in limits:
            yield f"{text}.  No limit is specified"
        elif limits[name] > parse(bound).milli:
            yield f"{text}, but limit is {shown(name, limits[name])}"

"""Decides which new or changed objects are accepted, with the checks in the order of Kubernetes; quotas and limit ranges.

For a create: namespace (404, 403) → LimitRange defaults → node ports and addresses (422, 500) → validation (422) →
LimitRange → Pod Security → ResourceQuota (all 403) → the name (409, checked by the store).
"""

from __future__ import annotations

from collections.abc import Iterator

from stackd.embedded import schema
from stackd.embedded.nodeports import PortAllocator, default_http_route, default_route, node_ports
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
    forbidden,
    in_brackets,
    invalid,
)
from stackd.embedded.schema import containers
from stackd.embedded.store import ObjectStore, Record
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

    def __init__(self, store: ObjectStore, ports: PortAllocator) -> None:
        self._store = store
        self._ports = ports

    def for_create(self, resource: Resource, namespace: str, obj: Json, *, dry_run: bool = False) -> Json:
        """The new object, ready to be stored. Raises StatusError."""
        metadata = obj["metadata"]
        if resource.namespaced:
            self._check_namespace(resource, namespace, metadata)
        if resource in _DEFAULTS:
            _DEFAULTS[resource](obj)
        limits = self._limits(namespace) if resource is PODS else []
        if resource is PODS:
            apply_limit_ranges(obj, limits)
            obj["status"] = schema.first_status(obj)
        elif resource is SERVICES:
            self._ports.assign(obj, dry_run=dry_run)
        elif resource is RESOURCE_QUOTAS:
            obj["status"] = {}
        if causes := validate(resource, obj):
            raise invalid(resource, metadata.get("name", ""), causes)
        if resource is PODS:
            self._check_pod(obj, namespace, limits)
        if resource.namespaced and resource is not EVENTS:
            check_quotas(self._store, resource, obj, namespace)
        return obj

    def for_update(self, before: Record, obj: Json) -> Json:
        """The new version, ready to be stored. Raises StatusError."""
        resource, name = before.resource, before.key[1]
        if resource is SERVICES:
            schema.default_service(obj)
            self._ports.assign(obj, own=node_ports(before.obj["spec"]))
        elif resource in (LIMIT_RANGES, LEASES, HTTP_ROUTES, TLS_ROUTES):
            _DEFAULTS[resource](obj)
        if causes := validate(resource, obj):
            raise invalid(resource, name, causes)
        if resource is SERVICES:
            check_quotas(self._store, resource, obj, before.key[0], before=before.obj)
        return obj

    def _check_namespace(self, resource: Resource, namespace: str, metadata: Json) -> None:
        record = self._store.of(NAMESPACES).get("", namespace)
        if record.obj["status"]["phase"] == "Terminating":
            message = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            raise forbidden(resource, metadata.get("name", ""), message, [cause])

    def _limits(self, namespace: str) -> list[Json]:
        ranges = self._store.of(LIMIT_RANGES).in_namespace(namespace)
        items = (item for record in ranges for item in record.obj.get("spec", {}).get("limits", ()))
        return [item for item in items if item.get("type") == "Container"]

    def _check_pod(self, pod: Json, namespace: str, limits: list[Json]) -> None:
        name = pod["metadata"]["name"]
        if violations := list(limit_violations(pod, limits)):
            raise forbidden(PODS, name, in_brackets(violations))
        labels = self._store.of(NAMESPACES).get("", namespace).obj["metadata"].get("labels", {})
        if violation := security_violation(pod, labels):
            raise forbidden(PODS, name, violation)


_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_MUST_SPECIFY = frozenset(f"{part}{name}" for part in ("", "requests.", "limits.") for name in _COMPUTE)
_ANNOTATION = "kubernetes.io/limit-ranger"


def check_quotas(
    store: ObjectStore, resource: Resource, obj: Json, namespace: str, *, before: Json | None = None
) -> None:
    """Raise StatusError 403 if the object, new or in place of ``before``, exceeds a quota of its namespace."""
    quotas = store.of(RESOURCE_QUOTAS).in_namespace(namespace)
    if not quotas:
        return
    old = object_usage(resource, before) if before is not None else {}
    delta = {name: amount - old.get(name, 0) for name, amount in object_usage(resource, obj).items()}
    used, subject = namespace_usage(store, namespace), obj["metadata"].get("name", "")
    for quota in quotas:
        name, hard = quota.key[1], {k: parse(v).milli for k, v in quota.obj.get("spec", {}).get("hard", {}).items()}
        if resource is PODS and (missing := _unspecified(obj, hard)):
            raise forbidden(resource, subject, f"failed quota: {name}: must specify {'; '.join(missing)}")
        exceeded = sorted(k for k, v in delta.items() if k in hard and v > 0 and used.get(k, 0) + v > hard[k])
        if exceeded:
            requested, current, limited = (
                ",".join(f"{key}={shown(key, amounts.get(key, 0))}" for key in exceeded)
                for amounts in (delta, used, hard)
            )
            message = f"exceeded quota: {name}, requested: {requested}, used: {current}, limited: {limited}"
            raise forbidden(resource, subject, message)


def report_quotas(store: ObjectStore) -> None:
    """Write the usage of all namespaces with quotas into their status."""
    for quota in list(store.of(RESOURCE_QUOTAS).records.values()):
        hard, used = quota.obj.get("spec", {}).get("hard", {}), namespace_usage(store, quota.key[0])
        store.update(quota, status={"hard": hard, "used": {name: shown(name, used.get(name, 0)) for name in hard}})


def namespace_usage(store: ObjectStore, namespace: str) -> Amounts:
    """What all objects of a namespace count for, in thousandths."""
    used: Amounts = {}
    for resource in ALL:
        if resource.namespaced and resource is not EVENTS:
            for record in store.of(resource).in_namespace(namespace):
                for name, amount in object_usage(resource, record.obj).items():
                    used[name] = used.get(name, 0) + amount
    return used


def object_usage(resource: Resource, obj: Json) -> Amounts:
    """What one object counts for, in thousandths."""
    usage = {f"count/{resource.qualified}": 1000}
    if resource is PODS:
        if not is_terminal(obj):
            requests, limits = (pod_amounts(obj["spec"], part) for part in ("requests", "limits"))
            usage |= {"pods": 1000} | requests
            usage |= {f"requests.{name}": value for name, value in requests.items()}
            usage |= {f"limits.{name}": value for name, value in limits.items()}
    elif resource is SERVICES:
        usage["services"] = 1000
        if obj["spec"]["type"] in {"NodePort", "LoadBalancer"}:
            usage["services.nodeports"] = 1000 * max(len(node_ports(obj["spec"])), len(obj["spec"].get("ports", ())))
    elif not resource.group:
        usage[resource.plural] = 1000
    return usage


def _unspecified(pod: Json, hard: Amounts) -> list[str]:
    missing = []
    for wanted in sorted(_MUST_SPECIFY & hard.keys()):
        part, _, name = wanted.rpartition(".")
        unset = [
            container.get("name", "")
            for container in pod["spec"]["containers"]
            if name not in container["resources"].get(part or "requests", {})
        ]
        if unset:
            missing.append(f"{wanted} for: {','.join(sorted(unset))}")
    return missing


def apply_limit_ranges(pod: Json, items: list[Json]) -> None:
    """Fill in the missing requests and limits of containers."""
    notes: list[str] = []
    for item in items:
        for container in containers(pod["spec"]):
            kind = "init container" if container in pod["spec"].get("initContainers", ()) else "container"
            resources = container["resources"]
            for part, defaults in (("requests", "defaultRequest"), ("limits", "default")):
                missing = {k: v for k, v in item.get(defaults, {}).items() if k not in resources.get(part, {})}
                if missing:
                    resources[part] = resources.get(part, {}) | missing
                    notes.append(f"{', '.join(missing)} {part[:-1]} for {kind} {container.get('name', '')}")
    if notes:
        annotations = pod["metadata"].get("annotations", {})
        note = {_ANNOTATION: f"LimitRanger plugin set: {'; '.join(notes)}"}
        pod["metadata"] = pod["metadata"] | {"annotations": annotations | note}


def limit_violations(pod: Json, items: list[Json]) -> Iterator[str]:
    """Why the limit ranges forbid the pod."""
    for item in items:
        for container in containers(pod["spec"]):
            requests, limits = (amounts(container["resources"], part) for part in ("requests", "limits"))
            for name, bound in item.get("min", {}).items():
                text = f"minimum {name} usage per Container is {bound}"
                if requests[name] < parse(bound).milli:
                    yield f"{text}, but request is {shown(name, requests[name])}"
            for name, bound in sorted(item.get("max", {}).items(), reverse=True):
                text = f"maximum {name} usage per Container is {bound}"
                if limits[name] > parse(bound).milli:
                    yield f"{text}, but limit is {shown(name, limits[name])}"

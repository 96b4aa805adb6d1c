"""Decides which new or changed objects are accepted, with the checks in the order of Kubernetes.

For a create: namespace (404, 403) → LimitRange defaults → node ports and addresses (422, 500) → validation (422) →
LimitRange → Pod Security → ResourceQuota (all 403) → the name (409, checked by the store).
"""

from __future__ import annotations

from stackd.embedded import podsecurity, schema
from stackd.embedded.gateway import default_http_route, default_route
from stackd.embedded.nodeports import PortAllocator, node_ports
from stackd.embedded.quota import QuotaController, apply_limit_ranges, described, limit_violations
from stackd.embedded.resources import (
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
from stackd.embedded.status import bad_request, forbidden, invalid, not_allowed, not_found
from stackd.embedded.store import ObjectStore, Record
from stackd.embedded.timing import timestamp
from stackd.embedded.validation import validate

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
        if problem := podsecurity.violation(pod, labels):
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

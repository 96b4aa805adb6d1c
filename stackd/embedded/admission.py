"""Decides which new or changed objects are accepted, with the checks in the order of Kubernetes: quotas, limit ranges,
validation field by field, and the Pod Security Standards ``baseline`` and ``restricted``, chosen by the namespace's label.

For a create: namespace (404, 403) → LimitRange defaults → node ports and addresses (422, 500) → validation (422) →
LimitRange → Pod Security → ResourceQuota (all 403) → the name (409, checked by the store).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

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
    StatusCause,
    forbidden,
    in_brackets,
    invalid,
    required,
    wrong,
)
from stackd.embedded.schema import containers
from stackd.embedded.store import ObjectStore, Record
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
            obj["status"] = {"phase": "Pending", "qosClass": schema.qos_class(obj["spec"])}
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


# ---- what makes an object invalid (422), as far as the recordings show it; and the Pod Security Standards


_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_SUBDOMAIN_DETAIL = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    f"and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_NAMES = {
    SERVICES: ("[a-z]([-a-z0-9]*[a-z0-9])?", "it is not a DNS-1035 label"),
    NAMESPACES: (_LABEL, "it is not a lowercase RFC 1123 label"),
}
_HOSTNAME = rf"(\*\.)?{_SUBDOMAIN}"


def validate(resource: Resource, obj: Json) -> list[StatusCause]:
    """All that is wrong with the object; empty if it is valid."""
    checks = {PODS: _pod, HTTP_ROUTES: _route, TLS_ROUTES: _route, LEASES: _lease}
    causes = list(_metadata(resource, obj["metadata"]))
    return causes + list(checks[resource](obj["spec"])) if resource in checks else causes


def _metadata(resource: Resource, metadata: Json) -> Iterator[StatusCause]:
    name = metadata.get("name", "")
    form, detail = _NAMES.get(resource, (_SUBDOMAIN, _SUBDOMAIN_DETAIL))
    if not re.fullmatch(form, name):
        yield wrong("metadata.name", name, detail)


def _pod(spec: Json) -> Iterator[StatusCause]:
    for group in ("initContainers", "containers"):
        for position, container in enumerate(spec.get(group, ())):
            if not container.get("image"):
                yield required(f"spec.{group}[{position}].image")


def _route(spec: Json) -> Iterator[StatusCause]:
    for position, name in enumerate(spec.get("hostnames", ())):
        if not re.fullmatch(_HOSTNAME, name) or len(name) > 253:
            path = f"spec.hostnames[{position}]"
            yield wrong(path, name, f"{path} in body should match '^{_HOSTNAME}$'")


def _lease(spec: Json) -> Iterator[StatusCause]:
    if spec.get("leaseDurationSeconds", 1) <= 0:
        yield wrong("spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0")
    if spec.get("leaseTransitions", 0) < 0:
        yield wrong("spec.leaseTransitions", spec["leaseTransitions"], "must be greater than or equal to 0")


_ENFORCE = "pod-security.kubernetes.io/enforce"
_BASELINE = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"
)
_CAPABILITIES = {"baseline": frozenset(_BASELINE.split()), "restricted": frozenset({"NET_BIND_SERVICE"})}


def security_violation(pod: Json, namespace_labels: Json) -> str | None:
    """Why the namespace's level refuses the pod, or None."""
    level = namespace_labels.get(_ENFORCE, "privileged")
    if level not in _CAPABILITIES or not (violations := list(_violations(pod["spec"], level))):
        return None
    version = namespace_labels.get(f"{_ENFORCE}-version", "latest")
    return f'violates PodSecurity "{level}:{version}": {", ".join(violations)}'


def _violations(spec: Json, level: str) -> Iterator[str]:

    def bad(test: Callable[[Json], object]) -> str:
        """The containers whose security context fails the test; empty if there are none."""
        return _named("container", [one["name"] for one in containers(spec) if test(one.get("securityContext", {}))])

    if who := bad(lambda one: set(one.get("capabilities", {}).get("add", ())) - _CAPABILITIES[level]):
        yield f"non-default capabilities ({who} must not include others in securityContext.capabilities.add)"
    if shared := [f"{field}=true" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]:
        yield f"host namespaces ({', '.join(shared)})"
    if who := _named("volume", [one["name"] for one in spec.get("volumes", ()) if "hostPath" in one]):
        yield f"hostPath volumes ({who})"
    for one in containers(spec):
        for port in one.get("ports", ()):
            if port.get("hostPort"):
                yield f"hostPort ({_named('container', [one['name']])} uses hostPort {port['hostPort']})"
    if who := bad(lambda one: one.get("privileged")):
        yield f"privileged ({who} must not set securityContext.privileged=true)"
    if level == "restricted":
        yield from _restrictions(spec["securityContext"], bad)


def _restrictions(default: Json, bad: Callable[[Callable[[Json], object]], str]) -> Iterator[str]:
    """What only `restricted` asks for; ``default`` is the pod's security context."""
    if who := bad(lambda one: one.get("allowPrivilegeEscalation") is not False):
        yield f"allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
    if who := bad(lambda one: "ALL" not in one.get("capabilities", {}).get("drop", ())):
        yield f'unrestricted capabilities ({who} must set securityContext.capabilities.drop=["ALL"])'
    if who := bad(lambda one: not one.get("runAsNonRoot", default.get("runAsNonRoot"))):
        yield f"runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"
    if who := bad(lambda one: not one.get("seccompProfile", default.get("seccompProfile"))):
        yield f'seccompProfile (pod or {who} must set securityContext.seccompProfile.type to "RuntimeDefault")'


def _named(what: str, names: list[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"{what}{'s' if len(names) > 1 else ''} {quoted}" if names else ""

"""The decoder from a request's JSON to an object as Kubernetes stores it, and the default values that Kubernetes fills in.

A decoded object of a typed kind lacks what is empty, and has canonical quantities and times.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from stackd.embedded.resources import Json, Resource, bad_request
from stackd.quantity import parse

_TYPED = {
    **dict.fromkeys(("Pod", "Service", "ResourceQuota", "LimitRange", "Lease"), ("metadata", "spec", "status")),
    "ConfigMap": ("metadata", "immutable", "data", "binaryData"),
}
_AS_THEY_ARE = frozenset(
    {"labels", "annotations", "nodeSelector", "selector", "data", "binaryData", "affinity", "status"}
)
_PRESENT_WHEN_EMPTY = frozenset(
    {"resources", "securityContext", "emptyDir", "podSelector", "value", "containers", "items", "spec", "status"}
    | {"holderIdentity"}
)
_ABSENT_WHEN_FALSE = frozenset(
    {"hostNetwork", "hostPID", "hostIPC", "stdin", "stdinOnce", "tty", "readOnly", "publishNotReadyAddresses"}
)
_QUANTITIES = frozenset(
    {"limits", "requests", "overhead", "hard", "max", "min", "default", "defaultRequest", "maxLimitRequestRatio"}
)
_TIMES = frozenset({"acquireTime", "renewTime"})
_NUMBERS = {"containerPort": "ContainerPort", "leaseDurationSeconds": "LeaseSpec"}
"""The numbers whose type is checked, as a recording shows it, and the Go structs that have them."""
_JSON_KINDS = {bool: "bool", str: "string", float: "number", list: "array", dict: "object"}


def decode(resource: Resource, raw: Json) -> Json:
    """The object without kind and apiVersion. Raises StatusError 400 for a wrong type."""
    known = _TYPED.get(resource.kind, raw.keys() - {"kind", "apiVersion"})
    body = {key: value for key, value in raw.items() if key in known}
    refusal = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: json: cannot'
    if resource.kind in _TYPED:
        return {"metadata": {}} | _object(body, (), refusal)
    return body | {"metadata": _object(body.get("metadata") or {}, ("metadata",), refusal)}


def _object(value: Json, trail: tuple[str, ...], refusal: str) -> Json:
    result: Json = {}
    for key, part in value.items():
        decoded = part if key in _AS_THEY_ARE else _value(key, part, (*trail, key), refusal)
        is_absent = decoded is None or (decoded is False and key in _ABSENT_WHEN_FALSE)
        if (decoded or decoded == 0 or key in _PRESENT_WHEN_EMPTY) and not is_absent:
            result[key] = decoded
    return result


def _value(key: str, value: Any, trail: tuple[str, ...], refusal: str) -> Any:
    if key in _NUMBERS and type(value) in _JSON_KINDS:
        field = f"Go struct field {_NUMBERS[key]}.{'.'.join(trail)} of type int32"
        raise bad_request(f"{refusal} unmarshal {_JSON_KINDS[type(value)]} into {field}")
    if key in _TIMES and isinstance(value, str):
        return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, list):
        return [_object(item, trail, refusal) if isinstance(item, dict) else item for item in value]
    if not isinstance(value, dict):
        return value
    if key in _QUANTITIES:
        return {name: str(parse(amount).in_milli()) for name, amount in value.items()}
    return _object(value, trail, refusal)


_NOT_READY = "node.kubernetes.io/not-ready"
_UNREACHABLE = "node.kubernetes.io/unreachable"
_TOLERATION_SECONDS = 300


def containers(spec: Json) -> Iterator[Json]:
    """The init containers, then the containers."""
    yield from spec.get("initContainers", ())
    yield from spec.get("containers", ())


def is_sidecar(container: Json) -> bool:
    """Whether the init container is a sidecar, which keeps running."""
    return container.get("restartPolicy") == "Always"


def default_pod(pod: Json) -> None:
    spec = pod.get("spec") or {}
    spec.setdefault("containers", [])
    spec["initContainers"] = [_container(one, spec) for one in spec.get("initContainers", ())]
    spec["containers"] = [_container(one, spec) for one in spec["containers"]]
    if not spec["initContainers"]:
        del spec["initContainers"]
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = account
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    spec["tolerations"] = _tolerations(spec.get("tolerations", []))
    spec.setdefault("priority", 0)
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    pod["spec"] = spec


def pod_condition(
    kind: str, *, holds: bool, since: str, generation: int | None = None, reason: str = "", message: str = ""
) -> Json:
    """A condition of a pod's status; the scheduler does not say of which generation it is if it has bound the pod."""
    optional = {"observedGeneration": generation, "reason": reason, "message": message}
    given = {key: value for key, value in optional.items() if value}
    return {"type": kind, "status": str(holds), "lastProbeTime": None, "lastTransitionTime": since} | given


def pod_status(status: Json) -> Json:
    """The status from a request, with its conditions completed as Kubernetes does."""
    if "conditions" not in status:
        return status
    times = {"lastProbeTime": None, "lastTransitionTime": None}
    return status | {"conditions": [times | condition for condition in status["conditions"]]}


def _container(container: Json, spec: Json) -> Json:
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
        if spec.get("hostNetwork"):
            port.setdefault("hostPort", port.get("containerPort"))
    resources = container.setdefault("resources", {})
    if limits := resources.get("limits"):
        container["resources"] = resources | {"requests": limits | resources.get("requests", {})}
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("imagePullPolicy", _pull_policy(container.get("image", "")))
    return container


def _pull_policy(image: str) -> str:
    tag = image.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in {"", "latest"} and "@" not in image else "IfNotPresent"


def _tolerations(own: list[Json]) -> list[Json]:
    added = []
    for key in (_NOT_READY, _UNREACHABLE):
        covered = (toleration.get("key") in {key, None} for toleration in own)
        if not any(covered):
            added.append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _TOLERATION_SECONDS}
            )
    return [*own, *added]


def qos_class(spec: Json) -> str:
    """The pod's QoS class: Guaranteed, Burstable or BestEffort."""
    guaranteed, any_set = True, False
    for container in containers(spec):
        resources = container.get("resources", {})
        limits, requests = resources.get("limits", {}), resources.get("requests", {})
        for name in ("cpu", "memory"):
            limit, request = parse(limits.get(name, "0")).milli, parse(requests.get(name, "0")).milli
            any_set = any_set or bool(limit or request)
            guaranteed = guaranteed and bool(limit) and request == limit
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def default_service(service: Json) -> None:
    """Fill in a new service's spec and status, except addresses and node ports (see `nodeports`)."""
    spec = service.get("spec") or {}
    for port in spec.get("ports", ()):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port", 0))
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["type"] in {"NodePort", "LoadBalancer"}:
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec["type"] != "ExternalName":
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        spec.setdefault("internalTrafficPolicy", "Cluster")
    service["spec"] = spec
    service.setdefault("status", {"loadBalancer": {}})


def default_namespace(namespace: Json) -> None:
    metadata = namespace["metadata"]
    metadata["labels"] = metadata.get("labels", {}) | {"kubernetes.io/metadata.name": metadata.get("name", "")}
    namespace["spec"] = {"finalizers": ["kubernetes"]}
    namespace["status"] = {"phase": "Active"}


_NODE_INFO = (
    "machineID systemUUID bootID kernelVersion osImage containerRuntimeVersion kubeletVersion kubeProxyVersion "
    "operatingSystem architecture"
)


def default_node(node: Json) -> None:
    """Fill in a new node, tainted as not ready."""
    spec = node.get("spec") or {}
    taints = [taint for taint in spec.get("taints", ()) if taint.get("key") != _NOT_READY]
    spec["taints"] = [*taints, {"key": _NOT_READY, "effect": "NoSchedule"}]
    node["spec"] = spec
    status = node.pop("status", None) or {}
    if "capacity" in status:
        status.setdefault("allocatable", status["capacity"])
    status.setdefault("daemonEndpoints", {"kubeletEndpoint": {"Port": 0}})
    status.setdefault("nodeInfo", dict.fromkeys(_NODE_INFO.split(), ""))
    node["status"] = status


def default_limit_range(limit_range: Json) -> None:
    """Fill in a limit range: the default limit from the maximum, the default request from that limit or the minimum."""
    for position, item in enumerate(limit_range.get("spec", {}).get("limits", ())):
        limit = item.get("max", {}) | item.get("default", {})
        request = item.get("min", {}) | limit | item.get("defaultRequest", {})
        filled = {name: values for name, values in (("default", limit), ("defaultRequest", request)) if values}
        limit_range["spec"]["limits"][position] = item | filled


def default_network_policy(policy: Json) -> None:
    spec = policy.setdefault("spec", {})
    spec.setdefault("podSelector", {})
    spec.setdefault("policyTypes", ["Ingress", "Egress"] if "egress" in spec else ["Ingress"])


def default_lease(lease: Json) -> None:
    """Fill in an empty spec, and drop the fields of an alpha feature (coordinated leader election)."""
    spec = lease.get("spec", {})
    lease["spec"] = {key: value for key, value in spec.items() if key not in {"strategy", "preferredHolder"}}

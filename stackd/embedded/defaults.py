"""The default values that Kubernetes fills in. Pure except that it changes the decoded object that it is given."""

from __future__ import annotations

from collections.abc import Iterator

from stackd.embedded.resources import Json
from stackd.quantity import parse

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
    """Fill in a new pod's spec."""
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


def first_status(pod: Json) -> Json:
    """The status of a new pod, before scheduler and kubelet have seen it."""
    return {"phase": "Pending", "qosClass": qos_class(pod["spec"])}


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
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe in container:
            container[probe] = _probe(container[probe])
    return container


def _probe(probe: Json) -> Json:
    defaults = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    if "httpGet" in probe:
        probe["httpGet"] = {"path": "/", "scheme": "HTTP"} | probe["httpGet"]
    return defaults | probe


def _pull_policy(image: str) -> str:
    last = image.rpartition("/")[2]
    if "@" in last:
        return "IfNotPresent"
    tag = last.partition(":")[2]
    return "Always" if tag in {"", "latest"} else "IfNotPresent"


def _tolerations(given: list[Json]) -> list[Json]:
    added = []
    for key in (_NOT_READY, _UNREACHABLE):
        covered = (toleration.get("key") in {key, None} for toleration in given)
        if not any(covered):
            added.append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _TOLERATION_SECONDS}
            )
    return [*given, *added]


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
    """Fill in a new namespace."""
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
        if item.get("type") != "Container":
            continue
        limit = item.get("max", {}) | item.get("default", {})
        request = item.get("min", {}) | limit | item.get("defaultRequest", {})
        filled = {name: values for name, values in (("default", limit), ("defaultRequest", request)) if values}
        limit_range["spec"]["limits"][position] = item | filled


def default_network_policy(policy: Json) -> None:
    """Fill in a network policy; its policy types follow from its rules."""
    spec = policy.setdefault("spec", {})
    spec.setdefault("podSelector", {})
    spec.setdefault("policyTypes", ["Ingress", "Egress"] if "egress" in spec else ["Ingress"])


def default_lease(lease: Json) -> None:
    """Fill in an empty spec, and drop the fields of an alpha feature (coordinated leader election)."""
    spec = lease.get("spec", {})
    lease["spec"] = {key: value for key, value in spec.items() if key not in {"strategy", "preferredHolder"}}

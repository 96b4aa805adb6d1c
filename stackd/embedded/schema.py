"""The fields of the typed kinds, the decoder from a request's JSON to an object as Kubernetes stores it, and the default
values that Kubernetes fills in.

A decoded object has only the fields of the table, with canonical quantities; the rest is dropped. Each line of the table
is a struct; a type stands before the fields that have it: `string`, `int32`, `int64`, `bool`, `intstr`, `microtime`,
`object`, `map` (of strings), `quantities` (a map of those), `[]X` for a list, or the name of a struct. `bool!` is left out
when false.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from stackd.embedded.resources import Json, Resource, bad_request
from stackd.quantity import parse

_TEXT = """
ObjectMeta = string: name generateName namespace uid resourceVersion creationTimestamp deletionTimestamp; int64:
    generation deletionGracePeriodSeconds; map: labels annotations; []object: ownerReferences; []string: finalizers
Pod = ObjectMeta: metadata; PodSpec: spec; object: status
PodSpec = []Volume: volumes; []Container: initContainers containers; string: restartPolicy dnsPolicy
    serviceAccountName serviceAccount nodeName hostname schedulerName runtimeClassName preemptionPolicy; int64:
    terminationGracePeriodSeconds activeDeadlineSeconds; map: nodeSelector; bool: automountServiceAccountToken
    shareProcessNamespace enableServiceLinks hostUsers; bool!: hostNetwork hostPID hostIPC; PodSecurityContext:
    securityContext; []object: imagePullSecrets; object: affinity; []Toleration: tolerations; []HostAlias: hostAliases;
    int32: priority; quantities: overhead
HostAlias = string: ip; []string: hostnames
Container = string: name image workingDir restartPolicy terminationMessagePath terminationMessagePolicy
    imagePullPolicy; []string: command args; []ContainerPort: ports; []EnvFromSource: envFrom; []EnvVar: env;
    ResourceRequirements: resources; []VolumeMount: volumeMounts; Probe: livenessProbe readinessProbe startupProbe;
    Lifecycle: lifecycle; SecurityContext: securityContext; bool!: stdin stdinOnce tty
ContainerPort = string: name protocol hostIP; int32: hostPort containerPort
EnvFromSource = string: prefix; object: configMapRef secretRef
EnvVarSource = object: fieldRef resourceFieldRef configMapKeyRef secretKeyRef
EnvVar = string: name value; EnvVarSource: valueFrom
ResourceRequirements = quantities: limits requests
VolumeMount = string: name mountPath subPath; bool!: readOnly
Probe = ExecAction: exec; HTTPGetAction: httpGet; TCPSocketAction: tcpSocket; GRPCAction: grpc; int32:
    initialDelaySeconds timeoutSeconds periodSeconds successThreshold failureThreshold; int64:
    terminationGracePeriodSeconds
Lifecycle = LifecycleHandler: postStart preStop
LifecycleHandler = ExecAction: exec; HTTPGetAction: httpGet; TCPSocketAction: tcpSocket; object: sleep
ExecAction = []string: command
HTTPGetAction = string: path host scheme; intstr: port; []object: httpHeaders
TCPSocketAction = intstr: port; string: host
GRPCAction = int32: port; string: service
SecurityContext = Capabilities: capabilities; bool: privileged runAsNonRoot readOnlyRootFilesystem
    allowPrivilegeEscalation; int64: runAsUser runAsGroup; SeccompProfile: seccompProfile appArmorProfile
PodSecurityContext = int64: runAsUser runAsGroup fsGroup; bool: runAsNonRoot; []int64: supplementalGroups; string:
    fsGroupChangePolicy; SeccompProfile: seccompProfile appArmorProfile
Capabilities = []string: add drop
SeccompProfile = string: type localhostProfile
Toleration = string: key operator value effect; int64: tolerationSeconds
Volume = string: name; object: hostPath emptyDir secret nfs persistentVolumeClaim downwardAPI configMap projected csi
    ephemeral image
Service = ObjectMeta: metadata; ServiceSpec: spec; object: status
ServiceSpec = []ServicePort: ports; map: selector; string: clusterIP type sessionAffinity externalName
    externalTrafficPolicy ipFamilyPolicy internalTrafficPolicy; []string: clusterIPs ipFamilies; bool!:
    publishNotReadyAddresses
ServicePort = string: name protocol appProtocol; int32: port nodePort; intstr: targetPort
ResourceQuota = ObjectMeta: metadata; ResourceQuotaSpec: spec; object: status
ResourceQuotaSpec = quantities: hard; []string: scopes; object: scopeSelector
LimitRange = ObjectMeta: metadata; LimitRangeSpec: spec
LimitRangeSpec = []LimitRangeItem: limits
LimitRangeItem = string: type; quantities: max min default defaultRequest maxLimitRequestRatio
ConfigMap = ObjectMeta: metadata; bool: immutable; map: data; object: binaryData
Lease = ObjectMeta: metadata; LeaseSpec: spec
LeaseSpec = string: holderIdentity strategy preferredHolder; int32: leaseDurationSeconds leaseTransitions; microtime:
    acquireTime renewTime
"""


def _read(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    for line in re.split(r"\n(?=\S)", text.strip()):
        name, _, groups = line.partition(" = ")
        parts = (group.partition(":") for group in groups.split(";"))
        yield name, {field: kind.strip() for kind, _, fields in parts for field in fields.split()}


STRUCTS = dict(_read(_TEXT))
"""Struct → field → type."""


_PRESENT_WHEN_EMPTY = frozenset(
    {"resources", "securityContext", "emptyDir", "podSelector", "value", "containers", "items", "spec", "status"}
    | {"holderIdentity"}
)
_JSON_KINDS = {bool: "bool", str: "string", int: "number", float: "number", list: "array", dict: "object"}
_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,), "bool!": (bool,), "string": (str,), "int32": (int,), "int64": (int,), "intstr": (int, str),
    "map": (dict,), "object": (dict,),
}  # fmt: skip


def decode(resource: Resource, raw: Json) -> Json:
    """The object without kind and apiVersion. Raises StatusError 400 for a wrong type."""
    body = {key: value for key, value in raw.items() if key not in {"kind", "apiVersion"}}
    refusal = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: json: cannot'
    if resource.kind in STRUCTS:
        return {"metadata": {}} | _struct(body, resource.kind, (), refusal)
    metadata = _struct(body.get("metadata") or {}, "ObjectMeta", ("metadata",), refusal)
    return body | {"metadata": metadata}


def _struct(value: Json, name: str, trail: tuple[str, ...], refusal: str) -> Json:
    result: Json = {}
    for key, part in value.items():
        kind = STRUCTS[name].get(key)
        if kind is not None and part is not None:
            decoded = _value(part, kind, name, (*trail, key), refusal)
            dropped = decoded is False and kind == "bool!"
            if (decoded or decoded == 0 or key in _PRESENT_WHEN_EMPTY) and not dropped:
                result[key] = decoded
    return result


def _value(value: Any, kind: str, owner: str, trail: tuple[str, ...], refusal: str) -> Any:
    if kind.startswith("[]") and isinstance(value, list):
        return [_value(item, kind[2:], owner, trail, refusal) for item in value]
    if kind in STRUCTS and isinstance(value, dict):
        return _struct(value, kind, trail, refusal)
    if kind == "quantities" and isinstance(value, dict):
        return {key: str(parse(part).in_milli()) for key, part in value.items()}
    if kind == "microtime" and isinstance(value, str):
        return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if type(value) in _TYPES.get(kind, ()):
        return value
    field = f"Go struct field {owner}.{'.'.join(trail)} of type {kind}"
    raise bad_request(f"{refusal} unmarshal {_JSON_KINDS.get(type(value), 'null')} into {field}")


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

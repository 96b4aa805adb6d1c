"""The fields of the typed kinds, the decoder from a request's JSON to an object as Kubernetes stores it, and the default
values that Kubernetes fills in.

A decoded object has only known fields, with canonical quantities.

A type is `string`, `int32`, `int64`, `bool`, `intstr`, `quantity`, `microtime`, `object`, `map` (of strings),
`quantities` (a map of those), `[]X` for a list, or the name of a struct of this table. `bool!` is left out
when false.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from stackd.embedded.resources import Json, Resource, bad_request
from stackd.quantity import parse

_HANDLER = "exec:ExecAction httpGet:HTTPGetAction tcpSocket:TCPSocketAction"
_CONTAINER = (
    "name:string image:string command:[]string args:[]string workingDir:string ports:[]ContainerPort "
    "envFrom:[]EnvFromSource env:[]EnvVar resources:ResourceRequirements resizePolicy:[]object restartPolicy:string "
    "restartPolicyRules:[]object volumeMounts:[]VolumeMount volumeDevices:[]object livenessProbe:Probe "
    "readinessProbe:Probe startupProbe:Probe lifecycle:Lifecycle terminationMessagePath:string "
    "terminationMessagePolicy:string imagePullPolicy:string securityContext:SecurityContext "
    "stdin:bool! stdinOnce:bool! tty:bool!"
)
_VOLUME_SOURCES = (
    "hostPath emptyDir gcePersistentDisk awsElasticBlockStore gitRepo secret nfs iscsi glusterfs "
    "persistentVolumeClaim rbd flexVolume cinder cephfs flocker downwardAPI fc azureFile configMap vsphereVolume "
    "quobyte azureDisk photonPersistentDisk projected portworxVolume scaleIO storageos csi ephemeral image"
)

_TEXT: dict[str, str] = {
    "ObjectMeta": (
        "name:string generateName:string namespace:string uid:string resourceVersion:string generation:int64 "
        "creationTimestamp:string deletionTimestamp:string deletionGracePeriodSeconds:int64 labels:map "
        "annotations:map ownerReferences:[]OwnerReference finalizers:[]string"
    ),
    "OwnerReference": ("apiVersion:string kind:string name:string uid:string controller:bool blockOwnerDeletion:bool"),
    "Pod": "metadata:ObjectMeta spec:PodSpec status:object",
    "PodSpec": (
        "volumes:[]Volume initContainers:[]Container containers:[]Container ephemeralContainers:[]object "
        "restartPolicy:string terminationGracePeriodSeconds:int64 activeDeadlineSeconds:int64 dnsPolicy:string "
        "nodeSelector:map serviceAccountName:string serviceAccount:string automountServiceAccountToken:bool "
        "nodeName:string hostNetwork:bool! hostPID:bool! hostIPC:bool! shareProcessNamespace:bool "
        "securityContext:PodSecurityContext imagePullSecrets:[]object hostname:string subdomain:string "
        "affinity:object schedulerName:string tolerations:[]Toleration hostAliases:[]object priorityClassName:string "
        "priority:int32 dnsConfig:object readinessGates:[]object runtimeClassName:string enableServiceLinks:bool "
        "preemptionPolicy:string overhead:quantities topologySpreadConstraints:[]object setHostnameAsFQDN:bool "
        "os:object hostUsers:bool schedulingGates:[]object resourceClaims:[]object resources:ResourceRequirements "
        "hostnameOverride:string"
    ),
    "Container": _CONTAINER,
    "ContainerPort": "name:string hostPort:int32 containerPort:int32 protocol:string hostIP:string",
    "EnvFromSource": "prefix:string configMapRef:object secretRef:object",
    "EnvVarSource": (
        "fieldRef:object resourceFieldRef:object configMapKeyRef:object secretKeyRef:object fileKeyRef:object"
    ),
    "EnvVar": "name:string value:string valueFrom:EnvVarSource",
    "ResourceRequirements": "limits:quantities requests:quantities claims:[]object",
    "VolumeMount": (
        "name:string readOnly:bool! recursiveReadOnly:string mountPath:string subPath:string "
        "mountPropagation:string subPathExpr:string"
    ),
    "Probe": (
        f"{_HANDLER} grpc:GRPCAction initialDelaySeconds:int32 timeoutSeconds:int32 periodSeconds:int32 "
        "successThreshold:int32 failureThreshold:int32 terminationGracePeriodSeconds:int64"
    ),
    "Lifecycle": "postStart:LifecycleHandler preStop:LifecycleHandler stopSignal:string",
    "LifecycleHandler": f"{_HANDLER} sleep:object",
    "ExecAction": "command:[]string",
    "HTTPGetAction": "path:string port:intstr host:string scheme:string httpHeaders:[]object",
    "TCPSocketAction": "port:intstr host:string",
    "GRPCAction": "port:int32 service:string",
    "SecurityContext": (
        "capabilities:Capabilities privileged:bool seLinuxOptions:object windowsOptions:object runAsUser:int64 "
        "runAsGroup:int64 runAsNonRoot:bool readOnlyRootFilesystem:bool allowPrivilegeEscalation:bool "
        "procMount:string seccompProfile:SeccompProfile appArmorProfile:SeccompProfile"
    ),
    "PodSecurityContext": (
        "seLinuxOptions:object windowsOptions:object runAsUser:int64 runAsGroup:int64 runAsNonRoot:bool "
        "supplementalGroups:[]int64 supplementalGroupsPolicy:string fsGroup:int64 sysctls:[]object "
        "fsGroupChangePolicy:string seccompProfile:SeccompProfile appArmorProfile:SeccompProfile "
        "seLinuxChangePolicy:string"
    ),
    "Capabilities": "add:[]string drop:[]string",
    "SeccompProfile": "type:string localhostProfile:string",
    "Toleration": "key:string operator:string value:string effect:string tolerationSeconds:int64",
    "Volume": "name:string " + " ".join(f"{source}:object" for source in _VOLUME_SOURCES.split()),
    "Service": "metadata:ObjectMeta spec:ServiceSpec status:object",
    "ServiceSpec": (
        "ports:[]ServicePort selector:map clusterIP:string clusterIPs:[]string type:string externalIPs:[]string "
        "sessionAffinity:string loadBalancerIP:string loadBalancerSourceRanges:[]string externalName:string "
        "externalTrafficPolicy:string healthCheckNodePort:int32 publishNotReadyAddresses:bool! "
        "sessionAffinityConfig:object ipFamilies:[]string ipFamilyPolicy:string allocateLoadBalancerNodePorts:bool "
        "loadBalancerClass:string internalTrafficPolicy:string trafficDistribution:string"
    ),
    "ServicePort": ("name:string protocol:string appProtocol:string port:int32 targetPort:intstr nodePort:int32"),
    "ResourceQuota": "metadata:ObjectMeta spec:ResourceQuotaSpec status:object",
    "ResourceQuotaSpec": "hard:quantities scopes:[]string scopeSelector:object",
    "LimitRange": "metadata:ObjectMeta spec:LimitRangeSpec",
    "LimitRangeSpec": "limits:[]LimitRangeItem",
    "LimitRangeItem": (
        "type:string max:quantities min:quantities default:quantities defaultRequest:quantities "
        "maxLimitRequestRatio:quantities"
    ),
    "ConfigMap": "metadata:ObjectMeta immutable:bool data:map binaryData:object",
    "Lease": "metadata:ObjectMeta spec:LeaseSpec",
    "LeaseSpec": (
        "holderIdentity:string leaseDurationSeconds:int32 acquireTime:microtime renewTime:microtime "
        "leaseTransitions:int32 strategy:string preferredHolder:string"
    ),
}

STRUCTS = {name: dict(field.split(":") for field in text.split()) for name, text in _TEXT.items()}
"""Struct → field → type."""


_GO_TYPES = {
    "quantity": "resource.Quantity",
    "bool!": "bool",
    "map": "map[string]string",
    "intstr": "intstr.IntOrString",
    "object": "map[string]interface {}",
    "microtime": "v1.MicroTime",
}
_PRESENT_WHEN_EMPTY = frozenset(
    {"resources", "securityContext", "emptyDir", "podSelector", "value", "containers", "items", "spec", "status"}
    | {"holderIdentity"}
)
_QUANTITY = re.compile(r"([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)")
_QUANTITY_RULE = f"the regular expression '^{_QUANTITY.pattern}$'"
_RANGES = {"int32": 2**31, "int64": 2**63}
_MICRO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_MICRO_LAYOUT = "2006-01-02T15:04:05.000000Z07:00"


def decode(resource: Resource, raw: Json) -> Json:
    """The object without kind and apiVersion. Raises StatusError 400 for a wrong type."""
    body = {key: value for key, value in raw.items() if key not in {"kind", "apiVersion"}}
    if resource.kind not in STRUCTS:
        given = body.get("metadata") or {}
        metadata = _Decoder(resource).value(given, "ObjectMeta", resource.kind, ("metadata",))
        return {"metadata": metadata} | {key: value for key, value in body.items() if key != "metadata"}
    decoded = _Decoder(resource).struct(body, resource.kind, ())
    decoded.setdefault("metadata", {})
    return decoded


class _Decoder:
    def __init__(self, resource: Resource) -> None:
        self.refusal = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}'

    def struct(self, value: Any, name: str, trail: tuple[str, ...]) -> Json:
        fields = STRUCTS[name]
        known: Json = {}
        for key, part in value.items():
            kind = fields.get(key)
            if kind is not None and part is not None:
                decoded = self.value(part, kind, name, (*trail, key))
                dropped = decoded is False and kind == "bool!"
                if (decoded or decoded == 0 or key in _PRESENT_WHEN_EMPTY) and not dropped:
                    known[key] = decoded
        return known

    def value(self, value: Any, kind: str, owner: str, trail: tuple[str, ...]) -> Any:
        if kind == "object" and isinstance(value, dict):
            return value
        if kind.startswith("[]"):
            if not isinstance(value, list):
                raise self.mismatch(value, f"[]{_go(kind[2:])}", owner, trail)
            return [self.value(item, kind[2:], owner, trail) for item in value]
        if kind in STRUCTS:
            if not isinstance(value, dict):
                raise self.mismatch(value, _go(kind), owner, trail)
            return self.struct(value, kind, trail)
        return self.scalar(value, kind, owner, trail)

    def scalar(self, value: Any, kind: str, owner: str, trail: tuple[str, ...]) -> Any:
        if kind == "string" and isinstance(value, str):
            return value
        if kind in {"bool", "bool!"} and isinstance(value, bool):
            return value
        if kind == "microtime" and isinstance(value, str):
            return self.microtime(value)
        if kind in _RANGES and isinstance(value, int) and not isinstance(value, bool):
            if -_RANGES[kind] <= value < _RANGES[kind]:
                return value
        elif kind == "intstr" and isinstance(value, (int, str)) and not isinstance(value, bool):
            return value
        elif kind == "map" and isinstance(value, dict):
            if all(isinstance(part, str) for part in value.values()):
                return value
            value = next(part for part in value.values() if not isinstance(part, str))
            raise self.mismatch(value, "string", owner, trail)
        elif kind == "quantities" and isinstance(value, dict):
            return {key: self.quantity(part) for key, part in value.items()}
        raise self.mismatch(value, _go(kind), owner, trail)

    def quantity(self, value: Any) -> str:
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise bad_request(f"{self.refusal}: json: cannot unmarshal {_kind(value)} into Go value of type string")
        try:
            return str(parse(value).in_milli())
        except ValueError as exc:
            known = _QUANTITY.fullmatch(str(value))
            wrong = "unable to parse quantity's suffix" if known else f"quantities must match {_QUANTITY_RULE}"
            raise bad_request(f"{self.refusal}: {wrong}") from exc

    def microtime(self, text: str) -> str:
        """The time in UTC. The text must have exactly six fraction digits, as in Go's layout."""
        if not _MICRO.fullmatch(text):
            raise bad_request(f'{self.refusal}: parsing time "{text}" as "{_MICRO_LAYOUT}": cannot parse')
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def mismatch(self, value: Any, wanted: str, owner: str, trail: tuple[str, ...]) -> Exception:
        found = _kind(value)
        if found == "number" and wanted in _RANGES:
            found = f"number {value}"
        where = f"{owner}.{'.'.join(trail)}"
        return bad_request(
            f"{self.refusal}: json: cannot unmarshal {found} into Go struct field {where} of type {wanted}"
        )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _go(kind: str) -> str:
    return f"v1.{kind}" if kind in STRUCTS else _GO_TYPES.get(kind, kind)


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

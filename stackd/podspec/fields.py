"""The fields of a Pod, and of the objects in it, and the walk along them from untyped data to a typed Pod of allowed fields.

Owns: all that stackd knows of Kubernetes' JSON types, and the allowlist. A field that is not accepted is refused by path,
whatever its value; other modules check the values of accepted fields. These are the fields that the Kubernetes client's
models have (release 1.37), and a test compares them. The daemon does not import the models: it would take a third of
each start, and needs only the names and types. An object that no accepted field holds has no fields here.

``decode`` checks types, leaves out empty values, and turns quantities into ``Quantity``, many times faster than the
models. The result is a new tree.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from stackd import quantity
from stackd.podspec.reasons import Reasons, below, unknown_field


class FieldKind(Enum):
    """The JSON shape of a field."""

    STRING = "string"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    INTEGER_OR_STRING = "integer or string"
    STRINGS = "strings"
    STRING_MAP = "map"
    OBJECT = "object"
    OBJECTS = "objects"
    OTHER = "other"


class Use(Enum):
    """Whether a field is accepted, and how its value is read and kept."""

    NEVER = ""
    PLAIN = "+"
    """Left out when empty, as the typed encoder does."""
    KEPT = "!"
    """Kept as given, even when zero or empty."""
    QUANTITY = "#"
    """A quantity, or a mapping of quantities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldType:
    """A field's shape and use. ``model`` names the fields of an object, or of each object in a list, if any is accepted."""

    kind: FieldKind
    model: str | None = None
    use: Use = Use.NEVER


NO_HOST_NAMESPACES = "a stack may not share the node's namespaces; leave this field out"
_NO_HOST_PORT = "ports of the node are not available; publish ports with target_port"
_NO_OTHER_HOST = "a probe or hook may only connect to its own pod"
_NO_CREDENTIALS = "a stack gets no credentials of the cluster"
_NO_ACCOUNT = "a stack has no service account"
_NO_PLACEMENT = "the operator decides on which nodes stacks run; use nodeSelector to choose among these"
WHY: Mapping[str, str] = {
    "ObjectMeta.generateName": "stackd names the pod",
    "PodSpec.hostNetwork": NO_HOST_NAMESPACES,
    "PodSpec.hostPID": NO_HOST_NAMESPACES,
    "PodSpec.hostIPC": NO_HOST_NAMESPACES,
    "PodSpec.serviceAccount": _NO_ACCOUNT,
    "PodSpec.serviceAccountName": _NO_ACCOUNT,
    "PodSpec.nodeName": _NO_PLACEMENT,
    "PodSpec.affinity": _NO_PLACEMENT,
    "PodSpec.topologySpreadConstraints": _NO_PLACEMENT,
    "PodSpec.schedulerName": _NO_PLACEMENT,
    "PodSpec.tolerations": "the operator sets tolerations (policy.tolerations)",
    "PodSpec.runtimeClassName": "the operator sets the runtime class (policy.runtime_class)",
    "PodSpec.ephemeralContainers": "can only be added to a running pod, which stackd does not offer",
    "PodSpec.resources": "set the resources of each container instead",
    "Container.volumeDevices": "block devices are not available",
    "ContainerPort.hostPort": _NO_HOST_PORT,
    "ContainerPort.hostIP": _NO_HOST_PORT,
    "ResourceRequirements.claims": "device claims are not available",
    "HTTPGetAction.host": _NO_OTHER_HOST,
    "TCPSocketAction.host": _NO_OTHER_HOST,
    "VolumeProjection.serviceAccountToken": _NO_CREDENTIALS,
    "CSIVolumeSource.nodePublishSecretRef": _NO_CREDENTIALS,
    "Volume.hostPath": "volumes of the node are not available",
    "Volume.ephemeral": "the claim must exist already; use one that policy.volume_claims allows",
}
"""The reasons for fields that are never accepted; the others are "not accepted in a stack's pod"."""

_CONTINUED = re.compile(r"\n {4,}")
# A line at the margin names a model, each line below it has the fields of one kind. A field that is accepted has the sign
# of its use, and ``=`` names a field's model.
_TEXT = """
Pod
  string: apiVersion! kind!
  object: metadata+=ObjectMeta spec+=PodSpec status+=PodStatus
ObjectMeta
  string: generateName name+ namespace+ resourceVersion selfLink uid
  integer: deletionGracePeriodSeconds generation
  strings: finalizers
  map: annotations+ labels+
  objects: managedFields ownerReferences
  other: creationTimestamp deletionTimestamp
PodSpec
  string: dnsPolicy hostname+ hostnameOverride nodeName preemptionPolicy priorityClassName restartPolicy+
    runtimeClassName schedulerName serviceAccount serviceAccountName subdomain
  integer: activeDeadlineSeconds! priority terminationGracePeriodSeconds!
  boolean: automountServiceAccountToken! enableServiceLinks! hostIPC hostNetwork hostPID hostUsers! setHostnameAsFQDN
    shareProcessNamespace
  map: nodeSelector+ overhead
  object: affinity dnsConfig os resources=ResourceRequirements schedulingGroup securityContext+=PodSecurityContext
  objects: containers+=Container ephemeralContainers evictionResponders hostAliases
    imagePullSecrets+=LocalObjectReference initContainers+=InitContainer readinessGates resourceClaims schedulingGates
    tolerations topologySpreadConstraints volumes+=Volume
Container
  string: image+ imagePullPolicy+ name! restartPolicy terminationMessagePath+ terminationMessagePolicy+ workingDir+
  boolean: stdin+ stdinOnce+ tty+
  strings: args+ command+
  object: lifecycle+=Lifecycle livenessProbe+=Probe readinessProbe+=Probe resources+=ResourceRequirements
    securityContext+=SecurityContext startupProbe+=Probe
  objects: env+=EnvVar envFrom+=EnvFromSource ports+=ContainerPort resizePolicy restartPolicyRules volumeDevices
    volumeMounts+=VolumeMount
EnvVar
  string: name! value+
  object: valueFrom+=EnvVarSource
EnvVarSource
  object: configMapKeyRef+=ConfigMapKeySelector fieldRef+=ObjectFieldSelector fileKeyRef
    resourceFieldRef+=ResourceFieldSelector secretKeyRef+=SecretKeySelector
ObjectFieldSelector
  string: apiVersion+ fieldPath!
ResourceFieldSelector
  string: containerName+ divisor# resource!
SecretKeySelector
  string: key! name+
  boolean: optional!
ConfigMapKeySelector
  string: key! name+
  boolean: optional!
EnvFromSource
  string: prefix+
  object: configMapRef+=ConfigMapEnvSource secretRef+=SecretEnvSource
ConfigMapEnvSource
  string: name+
  boolean: optional!
SecretEnvSource
  string: name+
  boolean: optional!
ContainerPort
  string: hostIP name+ protocol+
  integer: containerPort! hostPort
ResourceRequirements
  map: limits# requests#
  objects: claims
Probe
  integer: failureThreshold+ initialDelaySeconds+ periodSeconds+ successThreshold+ terminationGracePeriodSeconds!
    timeoutSeconds+
  object: exec+=ExecAction grpc+=GRPCAction httpGet+=HTTPGetAction tcpSocket+=TCPSocketAction
ExecAction
  strings: command+
HTTPGetAction
  string: host path+ protocol scheme+
  integer or string: port!
  objects: httpHeaders+=HTTPHeader
HTTPHeader
  string: name! value!
TCPSocketAction
  string: host
  integer or string: port!
GRPCAction
  string: mode service!
  integer: port!
Lifecycle
  string: stopSignal
  object: postStart+=LifecycleHandler preStop+=LifecycleHandler
LifecycleHandler
  object: exec+=ExecAction httpGet+=HTTPGetAction sleep+=SleepAction tcpSocket+=TCPSocketAction
SleepAction
  integer: seconds!
VolumeMount
  string: mountPath! mountPropagation name! recursiveReadOnly subPath+ subPathExpr
  boolean: readOnly+
  strings: bindMountOptions
SecurityContext
  string: procMount
  integer: runAsGroup! runAsUser!
  boolean: allowPrivilegeEscalation! privileged! readOnlyRootFilesystem! runAsNonRoot!
  object: appArmorProfile+=AppArmorProfile capabilities+=Capabilities seLinuxOptions seccompProfile+=SeccompProfile
    windowsOptions
SeccompProfile
  string: localhostProfile type!
AppArmorProfile
  string: localhostProfile type!
Capabilities
  strings: add+ drop+
Volume
  string: name!
  object: awsElasticBlockStore azureDisk azureFile cephfs cinder configMap+=ConfigMapVolumeSource csi+=CSIVolumeSource
    downwardAPI+=DownwardAPIVolumeSource emptyDir+=EmptyDirVolumeSource ephemeral fc flexVolume flocker
    gcePersistentDisk gitRepo glusterfs hostPath image iscsi nfs
    persistentVolumeClaim+=PersistentVolumeClaimVolumeSource photonPersistentDisk portworxVolume
    projected+=ProjectedVolumeSource quobyte rbd scaleIO secret+=SecretVolumeSource storageos vsphereVolume
EmptyDirVolumeSource
  string: medium+ sizeLimit#
  integer: mode
DownwardAPIVolumeSource
  integer: defaultMode! defaultUser
  objects: items+=DownwardAPIVolumeFile
DownwardAPIVolumeFile
  string: path!
  integer: mode! user
  object: fieldRef+=ObjectFieldSelector resourceFieldRef+=ResourceFieldSelector
ConfigMapVolumeSource
  string: name+
  integer: defaultMode! defaultUser
  boolean: optional!
  objects: items+=KeyToPath
KeyToPath
  string: key! path!
  integer: mode! user
SecretVolumeSource
  string: secretName+
  integer: defaultMode! defaultUser
  boolean: optional!
  objects: items+=KeyToPath
ProjectedVolumeSource
  integer: defaultMode! defaultUser
  objects: sources+=VolumeProjection
VolumeProjection
  object: clusterTrustBundle configMap+=ConfigMapProjection downwardAPI+=DownwardAPIProjection podCertificate
    secret+=SecretProjection serviceAccountToken
DownwardAPIProjection
  objects: items+=DownwardAPIVolumeFile
ConfigMapProjection
  string: name+
  boolean: optional!
  objects: items+=KeyToPath
SecretProjection
  string: name+
  boolean: optional!
  objects: items+=KeyToPath
PersistentVolumeClaimVolumeSource
  string: claimName!
  boolean: readOnly+
CSIVolumeSource
  string: driver! fsType!
  boolean: readOnly!
  map: volumeAttributes+
  object: nodePublishSecretRef=LocalObjectReference
LocalObjectReference
  string: name+
PodSecurityContext
  string: fsGroupChangePolicy seLinuxChangePolicy supplementalGroupsPolicy
  integer: fsGroup! runAsGroup! runAsUser!
  boolean: runAsNonRoot!
  object: appArmorProfile+=AppArmorProfile seLinuxOptions seccompProfile+=SeccompProfile windowsOptions
  objects: sysctls
  other: supplementalGroups
PodStatus
  string: hostIP message nominatedNodeName phase podIP qosClass reason resize
  integer: observedGeneration
  map: allocatedResources
  object: extendedResourceClaimStatus resources=ResourceRequirements
  objects: conditions containerStatuses ephemeralContainerStatuses hostIPs initContainerStatuses
    nodeAllocatableResourceClaimStatuses podIPs resourceClaimStatuses volumeHealth
  other: startTime
"""


def _read(text: str) -> dict[str, Mapping[str, FieldType]]:
    blocks = (block.splitlines() for block in re.split(r"\n(?=\S)", _CONTINUED.sub(" ", text).strip()))
    return {name: dict(field for line in lines for field in _fields(line)) for name, *lines in blocks}


def _fields(line: str) -> Iterator[tuple[str, FieldType]]:
    kind, _, words = line.strip().partition(": ")
    for word, _, model in (word.partition("=") for word in words.split()):
        name = word.rstrip("+!#")
        yield name, FieldType(kind=FieldKind(kind), model=model or None, use=Use(word[len(name) :]))


MODELS = _read(_TEXT)
"""The fields of each model, by their JSON names."""
_POLICY = replace(MODELS["Container"]["restartPolicy"], use=Use.PLAIN)
MODELS["InitContainer"] = {**MODELS["Container"], "restartPolicy": _POLICY}


Decoder = Callable[[Any, str, Reasons], Any]
"""Returns the checked value, or ``None`` if there is nothing to keep (or a reason was added)."""


def decode(document: Mapping[str, Any], reasons: Reasons) -> dict[str, Any]:
    """The allowed, well-typed part of ``document``; everything else goes into ``reasons``."""
    typed: dict[str, Any] = _pod_decoder()(document, "", reasons)
    return typed


@functools.cache
def _pod_decoder() -> Decoder:
    return _object("Pod")


def _object(model: str) -> Decoder:
    types = MODELS[model]
    decoders = {name: _field(field) for name, field in types.items() if field.use is not Use.NEVER}

    def decode_object(value: Any, path: str, reasons: Reasons) -> Any:
        if type(value) is not dict:
            reasons.add(path, f"must be an object, not {_described(value)}")
            return None
        typed = {}
        for name, item in value.items():
            if item is None and name in types:
                continue
            decoder = decoders.get(name)
            if decoder is None:
                reasons.add(below(path, name), _refusal(model, name))
                continue
            kept = decoder(item, f"{path}.{name}" if path else name, reasons)
            if kept is not None:
                typed[name] = kept
        return typed

    return decode_object


def _field(field: FieldType) -> Decoder:
    if field.model is not None:
        decoder = _object(field.model)
        return _each(decoder) if field.kind is FieldKind.OBJECTS else decoder
    if field.use is Use.QUANTITY:
        return _quantities if field.kind is FieldKind.STRING_MAP else _quantity
    decoder = _LEAVES[field.kind]
    return decoder if field.use is Use.KEPT else _unless_empty(decoder)


def _refusal(model: str, name: str) -> str:
    types = MODELS[model]
    if name in types:
        return WHY.get(f"{model.removeprefix('Init')}.{name}", "not accepted in a stack's pod")
    return unknown_field(name, types)


def _unless_empty(decoder: Decoder) -> Decoder:
    def decode_unless_empty(value: Any, path: str, reasons: Reasons) -> Any:
        return decoder(value, path, reasons) or None

    return decode_unless_empty


def _each(decoder: Decoder) -> Decoder:
    def decode_each(value: Any, path: str, reasons: Reasons) -> Any:
        if type(value) is not list:
            reasons.add(path, f"must be a list, not {_described(value)}")
            return None
        # A bad item becomes an empty object, so that the other items keep the indexes that the tenant wrote.
        return [decoder(item, f"{path}[{index}]", reasons) or {} for index, item in enumerate(value)] or None

    return decode_each


def _string(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) is not str:
        hint = "" if value is None or isinstance(value, (dict, list)) else "; put it in quotes"
        reasons.add(path, f"must be a string, not {_described(value)}{hint}")
        return None
    if "\0" in value:
        reasons.add(path, "must not contain the character NUL")
        return None
    return value


def _integer(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) is not int:
        reasons.add(path, f"must be an integer, not {_described(value)}")
        return None
    if not -(2**63) <= value < 2**63:
        reasons.add(path, "must fit into 64 bits")
        return None
    return value


def _boolean(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) is not bool:
        reasons.add(path, f"must be true or false, not {_described(value)}")
        return None
    return value


def _integer_or_string(value: Any, path: str, reasons: Reasons) -> Any:
    return _string(value, path, reasons) if type(value) is str else _integer(value, path, reasons)


def _strings(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) is not list:
        reasons.add(path, f"must be a list of strings, not {_described(value)}")
        return None
    return [_string(item, f"{path}[{index}]", reasons) for index, item in enumerate(value)]


def _string_map(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) is not dict:
        reasons.add(path, f"must be a mapping of strings, not {_described(value)}")
        return None
    return {name: _string(item, below(path, name), reasons) for name, item in value.items()}


def _quantity(value: Any, path: str, reasons: Reasons) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        reasons.add(path, f"must be a quantity, not {_described(value)}")
        return None
    try:
        return quantity.parse(value)
    except ValueError as exc:
        reasons.add(path, str(exc))
        return None


def _quantities(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) is not dict:
        reasons.add(path, f"must be a mapping of quantities, not {_described(value)}")
        return None
    return {name: _quantity(item, below(path, name), reasons) for name, item in value.items()} or None


def _described(value: object) -> str:
    """The kind of a value, without the value: it may be a secret."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


_LEAVES: Mapping[FieldKind, Decoder] = {
    FieldKind.STRING: _string,
    FieldKind.INTEGER: _integer,
    FieldKind.BOOLEAN: _boolean,
    FieldKind.INTEGER_OR_STRING: _integer_or_string,
    FieldKind.STRINGS: _strings,
    FieldKind.STRING_MAP: _string_map,
}

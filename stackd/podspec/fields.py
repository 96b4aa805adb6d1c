"""The fields of a Pod, and of the objects in it, and the walk along them from untyped data to a typed Pod of allowed fields.

Owns: all that stackd knows of Kubernetes' JSON types, the allowlist, and the forms of single values. A field that is not
accepted is refused by path, whatever its value; ``checks`` compares values with each other and with the policy. These are
the fields that the Kubernetes client's models have (release 1.37), and a test compares them. The daemon does not import
the models: it would take a third of each start, and needs only the names and types. An object that no accepted field
holds has no fields here.

``decode`` checks types and forms, leaves out empty values, and turns quantities into ``Quantity``, many times faster than
the models. The result is a new tree.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stackd import quantity
from stackd.contract import LARGEST_PORT
from stackd.names import (
    LABEL_FORM,
    PORT_NAME_FORM,
    SUBDOMAIN_FORM,
    did_you_mean,
    is_env_name,
    is_header_name,
    is_inner_path,
    is_label,
    is_port_name,
    is_subdomain,
)
from stackd.podspec.reasons import Reasons, below


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field's JSON shape and use. ``model`` names the fields of an object, or of each object in a list.

    Uses: "" is never accepted; "+" is left out when empty, as the typed encoder does; "!" is kept, even when zero or
    empty; "#" is a quantity, or a mapping of quantities. ``form`` is a key of ``FORMS``, a range, or a choice.
    """

    kind: str
    model: str
    use: str
    required: bool
    form: str


NO_HOST_NAMESPACES = "a stack may not share the node's namespaces; leave this field out"
_NO_HOST_PORT = "ports of the node are not available; publish ports with target_port"
_NO_OTHER_HOST = "a probe or hook may only connect to its own pod"
_NO_CREDENTIALS = "a stack gets no credentials of the cluster"
_NO_ACCOUNT = "a stack has no service account"
_NO_PLACEMENT = "the operator decides on which nodes stacks run; use nodeSelector to choose a kind of node among these"
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

# Each line is a model, or several with the same fields; before each colon is the kind of the fields after it. A field that
# is accepted has the sign of its use, ``*`` if it is required, and in parentheses its form; ``=`` names a field's model.
_TEXT = """
Pod = string: apiVersion! kind!; object: metadata+=ObjectMeta spec+=PodSpec status+=PodStatus
ObjectMeta = string: generateName name+(subdomain) namespace+ resourceVersion selfLink uid; integer:
    deletionGracePeriodSeconds generation; strings: finalizers; map: annotations+ labels+; objects: managedFields
    ownerReferences; other: creationTimestamp deletionTimestamp
PodSpec = string: dnsPolicy hostname+(label) hostnameOverride nodeName preemptionPolicy priorityClassName
    restartPolicy+(Never|OnFailure|Always) runtimeClassName schedulerName serviceAccount serviceAccountName subdomain;
    integer: activeDeadlineSeconds!(1-int32) priority terminationGracePeriodSeconds!(0-3600); boolean:
    automountServiceAccountToken! enableServiceLinks! hostIPC hostNetwork hostPID hostUsers! setHostnameAsFQDN
    shareProcessNamespace; map: nodeSelector+ overhead; object: affinity dnsConfig os resources=ResourceRequirements
    schedulingGroup securityContext+=PodSecurityContext; objects: containers+=Container ephemeralContainers
    evictionResponders hostAliases imagePullSecrets+=LocalObjectReference initContainers+=InitContainer readinessGates
    resourceClaims schedulingGates tolerations topologySpreadConstraints volumes+=Volume
Container = string: image+* imagePullPolicy+(Always|IfNotPresent|Never) name!*(label) restartPolicy
    terminationMessagePath+ terminationMessagePolicy+(File|FallbackToLogsOnError) workingDir+; boolean: stdin+
    stdinOnce+ tty+; strings: args+ command+; object: lifecycle+=Lifecycle livenessProbe+=Probe readinessProbe+=Probe
    resources+=ResourceRequirements securityContext+=SecurityContext startupProbe+=Probe; objects: env+=EnvVar
    envFrom+=EnvFromSource ports+=ContainerPort resizePolicy restartPolicyRules volumeDevices volumeMounts+=VolumeMount
EnvVar = string: name!*(env-name) value+; object: valueFrom+=EnvVarSource
EnvVarSource = object: configMapKeyRef+=ConfigMapKeySelector fieldRef+=ObjectFieldSelector fileKeyRef
    resourceFieldRef+=ResourceFieldSelector secretKeyRef+=SecretKeySelector
ObjectFieldSelector = string: apiVersion+(v1) fieldPath!*
ResourceFieldSelector = string: containerName+ divisor# resource!*
SecretKeySelector ConfigMapKeySelector = string: key! name+; boolean: optional!
EnvFromSource = string: prefix+(env-name); object: configMapRef+=ConfigMapEnvSource secretRef+=SecretEnvSource
ConfigMapEnvSource SecretEnvSource = string: name+; boolean: optional!
ContainerPort = string: hostIP name+(port-name) protocol+(TCP|UDP|SCTP); integer: containerPort!*(port) hostPort
ResourceRequirements = map: limits# requests#; objects: claims
Probe = integer: failureThreshold+(0-int32) initialDelaySeconds+(0-int32) periodSeconds+(0-int32)
    successThreshold+(0-int32) terminationGracePeriodSeconds!(1-int32) timeoutSeconds+(0-int32); object:
    exec+=ExecAction grpc+=GRPCAction httpGet+=HTTPGetAction tcpSocket+=TCPSocketAction
ExecAction = strings: command+*
HTTPGetAction = string: host path+ protocol scheme+(HTTP|HTTPS); integer or string: port!*(named-port); objects:
    httpHeaders+=HTTPHeader
HTTPHeader = string: name!*(header-name) value!*
TCPSocketAction = string: host; integer or string: port!*(named-port)
GRPCAction = string: mode service!; integer: port!*(port)
Lifecycle = string: stopSignal; object: postStart+=LifecycleHandler preStop+=LifecycleHandler
LifecycleHandler = object: exec+=ExecAction httpGet+=HTTPGetAction sleep+=SleepAction tcpSocket+=TCPSocketAction
SleepAction = integer: seconds!*(0-3600)
VolumeMount = string: mountPath!*(mount-path) mountPropagation name! recursiveReadOnly subPath+(inner-path) subPathExpr;
    boolean: readOnly+; strings: bindMountOptions
SecurityContext = string: procMount; integer: runAsGroup! runAsUser!; boolean: allowPrivilegeEscalation! privileged!
    readOnlyRootFilesystem! runAsNonRoot!; object: appArmorProfile+=AppArmorProfile capabilities+=Capabilities
    seLinuxOptions seccompProfile+=SeccompProfile windowsOptions
SeccompProfile AppArmorProfile = string: localhostProfile type!
Capabilities = strings: add+ drop+
Volume = string: name!*(label); object: awsElasticBlockStore azureDisk azureFile cephfs cinder
    configMap+=ConfigMapVolumeSource csi+=CSIVolumeSource downwardAPI+=DownwardAPIVolumeSource
    emptyDir+=EmptyDirVolumeSource ephemeral fc flexVolume flocker gcePersistentDisk gitRepo glusterfs hostPath image
    iscsi nfs persistentVolumeClaim+=PersistentVolumeClaimVolumeSource photonPersistentDisk portworxVolume
    projected+=ProjectedVolumeSource quobyte rbd scaleIO secret+=SecretVolumeSource storageos vsphereVolume
EmptyDirVolumeSource = string: medium+(Memory) sizeLimit#; integer: mode
DownwardAPIVolumeSource = integer: defaultMode!(mode) defaultUser; objects: items+=DownwardAPIVolumeFile
DownwardAPIVolumeFile = string: path!*(inner-path); integer: mode!(mode) user; object: fieldRef+=ObjectFieldSelector
    resourceFieldRef+=ResourceFieldSelector
ConfigMapVolumeSource = string: name+; integer: defaultMode!(mode) defaultUser; boolean: optional!; objects:
    items+=KeyToPath
KeyToPath = string: key! path!*(inner-path); integer: mode!(mode) user
SecretVolumeSource = string: secretName+; integer: defaultMode!(mode) defaultUser; boolean: optional!; objects:
    items+=KeyToPath
ProjectedVolumeSource = integer: defaultMode!(mode) defaultUser; objects: sources+=VolumeProjection
VolumeProjection = object: clusterTrustBundle configMap+=ConfigMapProjection downwardAPI+=DownwardAPIProjection
    podCertificate secret+=SecretProjection serviceAccountToken
DownwardAPIProjection = objects: items+=DownwardAPIVolumeFile
ConfigMapProjection SecretProjection = string: name+; boolean: optional!; objects: items+=KeyToPath
PersistentVolumeClaimVolumeSource = string: claimName!; boolean: readOnly+
CSIVolumeSource = string: driver! fsType!; boolean: readOnly!; map: volumeAttributes+; object:
    nodePublishSecretRef=LocalObjectReference
LocalObjectReference = string: name+
PodSecurityContext = string: fsGroupChangePolicy seLinuxChangePolicy supplementalGroupsPolicy; integer: fsGroup!
    runAsGroup! runAsUser!; boolean: runAsNonRoot!; object: appArmorProfile+=AppArmorProfile seLinuxOptions
    seccompProfile+=SeccompProfile windowsOptions; objects: sysctls; other: supplementalGroups
PodStatus = string: hostIP message nominatedNodeName phase podIP qosClass reason resize; integer: observedGeneration;
    map: allocatedResources; object: extendedResourceClaimStatus resources=ResourceRequirements; objects: conditions
    containerStatuses ephemeralContainerStatuses hostIPs initContainerStatuses nodeAllocatableResourceClaimStatuses
    podIPs resourceClaimStatuses volumeHealth; other: startTime
"""


ONE_OF: Mapping[str, str] = {
    "Probe": "exec, httpGet, tcpSocket, grpc",
    "LifecycleHandler": "exec, httpGet, tcpSocket, sleep",
    "EnvVarSource": "fieldRef, resourceFieldRef, secretKeyRef, configMapKeyRef",
    "EnvFromSource": "configMapRef, secretRef",
    "Volume": "emptyDir, downwardAPI, projected, configMap, secret, persistentVolumeClaim, csi",
    "VolumeProjection": "downwardAPI, configMap, secret",
    "DownwardAPIVolumeFile": "fieldRef, resourceFieldRef",
}
"""The fields of which an object must have exactly one."""

LARGEST_INT32 = 2**31 - 1
Form = tuple[Callable[[Any], bool], str]
"""A test for a value, and the text for a value that fails it."""
_PORT: Form = lambda number: 1 <= number <= LARGEST_PORT, f"must be from 1 to {LARGEST_PORT}"
FORMS: Mapping[str, Form] = {
    "env-name": (is_env_name, 'must be letters, digits, "_", "-" and ".", and not begin with a digit'),
    "header-name": (is_header_name, 'must be letters, digits, "-" and "_"'),
    "inner-path": (is_inner_path, 'must be a relative path without ".."'),
    "label": (is_label, f"must be {LABEL_FORM}"),
    "mode": (lambda mode: 0 <= mode <= 0o777, "must be from 0 to 0777 (octal)"),
    "mount-path": (
        lambda path: path.startswith("/") and ":" not in path and ".." not in path.split("/"),
        'must be an absolute path without ":" and ".."',
    ),
    "named-port": (
        lambda port: is_port_name(port) if isinstance(port, str) else _PORT[0](port),
        f"must be a number from 1 to {LARGEST_PORT}, or a port's name ({PORT_NAME_FORM})",
    ),
    "port": _PORT,
    "port-name": (is_port_name, f"must be {PORT_NAME_FORM}"),
    "subdomain": (is_subdomain, f"must be {SUBDOMAIN_FORM}"),
}
"""The forms of values that have a name in the table."""
_RANGE = re.compile(r"([0-9]+)-([0-9]+|int32)\Z")
_WORD = re.compile(r"(?P<name>\w+)(?P<use>[+!#]?)(?P<required>\*?)(?:\((?P<form>[^)]+)\))?(?:=(?P<model>\w+))?")


def _read(text: str) -> Iterator[tuple[str, Mapping[str, Field]]]:
    for line in re.split(r"\n(?=\S)", text.strip()):
        names, _, groups = line.partition(" = ")
        fields = dict(field for group in groups.split(";") for field in _fields(group))
        yield from ((name, fields) for name in names.split())


def _fields(group: str) -> Iterator[tuple[str, Field]]:
    kind, _, words = group.strip().partition(":")
    for word in _WORD.finditer(words):
        name, use, required, form, model = (part or "" for part in word.groups())
        yield name, Field(kind=kind, model=model, use=use, required=bool(required), form=form)


def _form(text: str) -> Form:
    """The form that a field has in the table."""
    if text in FORMS:
        return FORMS[text]
    if match := _RANGE.match(text):
        least, most = int(match[1]), LARGEST_INT32 if match[2] == "int32" else int(match[2])
        return lambda value: least <= value <= most, f"must be from {least} to {most}"
    choices = text.split("|")
    described = choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    return lambda value: value in choices, f"must be {described}"


MODELS = dict(_read(_TEXT))
"""The fields of each model, by their JSON names."""
MODELS["InitContainer"] = {**MODELS["Container"], **dict(_fields("string: restartPolicy+(Always)"))}

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
    fields = MODELS[model]
    decoders = {name: _decoder(field) for name, field in fields.items() if field.use}
    required = [name for name, field in fields.items() if field.required]
    one_of = ONE_OF.get(model, "").split(", ")

    def decode_object(value: Any, path: str, reasons: Reasons) -> Any:
        if not _is(dict, "an object", value, path, reasons):
            return None
        typed = {}
        for name, item in value.items():
            if item is None and name in fields:
                continue
            decoder = decoders.get(name)
            if decoder is not None:
                kept = decoder(item, f"{path}.{name}" if path else name, reasons)
                if kept is not None:
                    typed[name] = kept
            elif name in fields:
                why = WHY.get(f"{model.removeprefix('Init')}.{name}", "not accepted in a stack's pod")
                reasons.add(below(path, name), why)
            else:
                reasons.add(below(path, name), "unknown field" + did_you_mean(name, fields))
        for name in required:
            if name not in typed:
                reasons.missing(f"{path}.{name}", "is required")
        if model in ONE_OF and sum(name in typed for name in one_of) != 1:
            reasons.missing(path, f"must have exactly one of {ONE_OF[model]}")
        return typed

    return decode_object


def _decoder(field: Field) -> Decoder:
    if field.model:
        return _objects(_object(field.model)) if field.kind == "objects" else _object(field.model)
    decoder = _QUANTITIES[field.kind] if field.use == "#" else _LEAVES[field.kind]
    fits, why = _form(field.form) if field.form else (None, "")

    def decode_leaf(value: Any, path: str, reasons: Reasons) -> Any:
        kept = decoder(value, path, reasons)
        if field.use != "!" and not kept:
            return None
        if fits is not None and kept is not None and not fits(kept):
            reasons.add(path, why)
        return kept

    return decode_leaf


def _objects(decoder: Decoder) -> Decoder:
    def decode_objects(value: Any, path: str, reasons: Reasons) -> Any:
        if not _is(list, "a list", value, path, reasons):
            return None
        # A bad item becomes an empty object, so that the other items keep the indexes that the tenant wrote.
        return [decoder(item, f"{path}[{index}]", reasons) or {} for index, item in enumerate(value)] or None

    return decode_objects


def _is(kind: type, expected: str, value: Any, path: str, reasons: Reasons) -> bool:
    """Whether the value has exactly this type; else report it, without the value: it may be a secret."""
    if type(value) is kind:
        return True
    hint = "; put it in quotes" if expected == "a string" and isinstance(value, (int, float)) else ""
    reasons.add(path, f"must be {expected}, not {_KINDS.get(type(value), 'an object')}{hint}")
    return False


def _leaf(kind: type, expected: str, fits: Callable[[Any], bool] | None = None, why: str = "") -> Decoder:
    def decode_typed(value: Any, path: str, reasons: Reasons) -> Any:
        if not _is(kind, expected, value, path, reasons):
            return None
        if fits is None or fits(value):
            return value
        reasons.add(path, why)
        return None

    return decode_typed


_string = _leaf(str, "a string", lambda text: "\0" not in text, "must not contain the character NUL")
_integer = _leaf(int, "an integer", lambda number: -(2**63) <= number < 2**63, "must fit into 64 bits")
_boolean = _leaf(bool, "true or false")


def _integer_or_string(value: Any, path: str, reasons: Reasons) -> Any:
    return (_string if type(value) is str else _integer)(value, path, reasons)


def _strings(value: Any, path: str, reasons: Reasons) -> Any:
    if not _is(list, "a list of strings", value, path, reasons):
        return None
    return [_string(item, f"{path}[{index}]", reasons) for index, item in enumerate(value)]


def _mapping(of: str, decoder: Decoder) -> Decoder:
    def decode_mapping(value: Any, path: str, reasons: Reasons) -> Any:
        if not _is(dict, f"a mapping of {of}", value, path, reasons):
            return None
        return {name: decoder(item, below(path, name), reasons) for name, item in value.items()}

    return decode_mapping


def _quantity(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) not in (int, float) and not _is(str, "a quantity", value, path, reasons):
        return None
    try:
        return quantity.parse(value)
    except ValueError as exc:
        reasons.add(path, str(exc))
        return None


_KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
}
_LEAVES: Mapping[str, Decoder] = {
    "string": _string,
    "integer": _integer,
    "boolean": _boolean,
    "integer or string": _integer_or_string,
    "strings": _strings,
    "map": _mapping("strings", _string),
}
_QUANTITIES: Mapping[str, Decoder] = {"string": _quantity, "map": _mapping("quantities", _quantity)}

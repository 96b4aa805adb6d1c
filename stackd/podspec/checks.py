"""What the values of a pod's fields may be beside each other, and under the operator's policy.

Owns the checks of labels and annotations, containers, volumes, and references to other objects. ``fields`` refuses the
fields that are never accepted, and values that no policy accepts; ``resources`` checks amounts, ``sanitize`` security
contexts.

Annotations are instructions to runtimes, networks and controllers, so a tenant may use only those that the operator
allows. An annotation needs no prefix to have an effect: ``io.katacontainers.config_path`` and ``cpu-quota.crio.io``
have none. A tenant may choose any label, except those that something in the cluster acts on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stackd.contract import BARE_KEY_FORM
from stackd.model import TargetPort
from stackd.names import SUBDOMAIN_FORM, is_bare_key, is_key, is_label_value, is_subdomain, matches_any
from stackd.podspec.fields import NO_HOST_NAMESPACES
from stackd.podspec.images import image_refusal
from stackd.podspec.policy import Policy, is_reserved
from stackd.podspec.reasons import Reasons, below

Json = Mapping[str, Any]

_MOST_ANNOTATION_BYTES = 64 * 1024
_MOST_LABELS = 32
_CONFINING = (
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
)
_ACTED_ON = frozenset(
    ["controller-revision-hash", "controller-uid", "job-name", "pod-template-generation", "pod-template-hash"]
)
_ACTED_ON_FAMILIES = ("io.kubernetes.", "io.cilium.")
"""Names without a prefix that kubelets use to instruct runtimes, and networks to instruct their agents."""

_OF_ANY_NODE = frozenset({"kubernetes.io/arch", "kubernetes.io/os"})
_KUBERNETES = (".kubernetes.io", ".k8s.io")
_OF_ONE_NODE = frozenset({"hostname", "instance-id"})

_VOLUME_FIELDS = frozenset(f"metadata.{field}" for field in ("name", "namespace", "uid", "labels", "annotations"))
_OWN = "spec.nodeName spec.serviceAccountName status.hostIP status.hostIPs status.podIP status.podIPs"
_ENV_FIELDS = frozenset({"metadata.name", "metadata.namespace", "metadata.uid", *_OWN.split()})
_SUBSCRIPT = re.compile(r"metadata\.(?:labels|annotations)\['([^']+)'\]\Z")
_RESOURCES = re.compile(r"(?:limits|requests)\.(cpu|memory|ephemeral-storage)\Z")
_NANOS_OF_CPU = frozenset({0, 10**6, 10**9})
_UNITS = frozenset({0, *(1000**power for power in range(7)), *(1024**power for power in range(7))})
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_GRANTS = {
    "configMap": ("config_maps", "name"),
    "configMapKeyRef": ("config_maps", "name"),
    "configMapRef": ("config_maps", "name"),
    "persistentVolumeClaim": ("volume_claims", "claimName"),
    "secret": ("secrets", "secretName"),
    "secretKeyRef": ("secrets", "name"),
    "secretRef": ("secrets", "name"),
}
"""What refers to an object of the namespace: the policy's key for it, and the field with the object's name."""


def by_path(spec: Json) -> dict[str, dict[str, Any]]:
    """All containers of the pod by their paths, init containers last."""
    return dict(pair for kind in ("containers", "initContainers") for pair in _items(spec, kind, "spec"))


def keeps_running(path: str, container: Json) -> bool:
    """Whether the container runs beside the others: a regular one, or a sidecar (an init container that restarts)."""
    return path.startswith("spec.containers[") or container.get("restartPolicy") == "Always"


def is_of_the_cluster(key: str) -> bool:
    """Whether a node's label says which node it is, or where: those are Kubernetes', storage drivers' and clouds'.

    By the others, which the operator sets, a pod spec chooses a kind of node; it needs to know what its images run on, too.
    """
    prefix, _, name = key.rpartition("/")
    of_kubernetes = f".{prefix}".endswith(_KUBERNETES) and key not in _OF_ANY_NODE
    return of_kubernetes or prefix.startswith("topology.") or name in _OF_ONE_NODE


def _items(owner: Json, field: str, path: str) -> Iterator[tuple[str, Any]]:
    for index, item in enumerate(owner.get(field, ())):
        yield f"{path}.{field}[{index}]", item


class Checks:
    """Adds to ``reasons`` what is wrong with a pod under one policy."""

    def __init__(self, policy: Policy, reasons: Reasons) -> None:
        self._policy = policy
        self._add = reasons.add
        self._missing = reasons.missing

    def pod(self, pod: Json) -> None:
        """Check everything but resources and security contexts; write divisors in canonical form."""
        if pod.get("apiVersion") != "v1":
            self._missing("apiVersion", "must be v1")
        if pod.get("kind", "").lower() != "pod":
            self._missing("kind", "must be Pod")
        if "spec" not in pod:
            self._missing("spec", "is required")
        metadata, spec = pod.get("metadata", {}), pod.get("spec", {})
        self._labels(metadata.get("labels", {}))
        self._annotations(metadata.get("annotations", {}))
        if spec.get("hostUsers", False):
            self._add("spec.hostUsers", NO_HOST_NAMESPACES)
        for key, value in spec.get("nodeSelector", {}).items():
            why = "" if is_key(key) else "is not a valid label key"
            if not why and is_of_the_cluster(key):
                why = self._not_named("node_labels", key)
            self._label("spec.nodeSelector", key, value, why)
        for path, reference in _items(spec, "imagePullSecrets", "spec"):
            self._granted("pull_secrets", reference.get("name", ""), path)
        self._containers(spec)
        self._volumes(spec)

    def target_ports(self, targets: Iterable[TargetPort], spec: Json) -> None:
        """Report each target port that no container that keeps running declares."""
        running = {path: container for path, container in by_path(spec).items() if keeps_running(path, container)}
        declared = {
            (port.get("containerPort"), port.get("protocol", "TCP"))
            for container in running.values()
            for port in container.get("ports", ())
        }
        for index, target in enumerate(targets):
            if (target.container_port, target.protocol) not in declared:
                text = f"no container of the pod spec has the port {target.container_port}/{target.protocol}"
                self._missing(f"target_port[{index}]", text, *(f"{path}.ports" for path in running))

    def _unique(self, owner: Json, field: str, path: str, seen: set[Any], text: str) -> None:
        """Report the value of the field if it is among those seen before; add it to them."""
        value = owner.get(field)
        if value is not None and value in seen:
            self._add(f"{path}.{field}", text)
        seen.add(value)

    def _granted(self, key: str, name: str, path: str) -> None:
        """Report a reference to an object that the operator has not granted under ``policy.<key>``."""
        why = self._not_named(key, name)
        if getattr(self._policy, key) and not is_subdomain(name):
            why = f"must be a name of {SUBDOMAIN_FORM}"
        if why:
            self._add(path, why)

    def _not_named(self, key: str, name: str) -> str:
        """Why the patterns under ``policy.<key>`` do not allow this name; empty if they do."""
        patterns = getattr(self._policy, key)
        if not patterns:
            return f"not accepted, unless policy.{key} allows it"
        return "" if matches_any(patterns, name) else f"only what policy.{key} names may be used"

    # ---- labels and annotations

    def _labels(self, labels: Mapping[str, str | None]) -> None:
        if len(labels) > _MOST_LABELS:
            self._add("metadata.labels", f"at most {_MOST_LABELS} labels are accepted")
        for key, value in labels.items():
            why = ""
            if "/" in key:
                why = "keys with a prefix belong to the cluster and the operator; use a key without one"
            elif not is_bare_key(key):
                why = f"is not a valid key: {BARE_KEY_FORM}"
            elif key in _ACTED_ON or key.startswith(_ACTED_ON_FAMILIES):
                why = "controllers in the cluster act on this label; use another key"
            self._label("metadata.labels", key, value, why)

    def _label(self, path: str, key: str, value: str | None, why: str) -> None:
        if not why and value is not None and not is_label_value(value):
            why = f"must be {BARE_KEY_FORM}"
        if why:
            self._add(below(path, key), why)

    def _annotations(self, annotations: Mapping[str, str | None]) -> None:
        for key in annotations:
            if not is_key(key):
                why = f"is not a valid key: {BARE_KEY_FORM}"
            elif is_reserved(key):
                why = "is reserved for stackd"
            elif key.startswith(_CONFINING):
                why = "stackd sets how a pod is confined; leave it out"
            else:
                why = self._not_named("allow_annotations", key)
            if why:
                self._add(below("metadata.annotations", key), why)
        size = sum(len(key.encode()) + len((value or "").encode()) for key, value in annotations.items())
        if size > _MOST_ANNOTATION_BYTES:
            self._add("metadata.annotations", f"must be at most {_MOST_ANNOTATION_BYTES} bytes in all")

    # ---- containers

    def _containers(self, spec: Json) -> None:
        containers = by_path(spec)
        if not spec.get("containers"):
            self._missing("spec.containers", "at least one container is required")
        if len(containers) > (most := self._policy.max_containers):
            text = f"{len(containers)} containers; at most {most} allowed (policy.max_containers)"
            self._add("spec.containers", text)
        volumes = {volume.get("name") for volume in spec.get("volumes", ())}
        names: set[Any] = set()
        for path, container in containers.items():
            self._unique(container, "name", path, names, "is also the name of another container")
            self._container(container, path)
            paths: set[Any] = set()
            for here, mount in _items(container, "volumeMounts", path):
                if mount.get("name") not in volumes:
                    self._missing(f"{here}.name", "no volume has this name", f"{here}.name", "spec.volumes")
                self._unique(mount, "mountPath", here, paths, "is used twice in this container")

    def _container(self, container: Json, path: str) -> None:
        if "image" in container and (why := image_refusal(container["image"], self._policy)):
            self._add(f"{path}.image", why)
        self._ports(container, path)
        for here, variable in _items(container, "env", path):
            if "value" in variable and "valueFrom" in variable:
                self._add(f"{here}.valueFrom", "must not be given together with value")
            self._references(variable.get("valueFrom", {}), f"{here}.valueFrom", _ENV_FIELDS)
        for here, source in _items(container, "envFrom", path):
            self._references(source, here, _ENV_FIELDS)
        if not keeps_running(path, container):
            for field in {*_PROBES, "lifecycle"} & container.keys():
                self._add(f"{path}.{field}", "requires restartPolicy: Always in an init container")
        for kind in _PROBES:
            probe = container.get(kind, {})
            if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
                self._add(f"{path}.{kind}.successThreshold", f"must be 1 in a {kind}")
            if kind == "readinessProbe" and "terminationGracePeriodSeconds" in probe:
                self._add(f"{path}.{kind}.terminationGracePeriodSeconds", f"is not possible in a {kind}")

    def _ports(self, container: Json, path: str) -> None:
        names: set[Any] = set()
        numbers = set()
        for here, port in _items(container, "ports", path):
            self._unique(port, "name", here, names, "is used twice in this container")
            number, protocol = port.get("containerPort"), port.get("protocol", "TCP")
            if (number, protocol) in numbers:
                self._add(f"{here}.containerPort", f"{number}/{protocol} is listed twice in this container")
            numbers.add((number, protocol))

    # ---- volumes

    def _volumes(self, spec: Json) -> None:
        names: set[Any] = set()
        count = len(spec.get("volumes", ()))
        if count > (most := self._policy.max_volumes):
            self._add("spec.volumes", f"{count} volumes; at most {most} allowed (policy.max_volumes)")
        for path, volume in _items(spec, "volumes", "spec"):
            self._unique(volume, "name", path, names, "is also the name of another volume")
            self._files(volume, path)
            self._empty_dir(volume.get("emptyDir", {}), f"{path}.emptyDir")
            for here, part in _items(volume.get("projected", {}), "sources", f"{path}.projected"):
                self._files(part, here)
            if "csi" in volume:
                self._csi(volume["csi"], f"{path}.csi")

    def _empty_dir(self, source: Json, path: str) -> None:
        limit = source.get("sizeLimit")
        if source.get("medium") == "Memory" and not self._policy.empty_dir_memory:
            self._add(f"{path}.medium", "not accepted, unless policy.empty_dir_memory allows it")
        if limit is None:
            return
        if limit.nanos <= 0:
            self._add(f"{path}.sizeLimit", "must be more than zero")
        elif (most := self._policy.amount("empty_dir_size")) and limit.value > most.value:
            self._add(f"{path}.sizeLimit", f"more than {most} (policy.empty_dir_size)")

    def _csi(self, source: Json, path: str) -> None:
        if why := self._not_named("csi_drivers", source.get("driver", "")):
            self._missing(f"{path}.driver" if self._policy.csi_drivers else path, why)
        for key in source.get("volumeAttributes", ()):
            if not is_key(key):
                self._add(below(f"{path}.volumeAttributes", key), "is not a valid key")

    def _files(self, owner: Json, path: str) -> None:
        """Check the sources of files: references to objects, and the pod's own fields."""
        self._references(owner, path, _VOLUME_FIELDS)
        for kind in ("configMap", "secret"):
            for here, item in _items(owner.get(kind, {}), "items", f"{path}.{kind}"):
                if not item.get("key"):
                    self._missing(f"{here}.key", "is required")
        for here, item in _items(owner.get("downwardAPI", {}), "items", f"{path}.downwardAPI"):
            if "resourceFieldRef" in item and "containerName" not in item["resourceFieldRef"]:
                self._missing(f"{here}.resourceFieldRef.containerName", "is required in a volume")
            self._references(item, here, _VOLUME_FIELDS)

    # ---- references to other objects, and to the pod's own fields

    def _references(self, owner: Json, path: str, fields: frozenset[str]) -> None:
        """Check all references among the owner's fields; those to the pod itself may name one of ``fields``."""
        for kind in _GRANTS.keys() & owner.keys():
            key, field = _GRANTS[kind]
            reference = owner[kind]
            self._granted(key, reference.get(field) or reference.get("name", ""), f"{path}.{kind}")
            if kind.endswith("KeyRef") and not reference.get("key"):
                self._missing(f"{path}.{kind}.key", "is required", f"{path}.{kind}")
        if "fieldRef" in owner:
            field = owner["fieldRef"].get("fieldPath")
            if (
                field is not None
                and field not in fields
                and not ((name := _SUBSCRIPT.match(field)) and is_key(name.group(1)))
            ):
                text = f"must be one of {', '.join(sorted(fields))}, or a label or annotation"
                self._add(f"{path}.fieldRef.fieldPath", text)
        if "resourceFieldRef" in owner:
            self._resource_reference(owner["resourceFieldRef"], f"{path}.resourceFieldRef")

    def _resource_reference(self, reference: dict[str, Any], path: str) -> None:
        match = _RESOURCES.match(reference.get("resource", ""))
        divisor = reference.get("divisor")
        if "resource" in reference and match is None:
            self._add(f"{path}.resource", "must be limits or requests of cpu, memory or ephemeral-storage")
        elif match is not None and divisor is not None:
            if match.group(1) == "cpu" and divisor.nanos not in _NANOS_OF_CPU:
                self._add(f"{path}.divisor", "must be 1m or 1")
            elif match.group(1) != "cpu" and (divisor.nanos % 10**9 or divisor.value not in _UNITS):
                self._add(f"{path}.divisor", "must be 1, or 1 of a suffix such as 1k or 1Mi")
        # A missing divisor becomes 0, as the typed encoder writes it.
        reference["divisor"] = "0" if divisor is None else str(divisor)

"""What the values of accepted fields must look like: the API server's rules and the operator's policy.

Owns the checks of the pod, its labels and annotations, its volumes and its containers. ``fields`` refuses the fields
that are never accepted, ``resources`` checks amounts, ``sanitize`` security contexts.

Annotations are instructions to runtimes, networks and controllers, so a tenant may use only those that the operator
allows. An annotation needs no prefix to have an effect: ``io.katacontainers.config_path`` and ``cpu-quota.crio.io``
have none. A tenant may choose any label, except those that something in the cluster acts on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from stackd.contract import LARGEST_PORT
from stackd.model import TargetPort
from stackd.names import (
    BARE_KEY_FORM,
    LABEL_FORM,
    PORT_NAME_FORM,
    SUBDOMAIN_FORM,
    is_bare_key,
    is_env_name,
    is_header_name,
    is_inner_path,
    is_key,
    is_label,
    is_label_value,
    is_port_name,
    is_subdomain,
    matches_any,
)
from stackd.podspec.fields import NO_HOST_NAMESPACES
from stackd.podspec.images import image_refusal
from stackd.podspec.policy import RESTART_POLICIES, Policy, is_reserved
from stackd.podspec.reasons import Reasons, below

Json = Mapping[str, Any]
_Form = tuple[Callable[[Any], bool], str]
"""A test for a value, and the text for a value that fails it."""

LARGEST_INT32 = 2**31 - 1
LONGEST_GRACE = 3600
_LONGEST_SLEEP = 3600
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

_VOLUME_FIELDS = frozenset(f"metadata.{field}" for field in ("name", "namespace", "uid", "labels", "annotations"))
_OWN = "spec.nodeName spec.serviceAccountName status.hostIP status.hostIPs status.podIP status.podIPs"
_ENV_FIELDS = frozenset({"metadata.name", "metadata.namespace", "metadata.uid", *_OWN.split()})
_SUBSCRIPT = re.compile(r"metadata\.(?:labels|annotations)\['([^']+)'\]\Z")
_RESOURCES = re.compile(r"(?:limits|requests)\.(cpu|memory|ephemeral-storage)\Z")
_NANOS_OF_CPU = frozenset({0, 10**6, 10**9})
_UNITS = frozenset({0, *(1000**power for power in range(7)), *(1024**power for power in range(7))})
_CHOICES = {
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "terminationMessagePolicy": ("File", "FallbackToLogsOnError"),
}
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_PROBE_NUMBERS = ("failureThreshold", "initialDelaySeconds", "periodSeconds", "successThreshold", "timeoutSeconds")

_LABEL: _Form = is_label, f"must be {LABEL_FORM}"
_LABEL_VALUE: _Form = is_label_value, f"must be {BARE_KEY_FORM}"
_PORT: _Form = lambda number: 1 <= number <= LARGEST_PORT, f"must be from 1 to {LARGEST_PORT}"
_PORT_NAME: _Form = is_port_name, f"must be {PORT_NAME_FORM}"
_NAMED_PORT: _Form = is_port_name, f"must be a number, or a port's name ({PORT_NAME_FORM})"
_ENV_NAME: _Form = is_env_name, 'must be letters, digits, "_", "-" and ".", and not begin with a digit'
_MODE: _Form = lambda mode: 0 <= mode <= 0o777, "must be from 0 to 0777 (octal)"
_INNER_PATH: _Form = is_inner_path, 'must be a relative path without ".."'
_MOUNT_PATH: _Form = (
    lambda path: path.startswith("/") and ":" not in path and ".." not in path.split("/"),
    'must be an absolute path without ":" and ".."',
)


def by_path(spec: Json) -> dict[str, dict[str, Any]]:
    """All containers of the pod by their paths, init containers last."""
    return dict(pair for kind in ("containers", "initContainers") for pair in _items(spec, kind, "spec"))


def keeps_running(path: str, container: Json) -> bool:
    """Whether the container runs beside the others: a regular one, or a sidecar (an init container that restarts)."""
    return path.startswith("spec.containers[") or container.get("restartPolicy") == "Always"


def _items(owner: Json, field: str, path: str) -> Iterator[tuple[str, Any]]:
    """The items of a list with their paths."""
    for index, item in enumerate(owner.get(field, ())):
        yield f"{path}.{field}[{index}]", item


class Checks:
    """Adds to ``reasons`` what is wrong with a pod under one policy."""

    def __init__(self, policy: Policy, reasons: Reasons) -> None:
        self._policy = policy
        self._reasons = reasons
        self._add = reasons.add
        self._missing = reasons.missing

    def pod(self, pod: Json) -> None:
        """Check everything but resources and security contexts."""
        if pod.get("apiVersion") != "v1":
            self._missing("apiVersion", "must be v1")
        if pod.get("kind", "").lower() != "pod":
            self._missing("kind", "must be Pod")
        if "spec" not in pod:
            self._missing("spec", "is required")
        metadata, spec = pod.get("metadata", {}), pod.get("spec", {})
        self._field(metadata, "name", "metadata", (is_subdomain, f"must be {SUBDOMAIN_FORM}"), required=False)
        self._labels(metadata.get("labels", {}))
        self._annotations(metadata.get("annotations", {}))
        self._settings(spec)
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

    def _field(self, owner: Json, name: str, path: str, form: _Form, *, required: bool = True) -> bool:
        """Whether the field has this form; else report it, and a ``required`` field if it is missing."""
        value, here = owner.get(name), f"{path}.{name}"
        if value is None:
            if required:
                self._missing(here, "is required")
        elif form[0](value):
            return True
        else:
            self._add(here, form[1])
        return False

    def _not_empty(self, owner: Json, name: str, path: str, *scopes: str) -> None:
        if not owner.get(name):
            self._missing(f"{path}.{name}", "is required", *scopes)

    def _choice(self, owner: Json, name: str, path: str, allowed: tuple[str, ...]) -> None:
        self._field(
            owner, name, path, (lambda value: value in allowed, f"must be one of {', '.join(allowed)}"), required=False
        )

    def _range(self, owner: Json, name: str, path: str, least: int, most: int) -> None:
        self._field(
            owner, name, path, (lambda value: least <= value <= most, f"must be from {least} to {most}"), required=False
        )

    def _granted(self, name: str, key: str, path: str) -> None:
        """Report a reference to something that the operator has not granted under ``policy.<key>``."""
        patterns = getattr(self._policy, key)
        if not patterns:
            self._add(path, f"not accepted, unless policy.{key} allows it")
        elif not is_subdomain(name):
            self._add(path, f"must be a name of {SUBDOMAIN_FORM}")
        elif not matches_any(patterns, name):
            self._add(path, f"only what policy.{key} names may be used")

    # ---- the pod

    def _labels(self, labels: Mapping[str, str | None]) -> None:
        if len(labels) > _MOST_LABELS:
            self._add("metadata.labels", f"at most {_MOST_LABELS} labels are accepted")
        for key, value in labels.items():
            path = below("metadata.labels", key)
            if "/" in key:
                self._add(path, "keys with a prefix belong to the cluster and the operator; use a key without one")
            elif not is_bare_key(key):
                self._add(path, f"is not a valid key: {BARE_KEY_FORM}")
            elif key in _ACTED_ON or key.startswith(_ACTED_ON_FAMILIES):
                self._add(path, "controllers in the cluster act on this label; use another key")
            if value is not None and not is_label_value(value):
                self._add(path, _LABEL_VALUE[1])

    def _annotations(self, annotations: Mapping[str, str | None]) -> None:
        for key in annotations:
            if why := self._annotation_refusal(key):
                self._add(below("metadata.annotations", key), why)
        size = sum(len(key.encode()) + len((value or "").encode()) for key, value in annotations.items())
        if size > _MOST_ANNOTATION_BYTES:
            self._add("metadata.annotations", f"must be at most {_MOST_ANNOTATION_BYTES} bytes in all")

    def _annotation_refusal(self, key: str) -> str:
        if not is_key(key):
            return f"is not a valid key: {BARE_KEY_FORM}"
        if is_reserved(key):
            return "is reserved for stackd"
        if key.startswith(_CONFINING):
            return "stackd sets how a pod is confined; leave it out"
        allowed = self._policy.allow_annotations
        if matches_any(allowed, key):
            return ""
        if allowed:
            return "only what policy.allow_annotations names may be used"
        return "not accepted, unless policy.allow_annotations allows it"

    def _settings(self, spec: Json) -> None:
        self._field(spec, "hostname", "spec", _LABEL, required=False)
        self._range(spec, "terminationGracePeriodSeconds", "spec", 0, LONGEST_GRACE)
        self._range(spec, "activeDeadlineSeconds", "spec", 1, LARGEST_INT32)
        self._choice(spec, "restartPolicy", "spec", RESTART_POLICIES)
        if spec.get("hostUsers", False):
            self._add("spec.hostUsers", NO_HOST_NAMESPACES)
        for key, value in spec.get("nodeSelector", {}).items():
            if not is_key(key):
                self._add(below("spec.nodeSelector", key), "is not a valid label key")
            elif value is not None and not is_label_value(value):
                self._add(below("spec.nodeSelector", key), _LABEL_VALUE[1])
        for path, reference in _items(spec, "imagePullSecrets", "spec"):
            self._granted(reference.get("name", ""), "pull_secrets", path)

    # ---- containers

    def _containers(self, spec: Json) -> None:
        containers = by_path(spec)
        if not spec.get("containers"):
            self._missing("spec.containers", "at least one container is required")
        if len(containers) > (most := self._policy.max_containers):
            text = f"{len(containers)} containers; at most {most} allowed (policy.max_containers)"
            self._add("spec.containers", text)
        volumes = {volume.get("name") for volume in spec.get("volumes", ())}
        first_use: dict[str, str] = {}
        for path, container in containers.items():
            if self._field(container, "name", path, _LABEL):
                first = first_use.setdefault(container["name"], path)
                if first != path:
                    self._add(f"{path}.name", f"is also the name of {first}")
            self._container(container, path)
            self._mounts(container, path, volumes)

    def _container(self, container: Json, path: str) -> None:
        image = container.get("image")
        if image is None:
            self._missing(f"{path}.image", "is required")
        elif why := image_refusal(image, self._policy):
            self._add(f"{path}.image", why)
        for field, allowed in _CHOICES.items():
            self._choice(container, field, path, allowed)
        self._ports(container, path)
        self._env(container, path)
        self._env_from(container, path)
        if path.startswith("spec.init"):
            self._choice(container, "restartPolicy", path, ("Always",))
            if not keeps_running(path, container):
                for field in (*_PROBES, "lifecycle"):
                    if field in container:
                        self._add(f"{path}.{field}", "requires restartPolicy: Always in an init container")
        for kind in _PROBES:
            if kind in container:
                self._probe(container[kind], kind, f"{path}.{kind}")
        for name, hook in container.get("lifecycle", {}).items():
            here = f"{path}.lifecycle.{name}"
            self._handler(hook, ("exec", "httpGet", "tcpSocket", "sleep"), here)
            if "sleep" in hook and hook["sleep"].get("seconds") is None:
                self._missing(f"{here}.sleep.seconds", "is required", f"{here}.sleep")
            self._range(hook.get("sleep", {}), "seconds", f"{here}.sleep", 0, _LONGEST_SLEEP)

    def _ports(self, container: Json, path: str) -> None:
        names, numbers = set(), set()
        for here, port in _items(container, "ports", path):
            number, name, protocol = port.get("containerPort"), port.get("name"), port.get("protocol", "TCP")
            if self._field(port, "containerPort", here, _PORT) and (number, protocol) in numbers:
                self._add(f"{here}.containerPort", f"{number}/{protocol} is listed twice in this container")
            numbers.add((number, protocol))
            self._choice(port, "protocol", here, ("TCP", "UDP", "SCTP"))
            if self._field(port, "name", here, _PORT_NAME, required=False) and name in names:
                self._add(f"{here}.name", "is used twice in this container")
            names.add(name)

    def _env(self, container: Json, path: str) -> None:
        for here, variable in _items(container, "env", path):
            self._field(variable, "name", here, _ENV_NAME)
            if "valueFrom" in variable:
                if "value" in variable:
                    self._add(f"{here}.valueFrom", "must not be given together with value")
                self._env_source(variable["valueFrom"], f"{here}.valueFrom")

    def _env_source(self, source: Json, path: str) -> None:
        kinds = [kind for kind in ("fieldRef", "resourceFieldRef", "secretKeyRef", "configMapKeyRef") if kind in source]
        if len(kinds) != 1:
            self._missing(path, "must have exactly one source")
            return
        reference, here = source[kinds[0]], f"{path}.{kinds[0]}"
        if kinds[0] == "fieldRef":
            self._field_ref(reference, here, _ENV_FIELDS)
        elif kinds[0] == "resourceFieldRef":
            self._resource_ref(reference, here)
        else:
            self._granted(reference.get("name", ""), "secrets" if kinds[0] == "secretKeyRef" else "config_maps", here)
            self._not_empty(reference, "key", here, here)

    def _env_from(self, container: Json, path: str) -> None:
        for here, source in _items(container, "envFrom", path):
            references = {"configMapRef": "config_maps", "secretRef": "secrets"}
            kinds = [kind for kind in references if kind in source]
            if len(kinds) != 1:
                self._missing(here, "must have either configMapRef or secretRef")
            for kind in kinds:
                self._granted(source[kind].get("name", ""), references[kind], f"{here}.{kind}")
            if not is_env_name(source.get("prefix", "_")):
                self._add(f"{here}.prefix", "must be a valid start of a variable's name")

    def _mounts(self, container: Json, path: str, volumes: set[Any]) -> None:
        seen = set()
        for here, mount in _items(container, "volumeMounts", path):
            if mount.get("name") not in volumes:
                self._missing(f"{here}.name", "no volume has this name", f"{here}.name", "spec.volumes")
            target = mount.get("mountPath")
            if self._field(mount, "mountPath", here, _MOUNT_PATH) and target in seen:
                self._add(f"{here}.mountPath", "is used twice in this container")
            seen.add(target)
            self._field(mount, "subPath", here, _INNER_PATH, required=False)

    def _probe(self, probe: Json, kind: str, path: str) -> None:
        self._handler(probe, ("exec", "httpGet", "tcpSocket", "grpc"), path)
        for field in _PROBE_NUMBERS:
            self._range(probe, field, path, 0, LARGEST_INT32)
        if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
            self._add(f"{path}.successThreshold", f"must be 1 in a {kind}")
        if kind == "readinessProbe" and "terminationGracePeriodSeconds" in probe:
            self._add(f"{path}.terminationGracePeriodSeconds", "is not possible in a readinessProbe")
        else:
            self._range(probe, "terminationGracePeriodSeconds", path, 1, LARGEST_INT32)
        if "grpc" in probe:
            self._field(probe["grpc"], "port", f"{path}.grpc", _PORT)

    def _handler(self, owner: Json, handlers: tuple[str, ...], path: str) -> None:
        if sum(handler in owner for handler in handlers) != 1:
            self._missing(path, f"must have exactly one of {', '.join(handlers)}")
        if "exec" in owner:
            self._not_empty(owner["exec"], "command", f"{path}.exec", f"{path}.exec")
        for kind in ("tcpSocket", "httpGet"):
            if kind in owner:
                port = _NAMED_PORT if isinstance(owner[kind].get("port"), str) else _PORT
                self._field(owner[kind], "port", f"{path}.{kind}", port)
        action = owner.get("httpGet", {})
        self._choice(action, "scheme", f"{path}.httpGet", ("HTTP", "HTTPS"))
        for here, header in _items(action, "httpHeaders", f"{path}.httpGet"):
            if not is_header_name(header.get("name", "")):
                self._missing(f"{here}.name", 'must be letters, digits, "-" and "_"')
            if "value" not in header:
                self._missing(f"{here}.value", "is required")

    # ---- volumes, and references to the pod's own fields

    def _volumes(self, spec: Json) -> None:
        seen, count = set(), len(spec.get("volumes", ()))
        if count > (most := self._policy.max_volumes):
            self._add("spec.volumes", f"{count} volumes; at most {most} allowed (policy.max_volumes)")
        for path, volume in _items(spec, "volumes", "spec"):
            name = volume.get("name")
            if self._field(volume, "name", path, _LABEL) and name in seen:
                self._add(f"{path}.name", "is also the name of another volume")
            seen.add(name)
            sources = [kind for kind in volume if kind != "name"]
            if len(sources) == 1:
                self._source(sources[0], volume[sources[0]], f"{path}.{sources[0]}")
            else:
                self._missing(path, "must have exactly one source, such as emptyDir")

    def _source(self, kind: str, source: Json, path: str) -> None:
        if kind == "emptyDir":
            self._empty_dir(source, path)
        elif kind == "projected":
            self._projected(source, path)
        elif kind == "persistentVolumeClaim":
            self._granted(source.get("claimName", ""), "volume_claims", path)
        elif kind == "csi":
            self._csi(source, path)
        else:
            self._files(kind, source, path)

    def _empty_dir(self, source: Json, path: str) -> None:
        medium, limit = source.get("medium"), source.get("sizeLimit")
        if medium == "Memory" and not self._policy.empty_dir_memory:
            self._add(f"{path}.medium", "not accepted, unless policy.empty_dir_memory allows it")
        elif medium not in (None, "Memory"):
            self._add(f"{path}.medium", "must be Memory, or left out")
        if limit is None:
            return
        if limit.nanos <= 0:
            self._add(f"{path}.sizeLimit", "must be more than zero")
        elif (most := self._policy.amount("empty_dir_size")) and limit.whole > most.whole:
            self._add(f"{path}.sizeLimit", f"more than {most} (policy.empty_dir_size)")

    def _projected(self, source: Json, path: str) -> None:
        self._field(source, "defaultMode", path, _MODE, required=False)
        for here, part in _items(source, "sources", path):
            kinds = [kind for kind in ("downwardAPI", "configMap", "secret") if kind in part]
            if len(kinds) != 1:
                self._missing(here, "must have exactly one of downwardAPI, configMap, secret")
            for kind in kinds:
                self._files(kind, part[kind], f"{here}.{kind}")

    def _csi(self, source: Json, path: str) -> None:
        drivers = self._policy.csi_drivers
        if not drivers:
            self._add(path, "not accepted, unless policy.csi_drivers allows it")
        elif not matches_any(drivers, source.get("driver", "")):
            self._missing(f"{path}.driver", "only what policy.csi_drivers names may be used")
        for key in source.get("volumeAttributes", ()):
            if not is_key(key):
                self._add(below(f"{path}.volumeAttributes", key), "is not a valid key")

    def _files(self, kind: str, source: Json, path: str) -> None:
        """Check a source that is a set of files: downwardAPI, configMap or secret."""
        if kind == "configMap":
            self._granted(source.get("name", ""), "config_maps", path)
        elif kind == "secret":
            self._granted(source.get("secretName") or source.get("name", ""), "secrets", path)
        self._field(source, "defaultMode", path, _MODE, required=False)
        for here, item in _items(source, "items", path):
            self._field(item, "mode", here, _MODE, required=False)
            if not item.get("path") or not is_inner_path(item["path"]):
                self._missing(f"{here}.path", _INNER_PATH[1])
            if kind != "downwardAPI":
                self._not_empty(item, "key", here)
            elif ("fieldRef" in item) == ("resourceFieldRef" in item):
                self._missing(here, "must have either fieldRef or resourceFieldRef")
            elif "fieldRef" in item:
                self._field_ref(item["fieldRef"], f"{here}.fieldRef", _VOLUME_FIELDS)
            else:
                if "containerName" not in item["resourceFieldRef"]:
                    self._missing(f"{here}.resourceFieldRef.containerName", "is required in a volume")
                self._resource_ref(item["resourceFieldRef"], f"{here}.resourceFieldRef")

    def _field_ref(self, reference: Json, path: str, fields: frozenset[str]) -> None:
        if reference.get("apiVersion", "v1") != "v1":
            self._add(f"{path}.apiVersion", "must be v1")
        field = reference.get("fieldPath")
        if field is None:
            self._missing(f"{path}.fieldPath", "is required")
        elif field not in fields and not ((name := _SUBSCRIPT.match(field)) and is_key(name.group(1))):
            text = f"must be one of {', '.join(sorted(fields))}, or a label or annotation"
            self._add(f"{path}.fieldPath", text)

    def _resource_ref(self, reference: Json, path: str) -> None:
        match = _RESOURCES.match(reference.get("resource", ""))
        if "resource" not in reference:
            self._missing(f"{path}.resource", "is required")
        elif match is None:
            self._add(f"{path}.resource", "must be limits or requests of cpu, memory or ephemeral-storage")
        elif (divisor := reference.get("divisor")) is not None:
            if match.group(1) == "cpu" and divisor.nanos not in _NANOS_OF_CPU:
                self._add(f"{path}.divisor", "must be 1m or 1")
            elif match.group(1) != "cpu" and (divisor.nanos % 10**9 or divisor.whole not in _UNITS):
                self._add(f"{path}.divisor", "must be 1, or 1 of a suffix such as 1k or 1Mi")


def settle_divisors(spec: Json) -> None:
    """Write each divisor in canonical form; a missing one becomes 0, as the typed encoder writes it."""
    sources = [variable.get("valueFrom", {}) for one in by_path(spec).values() for variable in one.get("env", ())]
    for volume in spec.get("volumes", ()):
        projected = [source.get("downwardAPI", {}) for source in volume.get("projected", {}).get("sources", ())]
        for files in (volume.get("downwardAPI", {}), *projected):
            sources += files.get("items", ())
    for source in sources:
        if (reference := source.get("resourceFieldRef")) is not None:
            divisor = reference.get("divisor")
            reference["divisor"] = "0" if divisor is None else str(divisor)

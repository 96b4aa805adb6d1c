"""What containers and volumes must look like: the API server's rules and the operator's policy.

Owns: names, images, ports, environment, mounts, probes and hooks, and the few fields with a fixed set of values; where
files and variables come from (volumes, Secrets, ConfigMaps, and the pod itself), of which each has one source, of a kind
that the allowlist knows and the policy grants. The allowlist refuses probes that name a host. Resources and the sizes of
emptyDirs are in ``resources``, the security context in ``pod``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from stackd.names import (
    LABEL_FORM,
    PORT_NAME_FORM,
    SUBDOMAIN_FORM,
    is_env_name,
    is_header_name,
    is_inner_path,
    is_key,
    is_label,
    is_port_name,
    is_subdomain,
    matches_any,
)
from stackd.podspec.images import check_image
from stackd.podspec.policy import Policy
from stackd.podspec.reasons import Reasons, below, check_choice, check_range
from stackd.podspec.request import LARGEST_PORT

_LARGEST_MODE = 0o777
_PROJECTED = ("downwardAPI", "configMap", "secret")
_VOLUME_FIELDS = frozenset(
    {"metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"}
)
_ENV_FIELDS = frozenset(
    {
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    }
)
_SUBSCRIPT = re.compile(r"metadata\.(?:labels|annotations)\['([^']+)'\]\Z")
_RESOURCES = re.compile(r"(?:limits|requests)\.(cpu|memory|ephemeral-storage)\Z")
_NANOS_OF_CPU = frozenset({0, 10**6, 10**9})
_UNITS = frozenset({0, *(1000**power for power in range(7)), *(1024**power for power in range(7))})
_ENV_SOURCES = ("fieldRef", "resourceFieldRef", "secretKeyRef", "configMapKeyRef")


def check_granted(name: str, patterns: tuple[str, ...], path: str, key: str, reasons: Reasons) -> None:
    """Report a reference to something that the operator has not granted under ``policy.<key>``."""
    if not patterns:
        reasons.add(path, f"not accepted, unless policy.{key} allows it")
    elif not is_subdomain(name):
        reasons.add(path, f"must be a name of {SUBDOMAIN_FORM}")
    elif not matches_any(patterns, name):
        reasons.add(path, f"only what policy.{key} names may be used")


def check_volumes(spec: Mapping[str, Any], policy: Policy, reasons: Reasons) -> None:
    """Report what is wrong with the pod's volumes."""
    seen = set()
    volumes = spec.get("volumes", ())
    if len(volumes) > policy.max_volumes:
        reasons.add(
            "spec.volumes", f"{len(volumes)} volumes; at most {policy.max_volumes} allowed (policy.max_volumes)"
        )
    for index, volume in enumerate(volumes):
        path = f"spec.volumes[{index}]"
        name = volume.get("name")
        if name is None:
            reasons.missing(f"{path}.name", "is required")
        elif not is_label(name):
            reasons.add(f"{path}.name", f"must be {LABEL_FORM}")
        elif name in seen:
            reasons.add(f"{path}.name", "is also the name of another volume")
        seen.add(name)
        _check_source(volume, path, policy, reasons)


def _check_source(volume: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    sources = [kind for kind in volume if kind != "name"]
    if len(sources) != 1:
        reasons.missing(path, "must have exactly one source, such as emptyDir")
        return
    kind = sources[0]
    source, here = volume[kind], f"{path}.{kind}"
    if kind == "emptyDir":
        _check_empty_dir(source, here, policy, reasons)
    elif kind == "projected":
        _check_projected(source, here, policy, reasons)
    elif kind == "persistentVolumeClaim":
        check_granted(source.get("claimName", ""), policy.volume_claims, here, "volume_claims", reasons)
    elif kind == "csi":
        _check_csi(source, here, policy, reasons)
    else:
        _check_files(kind, source, here, policy, reasons)


def _check_empty_dir(source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    medium, limit = source.get("medium"), source.get("sizeLimit")
    if medium == "Memory" and not policy.empty_dir_memory:
        reasons.add(f"{path}.medium", "not accepted, unless policy.empty_dir_memory allows it")
    elif medium not in (None, "Memory"):
        reasons.add(f"{path}.medium", "must be Memory, or left out")
    if limit is None:
        return
    if limit.nanos <= 0:
        reasons.add(f"{path}.sizeLimit", "must be more than zero")
    elif (most := policy.amount("empty_dir_size")) and limit.whole > most.whole:
        reasons.add(f"{path}.sizeLimit", f"more than {most} (policy.empty_dir_size)")


def _check_projected(source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    _check_mode(source.get("defaultMode"), f"{path}.defaultMode", reasons)
    for index, part in enumerate(source.get("sources", ())):
        here = f"{path}.sources[{index}]"
        given = [kind for kind in _PROJECTED if kind in part]
        if len(given) != 1:
            reasons.missing(here, f"must have exactly one of {', '.join(_PROJECTED)}")
        for kind in given:
            _check_files(kind, part[kind], f"{here}.{kind}", policy, reasons)


def _check_files(kind: str, source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    """Report what is wrong with a source that is a set of files: downwardAPI, configMap or secret."""
    if kind == "configMap":
        check_granted(source.get("name", ""), policy.config_maps, path, "config_maps", reasons)
    elif kind == "secret":
        name = source.get("secretName") or source.get("name", "")
        check_granted(name, policy.secrets, path, "secrets", reasons)
    _check_mode(source.get("defaultMode"), f"{path}.defaultMode", reasons)
    for index, item in enumerate(source.get("items", ())):
        here = f"{path}.items[{index}]"
        _check_mode(item.get("mode"), f"{here}.mode", reasons)
        if not item.get("path") or not is_inner_path(item["path"]):
            reasons.missing(f"{here}.path", 'must be a relative path without ".."')
        if kind == "downwardAPI":
            _check_downward_item(item, here, reasons)
        elif not item.get("key"):
            reasons.missing(f"{here}.key", "is required")


def _check_csi(source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    if not policy.csi_drivers:
        reasons.add(path, "not accepted, unless policy.csi_drivers allows it")
    elif not matches_any(policy.csi_drivers, source.get("driver", "")):
        reasons.missing(f"{path}.driver", "only what policy.csi_drivers names may be used")
    for key in source.get("volumeAttributes", ()):
        if not is_key(key):
            reasons.add(below(f"{path}.volumeAttributes", key), "is not a valid key")


def _check_mode(mode: int | None, path: str, reasons: Reasons) -> None:
    if mode is not None and not 0 <= mode <= _LARGEST_MODE:
        reasons.add(path, "must be from 0 to 0777 (octal)")


def check_env_source(source: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    """Report what is wrong with a variable's ``valueFrom``."""
    given = [kind for kind in _ENV_SOURCES if kind in source]
    if len(given) != 1:
        reasons.missing(path, "must have exactly one source")
        return
    kind = given[0]
    here = f"{path}.{kind}"
    if kind == "fieldRef":
        _check_field_ref(source[kind], here, _ENV_FIELDS, reasons)
    elif kind == "resourceFieldRef":
        _check_resource_ref(source[kind], here, reasons)
    elif kind == "secretKeyRef":
        _check_key_ref(source[kind], here, "secrets", policy.secrets, reasons)
    else:
        _check_key_ref(source[kind], here, "config_maps", policy.config_maps, reasons)


def _check_downward_item(item: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    if ("fieldRef" in item) == ("resourceFieldRef" in item):
        reasons.missing(path, "must have either fieldRef or resourceFieldRef")
    elif "fieldRef" in item:
        _check_field_ref(item["fieldRef"], f"{path}.fieldRef", _VOLUME_FIELDS, reasons)
    else:
        reference, here = item["resourceFieldRef"], f"{path}.resourceFieldRef"
        if "containerName" not in reference:
            reasons.missing(f"{here}.containerName", "is required in a volume")
        _check_resource_ref(reference, here, reasons)


def _check_field_ref(reference: Mapping[str, Any], path: str, fields: frozenset[str], reasons: Reasons) -> None:
    if reference.get("apiVersion", "v1") != "v1":
        reasons.add(f"{path}.apiVersion", "must be v1")
    field = reference.get("fieldPath")
    if field is None:
        reasons.missing(f"{path}.fieldPath", "is required")
        return
    subscript = _SUBSCRIPT.match(field)
    if field not in fields and not (subscript and is_key(subscript.group(1))):
        reasons.add(f"{path}.fieldPath", f"must be one of {', '.join(sorted(fields))}, or a label or annotation")


def _check_resource_ref(reference: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    resource = reference.get("resource")
    if resource is None:
        reasons.missing(f"{path}.resource", "is required")
        return
    match = _RESOURCES.match(resource)
    if match is None:
        reasons.add(f"{path}.resource", "must be limits or requests of cpu, memory or ephemeral-storage")
        return
    divisor = reference.get("divisor")
    if divisor is None:
        return
    cpu = match.group(1) == "cpu"
    fits = divisor.nanos in _NANOS_OF_CPU if cpu else divisor.nanos % 10**9 == 0 and divisor.whole in _UNITS
    if not fits:
        reasons.add(f"{path}.divisor", "must be 1m or 1" if cpu else "must be 1, or 1 of a suffix such as 1k or 1Mi")


def _check_key_ref(
    reference: Mapping[str, Any], path: str, key: str, patterns: tuple[str, ...], reasons: Reasons
) -> None:
    check_granted(reference.get("name", ""), patterns, path, key, reasons)
    if not reference.get("key"):
        reasons.missing(f"{path}.key", "is required", path)


def settle_divisors(spec: Mapping[str, Any]) -> None:
    """Write each divisor in canonical form; a missing one becomes 0, as the typed encoder writes it."""
    for reference in _resource_refs(spec):
        divisor = reference.get("divisor")
        reference["divisor"] = "0" if divisor is None else str(divisor)


def _resource_refs(spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for kind in ("containers", "initContainers"):
        for container in spec.get(kind, ()):
            for variable in container.get("env", ()):
                if "resourceFieldRef" in variable.get("valueFrom", ()):
                    yield variable["valueFrom"]["resourceFieldRef"]
    for volume in spec.get("volumes", ()):
        projected = [source.get("downwardAPI", {}) for source in volume.get("projected", {}).get("sources", ())]
        for source in (volume.get("downwardAPI", {}), *projected):
            for item in source.get("items", ()):
                if "resourceFieldRef" in item:
                    yield item["resourceFieldRef"]


CONTAINER_LISTS = ("containers", "initContainers")
_CHOICES = {
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "terminationMessagePolicy": ("File", "FallbackToLogsOnError"),
}
_PORT_PROTOCOLS = ("TCP", "UDP", "SCTP")
LARGEST_INT32 = 2**31 - 1
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_LONG_RUNNING_ONLY = (*_PROBES, "lifecycle")
_PROBE_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOK_HANDLERS = ("exec", "httpGet", "tcpSocket", "sleep")
_NUMBERS = ("failureThreshold", "initialDelaySeconds", "periodSeconds", "successThreshold", "timeoutSeconds")
_LONGEST_SLEEP = 3600


def by_path(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All containers of the pod by their paths, init containers last."""
    return {
        f"spec.{kind}[{index}]": container
        for kind in CONTAINER_LISTS
        for index, container in enumerate(spec.get(kind, ()))
    }


def keeps_running(path: str, container: Mapping[str, Any]) -> bool:
    """Whether the container runs beside the others: a regular one, or a sidecar (an init container that restarts)."""
    return path.startswith("spec.containers[") or container.get("restartPolicy") == "Always"


def check_containers(spec: Mapping[str, Any], policy: Policy, reasons: Reasons) -> None:
    """Report what is wrong with each container and with all of them together."""
    containers = by_path(spec)
    if not spec.get("containers"):
        reasons.missing("spec.containers", "at least one container is required")
    if len(containers) > policy.max_containers:
        reasons.add(
            "spec.containers",
            f"{len(containers)} containers; at most {policy.max_containers} allowed (policy.max_containers)",
        )
    volumes = {volume.get("name") for volume in spec.get("volumes", ())}
    first_use: dict[str, str] = {}
    for path, container in containers.items():
        _check_identity(container, path, first_use, reasons)
        _check_container(container, path, policy, reasons)
        _check_mounts(container.get("volumeMounts", ()), f"{path}.volumeMounts", volumes, reasons)


def _check_mounts(mounts: Any, path: str, volumes: set[Any], reasons: Reasons) -> None:
    """Report mounts of unknown volumes, and mount paths that are relative or used twice."""
    seen = set()
    for index, mount in enumerate(mounts):
        here = f"{path}[{index}]"
        if mount.get("name") not in volumes:
            reasons.missing(f"{here}.name", "no volume has this name", f"{here}.name", "spec.volumes")
        target = mount.get("mountPath")
        if target is None:
            reasons.missing(f"{here}.mountPath", "is required")
        elif not target.startswith("/") or ":" in target or ".." in target.split("/"):
            reasons.add(f"{here}.mountPath", 'must be an absolute path without ":" and ".."')
        elif target in seen:
            reasons.add(f"{here}.mountPath", "is used twice in this container")
        seen.add(target)
        if not is_inner_path(mount.get("subPath", "")):
            reasons.add(f"{here}.subPath", 'must be a relative path without ".."')


def _check_identity(container: Mapping[str, Any], path: str, first_use: dict[str, str], reasons: Reasons) -> None:
    name = container.get("name")
    if name is None:
        reasons.missing(f"{path}.name", "is required")
    elif not is_label(name):
        reasons.add(f"{path}.name", f"must be {LABEL_FORM}")
    elif first_use.setdefault(name, path) != path:
        reasons.add(f"{path}.name", f"is also the name of {first_use[name]}")


def _check_container(container: Mapping[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    image = container.get("image")
    if image is None:
        reasons.missing(f"{path}.image", "is required")
    else:
        check_image(image, f"{path}.image", policy, reasons)
    for field, allowed in _CHOICES.items():
        if field in container:
            check_choice(container[field], allowed, f"{path}.{field}", reasons)
    if "ports" in container:
        _check_ports(container["ports"], f"{path}.ports", reasons)
    if "env" in container:
        _check_env(container["env"], f"{path}.env", policy, reasons)
    if "envFrom" in container:
        _check_env_from(container["envFrom"], f"{path}.envFrom", policy, reasons)
    if path.startswith("spec.init"):
        _check_init(container, path, reasons)
    for kind in _PROBES:
        if kind in container:
            _check_probe(container[kind], kind, f"{path}.{kind}", reasons)
    _check_lifecycle(container, path, reasons)


def _check_init(container: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    check_choice(container.get("restartPolicy"), ("Always",), f"{path}.restartPolicy", reasons)
    if container.get("restartPolicy") != "Always":
        for field in _LONG_RUNNING_ONLY:
            if field in container:
                reasons.add(f"{path}.{field}", "requires restartPolicy: Always in an init container")


def _check_ports(ports: Any, path: str, reasons: Reasons) -> None:
    names, numbers = set(), set()
    for index, port in enumerate(ports):
        here = f"{path}[{index}]"
        number, name, protocol = port.get("containerPort"), port.get("name"), port.get("protocol", "TCP")
        if number is None:
            reasons.missing(f"{here}.containerPort", "is required")
        elif not 1 <= number <= LARGEST_PORT:
            reasons.add(f"{here}.containerPort", f"must be from 1 to {LARGEST_PORT}")
        elif (number, protocol) in numbers:
            reasons.add(f"{here}.containerPort", f"{number}/{protocol} is listed twice in this container")
        numbers.add((number, protocol))
        check_choice(protocol, _PORT_PROTOCOLS, f"{here}.protocol", reasons)
        if name is not None and not is_port_name(name):
            reasons.add(f"{here}.name", f"must be {PORT_NAME_FORM}")
        elif name is not None and name in names:
            reasons.add(f"{here}.name", "is used twice in this container")
        names.add(name)


def _check_env(env: Any, path: str, policy: Policy, reasons: Reasons) -> None:
    for index, variable in enumerate(env):
        name = variable.get("name")
        if name is None:
            reasons.missing(f"{path}[{index}].name", "is required")
        elif not is_env_name(name):
            reasons.add(
                f"{path}[{index}].name", 'must be letters, digits, "_", "-" and ".", and not begin with a digit'
            )
        if "valueFrom" in variable:
            here = f"{path}[{index}].valueFrom"
            if "value" in variable:
                reasons.add(here, "must not be given together with value")
            check_env_source(variable["valueFrom"], here, policy, reasons)


def _check_env_from(sources: Any, path: str, policy: Policy, reasons: Reasons) -> None:
    for index, source in enumerate(sources):
        here = f"{path}[{index}]"
        references = {"configMapRef": ("config_maps", policy.config_maps), "secretRef": ("secrets", policy.secrets)}
        given = [kind for kind in references if kind in source]
        if len(given) != 1:
            reasons.missing(here, "must have either configMapRef or secretRef")
        for kind in given:
            key, patterns = references[kind]
            check_granted(source[kind].get("name", ""), patterns, f"{here}.{kind}", key, reasons)
        if not is_env_name(source.get("prefix", "_")):
            reasons.add(f"{here}.prefix", "must be a valid start of a variable's name")


def _check_lifecycle(container: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    for name, hook in container.get("lifecycle", {}).items():
        here = f"{path}.lifecycle.{name}"
        _check_handler(hook, _HOOK_HANDLERS, here, reasons)
        seconds = hook.get("sleep", {}).get("seconds")
        if "sleep" in hook and seconds is None:
            reasons.missing(f"{here}.sleep.seconds", "is required", f"{here}.sleep")
        check_range(seconds, 0, _LONGEST_SLEEP, f"{here}.sleep.seconds", reasons)


def _check_probe(probe: Mapping[str, Any], kind: str, path: str, reasons: Reasons) -> None:
    _check_handler(probe, _PROBE_HANDLERS, path, reasons)
    for field in _NUMBERS:
        check_range(probe.get(field), 0, LARGEST_INT32, f"{path}.{field}", reasons)
    if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        reasons.add(f"{path}.successThreshold", f"must be 1 in a {kind}")
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and kind == "readinessProbe":
        reasons.add(f"{path}.terminationGracePeriodSeconds", "is not possible in a readinessProbe")
    else:
        check_range(grace, 1, LARGEST_INT32, f"{path}.terminationGracePeriodSeconds", reasons)
    if "grpc" in probe:
        _check_port(probe["grpc"].get("port"), f"{path}.grpc.port", reasons)


def _check_handler(owner: Mapping[str, Any], handlers: tuple[str, ...], path: str, reasons: Reasons) -> None:
    if sum(handler in owner for handler in handlers) != 1:
        reasons.missing(path, f"must have exactly one of {', '.join(handlers)}")
    if "exec" in owner and not owner["exec"].get("command"):
        reasons.missing(f"{path}.exec.command", "is required", f"{path}.exec")
    if "tcpSocket" in owner:
        _check_port(owner["tcpSocket"].get("port"), f"{path}.tcpSocket.port", reasons)
    if "httpGet" in owner:
        _check_http_get(owner["httpGet"], f"{path}.httpGet", reasons)


def _check_http_get(action: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    _check_port(action.get("port"), f"{path}.port", reasons)
    check_choice(action.get("scheme"), ("HTTP", "HTTPS"), f"{path}.scheme", reasons)
    for index, header in enumerate(action.get("httpHeaders", ())):
        if not is_header_name(header.get("name", "")):
            here = f"{path}.httpHeaders[{index}].name"
            reasons.missing(here, 'must be letters, digits, "-" and "_"')
        if "value" not in header:
            here = f"{path}.httpHeaders[{index}].value"
            reasons.missing(here, "is required")


def _check_port(port: int | str | None, path: str, reasons: Reasons) -> None:
    if port is None:
        reasons.missing(path, "is required")
    elif isinstance(port, str):
        if not is_port_name(port):
            reasons.add(path, f"must be a number, or a port's name ({PORT_NAME_FORM})")
    else:
        check_range(port, 1, LARGEST_PORT, path, reasons)

"""What makes an object invalid (422), field by field. Pure; does not look at other objects."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

from stackd.embedded.defaults import containers
from stackd.embedded.resources import (
    CONFIG_MAPS,
    LEASES,
    NAMESPACES,
    PODS,
    SERVICES,
    Json,
    Resource,
)
from stackd.embedded.status import StatusCause, duplicate, not_allowed, required, unsupported, wrong
from stackd.quantity import parse

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_SERVICE = "[a-z]([-a-z0-9]*[a-z0-9])?"
_ENV = r"[-._a-zA-Z][-._a-zA-Z0-9]*"

SUBDOMAIN_DETAIL = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    f"and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
LABEL_DETAIL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    f"with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
SERVICE_DETAIL = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    f"and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '{_SERVICE}')"
)
QUALIFIED_DETAIL = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
VALUE_DETAIL = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation "
    "is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_IS_LABEL, _IS_SUBDOMAIN = re.compile(_LABEL), re.compile(_SUBDOMAIN)
_IS_SERVICE, _IS_QUALIFIED = re.compile(_SERVICE), re.compile(_QUALIFIED)
_IS_ENV = re.compile(_ENV)
_ENV_DETAIL = (
    "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must "
    "not start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is "
    f"'{_ENV}')"
)
_PORT_RANGE = "must be between 1 and 65535, inclusive"
_POLICIES = ("Always", "OnFailure", "Never")
_PROTOCOLS = ("TCP", "UDP", "SCTP")


def validate(resource: Resource, obj: Json) -> list[StatusCause]:
    """All that is wrong with the object; empty if it is valid."""
    causes = list(_metadata(resource, obj["metadata"]))
    if resource is PODS:
        causes.extend(_pod(obj["spec"]))
    elif resource is SERVICES:
        causes.extend(_service(obj["spec"]))
    elif resource is CONFIG_MAPS:
        causes.extend(_config_map(obj))
    elif resource is LEASES:
        causes.extend(_lease(obj["spec"]))
    return causes


def validate_change(resource: Resource, before: Json, after: Json) -> list[StatusCause]:
    """All that is wrong with the new version of the object, given the old one."""
    causes = list(_frozen(before, after)) if resource is CONFIG_MAPS and before.get("immutable") else []
    return causes + validate(resource, after)


def _metadata(resource: Resource, metadata: Json) -> Iterator[StatusCause]:
    yield from _name(resource, metadata.get("name", ""))
    yield from _labels(metadata.get("labels", {}), "metadata.labels")
    annotations = metadata.get("annotations", {})
    for key in annotations:
        if not _is_qualified(key.lower()):
            yield wrong("metadata.annotations", key, QUALIFIED_DETAIL)
    if sum(len(key) + len(value) for key, value in annotations.items()) > _ANNOTATIONS_LIMIT:
        message = f"Too long: may not be more than {_ANNOTATIONS_LIMIT} bytes"
        yield StatusCause("metadata.annotations", "FieldValueTooLong", message)
    for position, owner in enumerate(metadata.get("ownerReferences", ())):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                yield wrong(f"metadata.ownerReferences[{position}].{field}", "", f"{field} must not be empty")


_ANNOTATIONS_LIMIT = 256 * 1024


def _name(resource: Resource, name: str) -> Iterator[StatusCause]:
    if resource is SERVICES:
        form, detail, longest = _IS_SERVICE, SERVICE_DETAIL, 63
    elif resource is NAMESPACES:
        form, detail, longest = _IS_LABEL, LABEL_DETAIL, 63
    else:
        form, detail, longest = _IS_SUBDOMAIN, SUBDOMAIN_DETAIL, 253
    if not name:
        yield required("metadata.name", "name or generateName is required")
    elif not form.fullmatch(name):
        yield wrong("metadata.name", name, detail)
    if len(name) > longest:
        yield wrong("metadata.name", name, f"must be no more than {longest} characters")


def _labels(labels: Json, path: str) -> Iterator[StatusCause]:
    for key, value in labels.items():
        if not _is_qualified(key):
            yield wrong(path, key, QUALIFIED_DETAIL)
        if value and not (_IS_QUALIFIED.fullmatch(value) and len(value) <= 63):
            yield wrong(path, value, VALUE_DETAIL if len(value) <= 63 else "must be no more than 63 characters")


def _is_qualified(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    fits = bool(_IS_QUALIFIED.fullmatch(name)) and len(name) <= 63
    return fits and (not slash or bool(_IS_SUBDOMAIN.fullmatch(prefix)))


def _pod(spec: Json) -> Iterator[StatusCause]:
    if not spec.get("containers"):
        yield required("spec.containers")
    volumes: set[str] = set()
    for position, volume in enumerate(spec.get("volumes", ())):
        yield from _volume(volume, f"spec.volumes[{position}]", volumes)
    names: set[str] = set()
    for group in ("initContainers", "containers"):
        for position, container in enumerate(spec.get(group, ())):
            path = f"spec.{group}[{position}]"
            yield from _container(container, path, names, volumes)
    if spec["restartPolicy"] not in _POLICIES:
        yield unsupported("spec.restartPolicy", spec["restartPolicy"], _POLICIES)
    if spec["terminationGracePeriodSeconds"] < 0:
        yield wrong("spec.terminationGracePeriodSeconds", spec["terminationGracePeriodSeconds"], _NOT_NEGATIVE)
    yield from _labels(spec.get("nodeSelector", {}), "spec.nodeSelector")
    if "hostname" in spec and not _IS_LABEL.fullmatch(spec["hostname"]):
        yield wrong("spec.hostname", spec["hostname"], LABEL_DETAIL)
    yield from _host_ports(spec)


_NOT_NEGATIVE = "must be greater than or equal to 0"


def _volume(volume: Json, path: str, seen: set[str]) -> Iterator[StatusCause]:
    name = volume.get("name", "")
    if not name:
        yield required(f"{path}.name")
    elif not _IS_LABEL.fullmatch(name):
        yield wrong(f"{path}.name", name, LABEL_DETAIL)
    elif name in seen:
        yield duplicate(f"{path}.name", name)
    seen.add(name)
    if len(volume) > 2:
        yield not_allowed(f"{path}.{list(volume)[2]}", "may not specify more than 1 volume type")


def _container(container: Json, path: str, names: set[str], volumes: set[str]) -> Iterator[StatusCause]:
    name = container.get("name", "")
    if not name:
        yield required(f"{path}.name")
    elif not _IS_LABEL.fullmatch(name) or len(name) > 63:
        yield wrong(f"{path}.name", name, LABEL_DETAIL)
    elif name in names:
        yield duplicate(f"{path}.name", name)
    names.add(name)
    image = container.get("image", "")
    if not image:
        yield required(f"{path}.image")
    elif image != image.strip():
        yield wrong(f"{path}.image", image, "must not have leading or trailing whitespace")
    yield from _ports(container, path)
    for position, variable in enumerate(container.get("env", ())):
        if not variable.get("name"):
            yield required(f"{path}.env[{position}].name")
        elif not _IS_ENV.fullmatch(variable["name"]):
            yield wrong(f"{path}.env[{position}].name", variable["name"], _ENV_DETAIL)
    yield from _mounts(container, path, volumes)
    yield from _resources(container["resources"], f"{path}.resources")
    if container["imagePullPolicy"] not in {"Always", "IfNotPresent", "Never"}:
        choices = ("Always", "IfNotPresent", "Never")
        yield unsupported(f"{path}.imagePullPolicy", container["imagePullPolicy"], choices)


def _ports(container: Json, path: str) -> Iterator[StatusCause]:
    seen: set[str] = set()
    for position, port in enumerate(container.get("ports", ())):
        here = f"{path}.ports[{position}]"
        if "containerPort" not in port:
            yield required(f"{here}.containerPort")
        elif not 0 < port["containerPort"] < 65536:
            yield wrong(f"{here}.containerPort", port["containerPort"], _PORT_RANGE)
        if port["protocol"] not in _PROTOCOLS:
            yield unsupported(f"{here}.protocol", port["protocol"], _PROTOCOLS)
        if name := port.get("name"):
            if name in seen:
                yield duplicate(f"{here}.name", name)
            if len(name) > 15:
                yield wrong(f"{here}.name", name, "must be no more than 15 characters")
            seen.add(name)
        if "hostPort" in port and not 0 < port["hostPort"] < 65536:
            yield wrong(f"{here}.hostPort", port["hostPort"], _PORT_RANGE)


def _host_ports(spec: Json) -> Iterator[StatusCause]:
    seen: set[Any] = set()
    for container in containers(spec):
        for position, port in enumerate(container.get("ports", ())):
            if "hostPort" in port:
                key = (port["protocol"], port.get("hostIP"), port["hostPort"])
                if key in seen:
                    yield duplicate(f"spec.containers[0].ports[{position}].hostPort", port["hostPort"])
                seen.add(key)


def _mounts(container: Json, path: str, volumes: set[str]) -> Iterator[StatusCause]:
    seen: set[str] = set()
    for position, mount in enumerate(container.get("volumeMounts", ())):
        here = f"{path}.volumeMounts[{position}]"
        if mount.get("name", "") not in volumes:
            yield StatusCause(f"{here}.name", "FieldValueNotFound", f'Not found: "{mount.get("name", "")}"')
        where = mount.get("mountPath", "")
        if not where:
            yield required(f"{here}.mountPath")
        elif where in seen:
            yield wrong(f"{here}.mountPath", where, "must be unique")
        seen.add(where)


def _resources(resources: Json, path: str) -> Iterator[StatusCause]:
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for kind, given in (("limits", limits), ("requests", requests)):
        for name, value in given.items():
            if parse(value).milli < 0:
                yield wrong(f"{path}.{kind}[{name}]", value, _NOT_NEGATIVE)
            if "/" not in name and name not in _RESOURCES and not name.startswith("hugepages-"):
                yield wrong(f"{path}.{kind}[{name}]", name, "must be a standard resource for containers")
    for name, value in requests.items():
        if name in limits and parse(value).milli > parse(limits[name]).milli:
            yield wrong(f"{path}.requests", value, f"must be less than or equal to {name} limit of {limits[name]}")


_RESOURCES = {"cpu", "memory", "ephemeral-storage"}


def _service(spec: Json) -> Iterator[StatusCause]:
    if spec["type"] not in _SERVICE_TYPES:
        yield unsupported("spec.type", spec["type"], _SERVICE_TYPES)
    ports = spec.get("ports", [])
    if not ports and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        yield required("spec.ports")
    names: set[str] = set()
    numbers: set[Any] = set()
    for position, port in enumerate(ports):
        here = f"spec.ports[{position}]"
        if len(ports) > 1 and not port.get("name"):
            yield required(f"{here}.name")
        elif port.get("name"):
            if not _IS_LABEL.fullmatch(port["name"]):
                yield wrong(f"{here}.name", port["name"], LABEL_DETAIL)
            elif port["name"] in names:
                yield duplicate(f"{here}.name", port["name"])
            names.add(port["name"])
        if not 0 < port.get("port", 0) < 65536:
            yield wrong(f"{here}.port", port.get("port", 0), _PORT_RANGE)
        if port["protocol"] not in _PROTOCOLS:
            yield unsupported(f"{here}.protocol", port["protocol"], _PROTOCOLS)
        key = (port["protocol"], port.get("port"))
        if key in numbers:
            yield StatusCause(
                here, "FieldValueDuplicate", f"Duplicate value: {{{port['protocol']} {port.get('port')}}}"
            )
        numbers.add(key)
        if port.get("nodePort") and spec["type"] == "ClusterIP":
            yield not_allowed(f"{here}.nodePort", "may not be used when `type` is 'ClusterIP'")
    yield from _labels(spec.get("selector", {}), "spec.selector")


def _config_map(obj: Json) -> Iterator[StatusCause]:
    data, binary = obj.get("data", {}), obj.get("binaryData", {})
    for field, values in (("data", data), ("binaryData", binary)):
        for key in values:
            path = f"{field}[{key}]"
            yield from (wrong(path, key, detail) for detail in _config_key(key))
            if field == "data" and key in binary:
                yield wrong(path, key, "duplicate of key present in binaryData")
    size = sum(len(value.encode()) for value in data.values()) + sum(len(b64decode(value)) for value in binary.values())
    if size > _CONFIG_LIMIT:
        yield StatusCause("[]", "FieldValueTooLong", f"Too long: may not be more than {_CONFIG_LIMIT} bytes")


def _config_key(key: str) -> Iterator[str]:
    if len(key) > 253:
        yield "must be no more than 253 characters"
    if not _IS_CONFIG_KEY.fullmatch(key):
        yield _CONFIG_KEY_DETAIL
    elif key in {".", ".."}:
        yield f"must not be '{key}'"
    elif key.startswith(".."):
        yield "must not start with '..'"


_CONFIG_LIMIT = 1024 * 1024
_IS_CONFIG_KEY = re.compile("[-._a-zA-Z0-9]+")
_CONFIG_KEY_DETAIL = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  "
    "or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)


def _frozen(before: Json, after: Json) -> Iterator[StatusCause]:
    detail = "field is immutable when `immutable` is set"
    for field in ("immutable", "data", "binaryData"):
        if before.get(field) != after.get(field):
            yield not_allowed(field, detail)


def _lease(spec: Json) -> Iterator[StatusCause]:
    if spec.get("leaseDurationSeconds", 1) <= 0:
        yield wrong("spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0")
    if spec.get("leaseTransitions", 0) < 0:
        yield wrong("spec.leaseTransitions", spec["leaseTransitions"], _NOT_NEGATIVE)


_SERVICE_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")

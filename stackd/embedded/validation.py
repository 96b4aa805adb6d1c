"""What makes an object invalid (422), field by field; and the Pod Security Standards `baseline` and `restricted`, as chosen
by the namespace's label, as far as stackd's pods and the recordings can break them. Pure; does not look at other objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from stackd.embedded.resources import (
    HTTP_ROUTES,
    LEASES,
    NAMESPACES,
    PODS,
    SERVICES,
    TLS_ROUTES,
    Json,
    Resource,
)
from stackd.embedded.schema import containers
from stackd.embedded.status import StatusCause, duplicate, not_allowed, required, unsupported, wrong
from stackd.quantity import parse

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
SUBDOMAIN_DETAIL = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    f"and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_IS_LABEL, _IS_SUBDOMAIN = re.compile(_LABEL), re.compile(_SUBDOMAIN)
_IS_SERVICE = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")
_IS_QUALIFIED = re.compile("([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
LABEL_DETAIL, SERVICE_DETAIL = "it is not a lowercase RFC 1123 label", "it is not a DNS-1035 label"
QUALIFIED_DETAIL, VALUE_DETAIL = "it is not a qualified name", "it is not a valid label"
_PORT_RANGE = "must be between 1 and 65535, inclusive"
_POLICIES = ("Always", "OnFailure", "Never")
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_SERVICE_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_ANNOTATIONS_LIMIT = 256 * 1024


def validate(resource: Resource, obj: Json) -> list[StatusCause]:
    """All that is wrong with the object; empty if it is valid."""
    causes = list(_metadata(resource, obj["metadata"]))
    if resource is PODS:
        causes.extend(_pod(obj["spec"]))
    elif resource is SERVICES:
        causes.extend(_service(obj["spec"]))
    elif resource in (HTTP_ROUTES, TLS_ROUTES):
        causes.extend(_route(obj["spec"]))
    elif resource is LEASES:
        causes.extend(_lease(obj["spec"]))
    return causes


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
    names: set[str] = set()
    for group in ("initContainers", "containers"):
        for position, container in enumerate(spec.get(group, ())):
            yield from _container(container, f"spec.{group}[{position}]", names)
    if spec["restartPolicy"] not in _POLICIES:
        yield unsupported("spec.restartPolicy", spec["restartPolicy"], _POLICIES)
    yield from _labels(spec.get("nodeSelector", {}), "spec.nodeSelector")


def _container(container: Json, path: str, names: set[str]) -> Iterator[StatusCause]:
    name, image = container.get("name", ""), container.get("image", "")
    if not name:
        yield required(f"{path}.name")
    elif not _IS_LABEL.fullmatch(name) or len(name) > 63:
        yield wrong(f"{path}.name", name, LABEL_DETAIL)
    elif name in names:
        yield duplicate(f"{path}.name", name)
    names.add(name)
    if not image:
        yield required(f"{path}.image")
    elif image != image.strip():
        yield wrong(f"{path}.image", image, "must not have leading or trailing whitespace")
    for position, port in enumerate(container.get("ports", ())):
        if not 0 < port.get("containerPort", 0) < 65536:
            yield wrong(f"{path}.ports[{position}].containerPort", port.get("containerPort", 0), _PORT_RANGE)
    for position, variable in enumerate(container.get("env", ())):
        if not variable.get("name"):
            yield required(f"{path}.env[{position}].name")
    limits = container["resources"].get("limits", {})
    for name, value in container["resources"].get("requests", {}).items():
        if name in limits and parse(value).milli > parse(limits[name]).milli:
            detail = f"must be less than or equal to {name} limit of {limits[name]}"
            yield wrong(f"{path}.resources.requests", value, detail)


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


_HOSTNAME = re.compile(rf"(\*\.)?{_SUBDOMAIN}")


def _route(spec: Json) -> Iterator[StatusCause]:
    for position, name in enumerate(spec.get("hostnames", ())):
        if not (_HOSTNAME.fullmatch(name) and len(name) <= 253):
            path = f"spec.hostnames[{position}]"
            yield wrong(path, name, f"{path} in body should match '^{_HOSTNAME.pattern}$'")
    for position, parent in enumerate(spec.get("parentRefs", ())):
        if not parent.get("name"):
            yield required(f"spec.parentRefs[{position}].name")


def _lease(spec: Json) -> Iterator[StatusCause]:
    if spec.get("leaseDurationSeconds", 1) <= 0:
        yield wrong("spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0")
    if spec.get("leaseTransitions", 0) < 0:
        detail = "must be greater than or equal to 0"
        yield wrong("spec.leaseTransitions", spec["leaseTransitions"], detail)


LABEL = "pod-security.kubernetes.io/enforce"
_BASELINE = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"
)
_CAPABILITIES = {"baseline": frozenset(_BASELINE.split()), "restricted": frozenset({"NET_BIND_SERVICE"})}


def security_violation(pod: Json, namespace_labels: Json) -> str | None:
    """Why the namespace's level refuses the pod, or None."""
    level = namespace_labels.get(LABEL, "privileged")
    if level not in _CAPABILITIES or not (found := list(_problems(pod["spec"], level))):
        return None
    version = namespace_labels.get(f"{LABEL}-version", "latest")
    return f'violates PodSecurity "{level}:{version}": {", ".join(found)}'


def _problems(spec: Json, level: str) -> Iterator[str]:
    """The violations, in Kubernetes' words."""

    def bad(test: Callable[[Json], object]) -> str:
        """The containers whose security context fails the test; empty if there are none."""
        return _named("container", [one["name"] for one in containers(spec) if test(one.get("securityContext", {}))])

    if who := bad(lambda one: set(one.get("capabilities", {}).get("add", ())) - _CAPABILITIES[level]):
        yield f"non-default capabilities ({who} must not include others in securityContext.capabilities.add)"
    if shared := [f"{field}=true" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]:
        yield f"host namespaces ({', '.join(shared)})"
    if who := _named("volume", [one["name"] for one in spec.get("volumes", ()) if "hostPath" in one]):
        yield f"hostPath volumes ({who})"
    for one in containers(spec):
        for port in one.get("ports", ()):
            if port.get("hostPort"):
                yield f"hostPort ({_named('container', [one['name']])} uses hostPort {port['hostPort']})"
    if who := bad(lambda one: one.get("privileged")):
        yield f"privileged ({who} must not set securityContext.privileged=true)"
    if level == "restricted":
        yield from _restrictions(spec["securityContext"], bad)


def _restrictions(default: Json, bad: Callable[[Callable[[Json], object]], str]) -> Iterator[str]:
    """What only `restricted` asks for; ``default`` is the pod's security context."""
    if who := bad(lambda one: one.get("allowPrivilegeEscalation") is not False):
        yield f"allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
    if who := bad(lambda one: "ALL" not in one.get("capabilities", {}).get("drop", ())):
        yield f'unrestricted capabilities ({who} must set securityContext.capabilities.drop=["ALL"])'
    if who := bad(lambda one: not one.get("runAsNonRoot", default.get("runAsNonRoot"))):
        yield f"runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"
    if who := bad(lambda one: not one.get("seccompProfile", default.get("seccompProfile"))):
        yield f'seccompProfile (pod or {who} must set securityContext.seccompProfile.type to "RuntimeDefault")'


def _named(what: str, names: list[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"{what}{'s' if len(names) > 1 else ''} {quoted}" if names else ""

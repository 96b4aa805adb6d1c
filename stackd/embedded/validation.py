"""What makes an object invalid (422), field by field, as far as the recordings show it; and the Pod Security Standards
`baseline` and `restricted`, as chosen by the namespace's label. Pure; does not look at other objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from stackd.embedded.resources import (
    HTTP_ROUTES,
    LEASES,
    NAMESPACES,
    PODS,
    SERVICES,
    TLS_ROUTES,
    Json,
    Resource,
    StatusCause,
    not_allowed,
    required,
    wrong,
)
from stackd.embedded.schema import containers

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_SUBDOMAIN_DETAIL = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    f"and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_NAMES = {
    SERVICES: ("[a-z]([-a-z0-9]*[a-z0-9])?", "it is not a DNS-1035 label"),
    NAMESPACES: (_LABEL, "it is not a lowercase RFC 1123 label"),
}
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_HOSTNAME = rf"(\*\.)?{_SUBDOMAIN}"
_ANNOTATIONS_LIMIT = 256 * 1024


def validate(resource: Resource, obj: Json) -> list[StatusCause]:
    """All that is wrong with the object; empty if it is valid."""
    checks = {PODS: _pod, SERVICES: _service, HTTP_ROUTES: _route, TLS_ROUTES: _route, LEASES: _lease}
    causes = list(_metadata(resource, obj["metadata"]))
    return causes + list(checks[resource](obj["spec"])) if resource in checks else causes


def _metadata(resource: Resource, metadata: Json) -> Iterator[StatusCause]:
    name = metadata.get("name", "")
    form, detail = _NAMES.get(resource, (_SUBDOMAIN, _SUBDOMAIN_DETAIL))
    if not re.fullmatch(form, name):
        yield wrong("metadata.name", name, detail)
    yield from _labels(metadata.get("labels", {}), "metadata.labels")
    annotations = metadata.get("annotations", {})
    if sum(len(key) + len(value) for key, value in annotations.items()) > _ANNOTATIONS_LIMIT:
        message = f"Too long: may not be more than {_ANNOTATIONS_LIMIT} bytes"
        yield StatusCause("metadata.annotations", "FieldValueTooLong", message)


def _labels(labels: Json, path: str) -> Iterator[StatusCause]:
    for value in labels.values():
        if value and not (re.fullmatch(_QUALIFIED, value) and len(value) <= 63):
            yield wrong(path, value, "it is not a valid label")


def _pod(spec: Json) -> Iterator[StatusCause]:
    for group in ("initContainers", "containers"):
        for position, container in enumerate(spec.get(group, ())):
            if not container.get("image"):
                yield required(f"spec.{group}[{position}].image")


def _service(spec: Json) -> Iterator[StatusCause]:
    for position, port in enumerate(spec.get("ports", ())):
        if port.get("nodePort") and spec["type"] == "ClusterIP":
            yield not_allowed(f"spec.ports[{position}].nodePort", "may not be used when `type` is 'ClusterIP'")
    yield from _labels(spec.get("selector", {}), "spec.selector")


def _route(spec: Json) -> Iterator[StatusCause]:
    for position, name in enumerate(spec.get("hostnames", ())):
        if not re.fullmatch(_HOSTNAME, name) or len(name) > 253:
            path = f"spec.hostnames[{position}]"
            yield wrong(path, name, f"{path} in body should match '^{_HOSTNAME}$'")


def _lease(spec: Json) -> Iterator[StatusCause]:
    if spec.get("leaseDurationSeconds", 1) <= 0:
        yield wrong("spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0")
    if spec.get("leaseTransitions", 0) < 0:
        yield wrong("spec.leaseTransitions", spec["leaseTransitions"], "must be greater than or equal to 0")


_ENFORCE = "pod-security.kubernetes.io/enforce"
_BASELINE = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"
)
_CAPABILITIES = {"baseline": frozenset(_BASELINE.split()), "restricted": frozenset({"NET_BIND_SERVICE"})}


def security_violation(pod: Json, namespace_labels: Json) -> str | None:
    """Why the namespace's level refuses the pod, or None."""
    level = namespace_labels.get(_ENFORCE, "privileged")
    if level not in _CAPABILITIES or not (violations := list(_violations(pod["spec"], level))):
        return None
    version = namespace_labels.get(f"{_ENFORCE}-version", "latest")
    return f'violates PodSecurity "{level}:{version}": {", ".join(violations)}'


def _violations(spec: Json, level: str) -> Iterator[str]:
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

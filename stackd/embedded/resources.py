"""The kinds that the embedded API serves, its version and health, and its refusals as exceptions, each with the Status
body of Kubernetes. Uses no HTTP library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec import json

JSON = "application/json"

Json = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON."""


def merged(original: Json, patch: Json, *, nulls: bool = False) -> Json:
    """A copy of the object with a merge patch (RFC 7386) applied; with ``nulls``, of another patch, which keeps them."""
    copy = dict(original)
    for key, value in patch.items():
        if value is None and not nulls:
            copy.pop(key, None)
        elif isinstance(value, dict):
            old = copy.get(key)
            copy[key] = merged(old if isinstance(old, dict) else {}, value, nulls=nulls)
        else:
            copy[key] = value
    return copy


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resource:
    """One kind. There is exactly one instance per kind, so instances are compared by identity."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    generation: bool = False
    """Whether objects carry metadata.generation."""
    returns_deleted: bool = False
    """Whether DELETE answers with the object instead of a Status."""
    unconditional_update: bool = True
    """Whether PUT accepts an object without a resourceVersion."""
    create_on_update: bool = False
    """Whether PUT creates an object that does not exist."""
    api_version: str = field(init=False)
    """As written in `apiVersion`."""
    qualified: str = field(init=False)
    """plural.group, as Kubernetes names the resource in messages."""
    head: bytes = field(init=False)
    """The beginning of a single object's JSON: kind and apiVersion."""

    def __post_init__(self) -> None:
        api_version = f"{self.group}/{self.version}" if self.group else self.version
        object.__setattr__(self, "api_version", api_version)
        object.__setattr__(self, "qualified", f"{self.plural}.{self.group}" if self.group else self.plural)
        object.__setattr__(self, "head", f'{{"kind":"{self.kind}","apiVersion":"{api_version}",'.encode())


NAMESPACES = Resource(plural="namespaces", kind="Namespace", namespaced=False, returns_deleted=True)
NODES = Resource(plural="nodes", kind="Node", namespaced=False)
PODS = Resource(plural="pods", kind="Pod", generation=True, returns_deleted=True)
SERVICES = Resource(plural="services", kind="Service", returns_deleted=True)
EVENTS = Resource(plural="events", kind="Event")
RESOURCE_QUOTAS = Resource(plural="resourcequotas", kind="ResourceQuota", returns_deleted=True)
LIMIT_RANGES = Resource(plural="limitranges", kind="LimitRange")
CONFIG_MAPS = Resource(plural="configmaps", kind="ConfigMap")
SECRETS = Resource(plural="secrets", kind="Secret")
SERVICE_ACCOUNTS = Resource(plural="serviceaccounts", kind="ServiceAccount", returns_deleted=True)
NETWORK_POLICIES = Resource(plural="networkpolicies", kind="NetworkPolicy", group="networking.k8s.io", generation=True)
LEASES = Resource(
    plural="leases", kind="Lease", group="coordination.k8s.io", unconditional_update=False, create_on_update=True
)
_RBAC, _ADMISSION = "rbac.authorization.k8s.io", "admissionregistration.k8s.io"
ROLES = Resource(plural="roles", kind="Role", group=_RBAC)
ROLE_BINDINGS = Resource(plural="rolebindings", kind="RoleBinding", group=_RBAC)
CLUSTER_ROLES = Resource(plural="clusterroles", kind="ClusterRole", group=_RBAC, namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(plural="clusterrolebindings", kind="ClusterRoleBinding", group=_RBAC, namespaced=False)
GATEWAY_API = "gateway.networking.k8s.io"
GATEWAYS = Resource(plural="gateways", kind="Gateway", group=GATEWAY_API, generation=True)
HTTP_ROUTES = Resource(plural="httproutes", kind="HTTPRoute", group=GATEWAY_API, generation=True)
TLS_ROUTES = Resource(plural="tlsroutes", kind="TLSRoute", group=GATEWAY_API, generation=True)
_POLICY = "ValidatingAdmissionPolicy"
ALL = (
    *(NAMESPACES, NODES, PODS, SERVICES, EVENTS, RESOURCE_QUOTAS, LIMIT_RANGES, CONFIG_MAPS, SECRETS),
    *(SERVICE_ACCOUNTS, NETWORK_POLICIES, LEASES, ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS),
    Resource(plural=f"{_POLICY.lower()[:-1]}ies", kind=_POLICY, group=_ADMISSION, namespaced=False, generation=True),
    Resource(plural=f"{_POLICY.lower()}bindings", kind=f"{_POLICY}Binding", group=_ADMISSION, namespaced=False),
    *(GATEWAYS, HTTP_ROUTES, TLS_ROUTES),
)
BY_PATH = {(resource.group, resource.version, resource.plural): resource for resource in ALL}


VERSION: Json = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.2+embedded",
    "gitCommit": "",
    "gitTreeState": "",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "embedded",
}
NO_SUCH_PAGE = (404, b"404 page not found\n", "text/plain")


def discover(path: str, method: str) -> tuple[int, bytes, str] | None:
    """The response for the path of the version; None for other paths."""
    if method != "GET":
        return None
    if path == "/version":
        return 200, json.encode(VERSION), JSON
    return None if path.startswith(("/api/", "/apis/")) else NO_SUCH_PAGE


# ---- refusals


class StatusError(Exception):
    """A refusal: an HTTP code and its Status. The functions below create the usual ones."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers: dict[str, str] = {}
        self.metadata: Json = {}

    def body(self) -> bytes:
        status = {"kind": "Status", "apiVersion": "v1", "metadata": self.metadata, "status": "Failure"}
        optional = {"reason": self.reason or None, "details": self.details}
        return json.encode(
            status
            | {"message": self.message}
            | {key: value for key, value in optional.items() if value is not None}
            | {"code": self.code}
        )


class StatusCause(NamedTuple):
    """One thing that is wrong with a field of an object."""

    field: str
    reason: str
    message: str


def required(field: str) -> StatusCause:
    return StatusCause(field, "FieldValueRequired", "Required value")


def wrong(field: str, value: object, detail: str) -> StatusCause:
    return StatusCause(field, "FieldValueInvalid", f"Invalid value: {json.encode(value).decode()}: {detail}")


def invalid(resource: Resource, name: str, causes: list[StatusCause]) -> StatusError:
    """422: the object is invalid, with a cause for each field."""
    listed = in_brackets(list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes)))
    details = _details(name, resource, resource.kind)
    details["causes"] = [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes]
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    return StatusError(422, "Invalid", f'{kind} "{name}" is invalid: {listed}', details)


def in_brackets(texts: list[str]) -> str:
    """One message for all texts, in brackets if there are several."""
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def forbidden(resource: Resource, name: str, message: str, causes: list[Json] | None = None) -> StatusError:
    details = _details(name, resource) | ({"causes": causes} if causes else {})
    subject = f'{resource.qualified} "{name}"' if name else resource.qualified
    return StatusError(403, "Forbidden", f"{subject} is forbidden: {message}", details)


def not_found(resource: Resource, name: str) -> StatusError:
    return StatusError(404, "NotFound", f'{resource.qualified} "{name}" not found', _details(name, resource))


def already_exists(resource: Resource, name: str) -> StatusError:
    return StatusError(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', _details(name, resource))


def conflict(resource: Resource, name: str, message: str, *, kind: str | None = None) -> StatusError:
    subject = f"{kind}.{resource.group}" if kind and resource.group else kind or resource.qualified
    full = f'Operation cannot be fulfilled on {subject} "{name}": {message}'
    return StatusError(409, "Conflict", full, _details(name, resource, kind))


_INJECTED = {
    429: ("TooManyRequests", "Too many requests, please try again later."),
    500: ("InternalError", "Internal error occurred: injected"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "injected failure"),
}


def injected(code: int, retry_after: float) -> StatusError:
    """The response of a failing server (fault `status`)."""
    details = {"retryAfterSeconds": int(retry_after)} if retry_after else None
    error = StatusError(code, *_INJECTED.get(code, ("", "injected failure")), details)
    if retry_after:
        error.headers["Retry-After"] = str(int(retry_after))
    return error


def _details(name: str, resource: Resource, kind: str | None = None) -> Json:
    details = {"name": name, "group": resource.group, "kind": kind or resource.plural}
    return {key: value for key, value in details.items() if value}

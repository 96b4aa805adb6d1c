"""The kinds that the embedded API serves, their framing in JSON, and the API's version and health."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

JSON = "application/json"

Json = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON."""


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
    persistent: bool = True
    """Whether the state file keeps them."""
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
EVENTS = Resource(plural="events", kind="Event", persistent=False)
RESOURCE_QUOTAS = Resource(plural="resourcequotas", kind="ResourceQuota", returns_deleted=True)
LIMIT_RANGES = Resource(plural="limitranges", kind="LimitRange")
CONFIG_MAPS = Resource(plural="configmaps", kind="ConfigMap")
SECRETS = Resource(plural="secrets", kind="Secret")
SERVICE_ACCOUNTS = Resource(plural="serviceaccounts", kind="ServiceAccount", returns_deleted=True)
NETWORK_POLICIES = Resource(
    plural="networkpolicies",
    kind="NetworkPolicy",
    group="networking.k8s.io",
    generation=True,
)
LEASES = Resource(
    plural="leases",
    kind="Lease",
    group="coordination.k8s.io",
    unconditional_update=False,
    create_on_update=True,
)
_RBAC = "rbac.authorization.k8s.io"
ROLES = Resource(plural="roles", kind="Role", group=_RBAC)
ROLE_BINDINGS = Resource(plural="rolebindings", kind="RoleBinding", group=_RBAC)
CLUSTER_ROLES = Resource(plural="clusterroles", kind="ClusterRole", group=_RBAC, namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(plural="clusterrolebindings", kind="ClusterRoleBinding", group=_RBAC, namespaced=False)
_ADMISSION = "admissionregistration.k8s.io"
ADMISSION_POLICIES = Resource(
    plural="validatingadmissionpolicies",
    kind="ValidatingAdmissionPolicy",
    group=_ADMISSION,
    namespaced=False,
    generation=True,
)
ADMISSION_POLICY_BINDINGS = Resource(
    plural="validatingadmissionpolicybindings",
    kind="ValidatingAdmissionPolicyBinding",
    group=_ADMISSION,
    namespaced=False,
)
GATEWAY_API = "gateway.networking.k8s.io"
GATEWAYS = Resource(plural="gateways", kind="Gateway", group=GATEWAY_API, generation=True)
HTTP_ROUTES = Resource(plural="httproutes", kind="HTTPRoute", group=GATEWAY_API, generation=True)
TLS_ROUTES = Resource(plural="tlsroutes", kind="TLSRoute", group=GATEWAY_API, generation=True)

ALL = (
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    EVENTS,
    RESOURCE_QUOTAS,
    LIMIT_RANGES,
    CONFIG_MAPS,
    SECRETS,
    SERVICE_ACCOUNTS,
    NETWORK_POLICIES,
    LEASES,
    ROLES,
    ROLE_BINDINGS,
    CLUSTER_ROLES,
    CLUSTER_ROLE_BINDINGS,
    ADMISSION_POLICIES,
    ADMISSION_POLICY_BINDINGS,
    GATEWAYS,
    HTTP_ROUTES,
    TLS_ROUTES,
)
BY_PATH = {(resource.group, resource.version, resource.plural): resource for resource in ALL}
BY_KIND = {(resource.api_version, resource.kind): resource for resource in ALL}


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
_HEALTH = frozenset({"/healthz", "/livez", "/readyz"})


def discover(path: str, method: str) -> tuple[int, bytes, str] | None:
    """The response for a path of version or health; None for other paths."""
    if method != "GET":
        return None
    if path in _HEALTH:
        return 200, b"ok", "text/plain"
    if path == "/version":
        return 200, orjson.dumps(VERSION), JSON
    return None if path.startswith(("/api/", "/apis/")) else NO_SUCH_PAGE

"""A request to the API server and its response as plain data, the kinds of object that stackd uses, and Status. Pure.

Owns: reading Kubernetes' Status object, which says what became of a request. A refusal without a Status, or with one
for another code than the response's, is not from Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

import orjson

from stackd.structs import struct

METHODS: Mapping[str, str] = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "update": "PUT",
    "delete": "DELETE",
    "patch": "PATCH",
}
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
LOG = "pods/log"
VERSION = "version"
REVIEWS = "selfsubjectaccessreviews"
NAMESPACES = "namespaces"
LEASES = "leases"
CONFIG_MAPS = "configmaps"
GATEWAY_API = "gateway.networking.k8s.io"
HTTP_ROUTES, TLS_ROUTES, GATEWAYS = "httproutes", "tlsroutes", "gateways"
TOKENS = "serviceaccounts/token"
RBAC = "rbac.authorization.k8s.io/v1"
ADMISSION = "admissionregistration.k8s.io/v1"
PASSING = frozenset({429, 500, 502, 503, 504})
"""Codes of a temporary failure. A retry makes sense, whoever sent the code and in whatever form."""
FAILING = frozenset({502, 503, 504})
"""The codes of ``PASSING`` that mean that the server as a whole does not work, not only that it is busy."""

SUCCESS = "Success"
FAILURE = "Failure"

JsonObject = dict[str, Any]
_OK = range(200, 300)


@struct
class Kind:
    """The kind and apiVersion of a resource's objects."""

    name: str
    api_version: str = "v1"

    @property
    def group(self) -> str:
        """The API group; empty for the core one."""
        return self.api_version.rpartition("/")[0]

    @property
    def type_meta(self) -> dict[str, str]:
        """The fields ``apiVersion`` and ``kind`` of such an object's JSON."""
        return {"apiVersion": self.api_version, "kind": self.name}


KINDS: Mapping[str, Kind] = {
    "pods": Kind(name="Pod"),
    "services": Kind(name="Service"),
    "nodes": Kind(name="Node"),
    NAMESPACES: Kind(name="Namespace"),
    "events": Kind(name="Event"),
    "resourcequotas": Kind(name="ResourceQuota"),
    "limitranges": Kind(name="LimitRange"),
    "networkpolicies": Kind(name="NetworkPolicy", api_version="networking.k8s.io/v1"),
    CONFIG_MAPS: Kind(name="ConfigMap"),
    "secrets": Kind(name="Secret"),
    "serviceaccounts": Kind(name="ServiceAccount"),
    "roles": Kind(name="Role", api_version=RBAC),
    "rolebindings": Kind(name="RoleBinding", api_version=RBAC),
    "clusterroles": Kind(name="ClusterRole", api_version=RBAC),
    "clusterrolebindings": Kind(name="ClusterRoleBinding", api_version=RBAC),
    "validatingadmissionpolicies": Kind(name="ValidatingAdmissionPolicy", api_version=ADMISSION),
    "validatingadmissionpolicybindings": Kind(name="ValidatingAdmissionPolicyBinding", api_version=ADMISSION),
    GATEWAYS: Kind(name="Gateway", api_version=f"{GATEWAY_API}/v1"),
    HTTP_ROUTES: Kind(name="HTTPRoute", api_version=f"{GATEWAY_API}/v1"),
    TLS_ROUTES: Kind(name="TLSRoute", api_version=f"{GATEWAY_API}/v1"),
    LEASES: Kind(name="Lease", api_version="coordination.k8s.io/v1"),
    REVIEWS: Kind(name="SelfSubjectAccessReview", api_version="authorization.k8s.io/v1"),
    TOKENS: Kind(name="TokenRequest", api_version="authentication.k8s.io/v1"),
}


@struct
class KubeRequest:
    """A request: Kubernetes' verb and resource (as RBAC and the counters name them), the namespace, and the object.

    ``name`` is the name of the object to get, create, change or delete; ``uid`` is set if it must have that uid.
    """

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""
    uid: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = JSON

    @property
    def path(self) -> str:
        """The path of the URL."""
        if self.resource == VERSION:
            return "/version"
        resource, _, part = self.resource.partition("/")
        kind = KINDS[resource]
        root = "/apis" if kind.group else "/api"
        scope = f"/namespaces/{self.namespace}" if self.namespace else ""
        named = self.name and (part or self.verb != "create")  # an object that is to be created has no path yet
        return (
            f"{root}/{kind.api_version}{scope}/{resource}{f'/{self.name}' if named else ''}{f'/{part}' if part else ''}"
        )

    @property
    def asks_node(self) -> bool:
        """Whether the API server forwards the request to the pod's node. Then a failure may be only the node's."""
        return self.resource == LOG


@struct
class KubeResponse:
    """A response of any status; ``retry_after`` in seconds and ``date`` if the server sent them.

    ``document`` is the body as a JSON object, None if it is not one (a proxy's page, a truncated response).
    ``refusal`` is Kubernetes' Status for why it did not do the request; None if there is none, or it fits another code.
    """

    status: int
    body: bytes
    content_type: str = ""
    retry_after: int | None = None
    date: str = ""
    document: JsonObject | None = field(init=False, repr=False, compare=False)
    refusal: Status | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        document = _document(self.body)
        status = read_status(document)
        refused = status is not None and not status.success and status.code == self.status
        object.__setattr__(self, "document", document)
        object.__setattr__(self, "refusal", status if refused else None)

    @property
    def ok(self) -> bool:
        """Whether the status says that the request succeeded."""
        return self.status in _OK


def _document(body: bytes) -> JsonObject | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


@struct
class Cause:
    """One thing that is wrong with a field of an object."""

    field: str
    message: str


@struct
class Status:
    """``kind`` (mostly a resource: ``pods``), ``name`` and ``uid`` say what it is about; empty if it does not say."""

    success: bool
    code: int
    reason: str
    message: str
    kind: str
    name: str
    uid: str
    causes: tuple[Cause, ...]


def read_status(document: Mapping[str, Any] | None) -> Status | None:
    """The Status in the JSON; None if it is not a Status."""
    if document is None or document.get("kind") != "Status" or document.get("apiVersion") != "v1":
        return None
    if document.get("status") not in (SUCCESS, FAILURE):
        return None
    details = document.get("details")
    about: Mapping[str, Any] = details if isinstance(details, dict) else {}
    code = document.get("code")
    return Status(
        success=document["status"] == SUCCESS,
        code=code if isinstance(code, int) else 0,
        reason=text_of(document, "reason"),
        message=text_of(document, "message"),
        kind=text_of(about, "kind"),
        name=text_of(about, "name"),
        uid=text_of(about, "uid"),
        causes=tuple(_causes(about.get("causes"))),
    )


def _causes(listed: object) -> Iterator[Cause]:
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict):
            # Each part can be missing. A cause without a message has at least its reason.
            yield Cause(field=text_of(one, "field"), message=text_of(one, "message") or text_of(one, "reason"))


def text_of(document: Mapping[str, Any], key: str) -> str:
    """The text under that key; empty if there is none."""
    value = document.get(key)
    return value if isinstance(value, str) else ""

"""Who may do what: users by token, rules as in RBAC, access reviews, and service account tokens that expire.

Owns: the form of these tokens (a JWT, as in Kubernetes, but with a random signature). The accounts are the users named
``system:serviceaccount:NAMESPACE:NAME``, and the stored ServiceAccounts with the rights from stored roles and bindings.
Their tokens end with the process.
"""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import json

from stackd.embedded.resources import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    Json,
    Resource,
    StatusError,
    invalid,
    not_found,
    wrong,
)
from stackd.embedded.store import ObjectStore, timestamp

_GROUP = "authorization.k8s.io/v1"
REVIEWS = frozenset(f"/apis/{_GROUP}/selfsubject{what}reviews" for what in ("access", "rules"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessAttributes:
    """What a request wants to do. `resource` includes the subresource (`pods/log`)."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One PolicyRule; `namespace` is None for a rule of a ClusterRoleBinding. `*` matches anything."""

    verbs: frozenset[str]
    resources: frozenset[str]
    groups: frozenset[str] = frozenset({""})
    names: frozenset[str] = frozenset()
    namespace: str | None = None

    def allows(self, ask: AccessAttributes) -> bool:
        subresource = ask.resource.partition("/")[2]
        return (
            bool(self.verbs & {ask.verb, "*"})
            and bool(self.groups & {ask.group, "*"})
            and bool(self.resources & {ask.resource, f"*/{subresource}", "*"})
            and self.namespace in (None, ask.namespace)
            and (not self.names or ask.name in self.names)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user with a bearer token."""

    token: str = field(repr=False)
    name: str
    rules: tuple[Rule, ...] = ()

    def may(self, ask: AccessAttributes) -> bool:
        return any(rule.allows(ask) for rule in self.rules)


def administrator() -> User:
    """A user who may do everything, with a token that nobody can guess."""
    return User(token=secrets.token_urlsafe(32), name="embedded-admin", rules=(everything(),))


def everything() -> Rule:
    """The rule of cluster-admin."""
    star = frozenset({"*"})
    return Rule(verbs=star, resources=star, groups=star)


def denied(user: str, ask: AccessAttributes) -> StatusError:
    """The 403 in the words of Kubernetes' authorizer."""
    where = f'in the namespace "{ask.namespace}"' if ask.namespace else "at the cluster scope"
    resource = ask.resource.partition("/")[0]
    qualified = f"{resource}.{ask.group}" if ask.group else resource
    subject = f'{qualified} "{ask.name}"' if ask.name else qualified
    message = (
        f'{subject} is forbidden: User "{user}" cannot {ask.verb} resource "{ask.resource}" '
        f'in API group "{ask.group}" {where}'
    )
    details = {"name": ask.name, "group": ask.group, "kind": resource}
    return StatusError(403, "Forbidden", message, {key: value for key, value in details.items() if value})


def rules_from_manifests(manifests: Iterable[Mapping[str, Any]], *, account: str, namespace: str) -> tuple[Rule, ...]:
    """The rules that Roles, ClusterRoles and their bindings among the manifests give to a service account."""
    documents = list(manifests)
    roles = {
        (one["kind"], _namespace(one), one["metadata"]["name"]): one.get("rules") or []
        for one in documents
        if one.get("kind") in ("Role", "ClusterRole")
    }
    rules: list[Rule] = []
    for binding in documents:
        subjects = binding.get("subjects") or []
        bound = ("ServiceAccount", account, namespace) in (
            (s.get("kind"), s.get("name"), s.get("namespace")) for s in subjects
        )
        if bound and binding.get("kind") in ("RoleBinding", "ClusterRoleBinding"):
            scope = _namespace(binding) or None
            reference = binding["roleRef"]
            where = "" if reference["kind"] == "ClusterRole" else scope or ""
            rules += (_rule(rule, scope) for rule in roles.get((reference["kind"], where, reference["name"]), []))
    return tuple(rules)


def _namespace(document: Mapping[str, Any]) -> str:
    """The namespace of a role or binding; empty if it is cluster-wide."""
    metadata: Json = document["metadata"]
    return "" if document["kind"].startswith("Cluster") else metadata.get("namespace", "default")


def _rule(rule: Mapping[str, Any], namespace: str | None) -> Rule:
    return Rule(
        verbs=frozenset(rule.get("verbs") or ()),
        resources=frozenset(rule.get("resources") or ()),
        groups=frozenset(rule.get("apiGroups") or ("",)),
        names=frozenset(rule.get("resourceNames") or ()),
        namespace=namespace,
    )


def review(user: User | None, body: bytes) -> bytes:
    """The access or rules review with its result; a cluster without users allows everything."""
    document = json.decode(body)
    spec: Json = document["spec"]
    if document["kind"] == "SelfSubjectRulesReview":
        return json.encode(_rules_review(user, spec["namespace"]))
    asked = spec.get("resourceAttributes") or {}
    parts = (asked.get("resource", ""), asked.get("subresource"))
    ask = AccessAttributes(
        resource="/".join(part for part in parts if part),
        **{key: asked.get(key, "") for key in ("verb", "group", "namespace", "name")},
    )
    answer = {"kind": "SelfSubjectAccessReview", "apiVersion": _GROUP, "metadata": {}, "spec": spec}
    return json.encode(answer | {"status": {"allowed": user is None or user.may(ask)}})


OF_EVERY_USER = [
    {
        "verbs": ["create"],
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    },
    {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
]
PATHS_OF_EVERY_USER = [
    {"verbs": ["get"], "nonResourceURLs": paths.split()}
    for paths in (
        "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
        "/.well-known /.well-known/*",
        "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
        "/healthz /livez /readyz /version /version/",
    )
]
"""What Kubernetes' own ClusterRoles allow everybody who has a token."""


def _rules_review(user: User | None, namespace: str) -> Json:
    """As a real API server's: the spec is not repeated, and a rule names its objects only if it is limited to some."""
    rules = (everything(),) if user is None else user.rules
    listed = [
        {"verbs": sorted(rule.verbs), "apiGroups": sorted(rule.groups), "resources": sorted(rule.resources)}
        | ({"resourceNames": sorted(rule.names)} if rule.names else {})
        for rule in rules
        if rule.namespace in (None, namespace)
    ]
    status = {"resourceRules": [*OF_EVERY_USER, *listed], "nonResourceRules": PATHS_OF_EVERY_USER, "incomplete": False}
    meta: Json = {"kind": "SelfSubjectRulesReview", "apiVersion": _GROUP, "metadata": {}, "spec": {}}
    return meta | {"status": status}


AUDIENCE = ISSUER = "https://kubernetes.default.svc"
PREFIX = "system:serviceaccount:"
SHORTEST, DEFAULT = 600, 3600
_REQUEST = Resource(plural="tokenrequests", kind="TokenRequest", group="authentication.k8s.io")


class Accounts:
    """The service accounts of one cluster, and their tokens."""

    def __init__(self, users: Iterable[User], store: ObjectStore) -> None:
        self._users = {user.name: user for user in users}
        self._store = store
        self._issued: dict[str, tuple[str, str, float]] = {}
        """The account of each token (namespace and name), and when the token expires."""

    def replace(self, user: User) -> None:
        """Give the account of this name other rights from now on."""
        self._users[user.name] = user

    def request(self, namespace: str, name: str, body: bytes) -> bytes:
        """The response to a TokenRequest. Raises StatusError 400, 404 or 422."""
        if self._user(namespace, name) is None:
            raise not_found(SERVICE_ACCOUNTS, name)
        seconds = _seconds(body)
        now = self._store.clock.now()
        answer = {
            "kind": _REQUEST.kind,
            "apiVersion": _REQUEST.api_version,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": self.uid(namespace, name),
                "creationTimestamp": timestamp(now),
            },
            "spec": {"audiences": [AUDIENCE], "expirationSeconds": seconds, "boundObjectRef": None},
            "status": {
                "token": self.issue(namespace, name, seconds),
                "expirationTimestamp": timestamp(int(now) + seconds),
            },
        }
        return json.encode(answer)

    def issue(self, namespace: str, name: str, seconds: float) -> str:
        """A token that is valid for ``seconds`` from now."""
        now = int(self._store.clock.now())
        claims = {
            "aud": [AUDIENCE],
            "exp": int(now + seconds),
            "iat": now,
            "iss": ISSUER,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": name, "uid": self.uid(namespace, name)},
            },
            "nbf": now,
            "sub": f"{PREFIX}{namespace}:{name}",
        }
        parts = (b'{"alg":"HS256","kid":"embedded"}', json.encode(claims), secrets.token_bytes(32))
        token = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
        self._issued[token] = namespace, name, now + seconds
        return token

    def who(self, token: str) -> User | None:
        """The token's user; None if the token is not from this cluster or has expired."""
        namespace, name, end = self._issued.get(token, ("", "", 0.0))
        return self._user(namespace, name) if self._store.clock.now() < end else None

    def uid(self, namespace: str, name: str) -> str:
        stored = self._store.of(SERVICE_ACCOUNTS).records.get((namespace, name))
        return stored.uid if stored else str(uuid.uuid5(uuid.NAMESPACE_URL, f"{namespace}/{name}"))

    def _user(self, namespace: str, name: str) -> User | None:
        full = f"{PREFIX}{namespace}:{name}"
        user = self._users.get(full)
        if user is not None or (namespace, name) not in self._store.of(SERVICE_ACCOUNTS).records:
            return user
        kinds = (ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS)
        manifests = [{"kind": kind.kind, **one.obj} for kind in kinds for one in self._store.of(kind).records.values()]
        return User(token="", name=full, rules=rules_from_manifests(manifests, account=name, namespace=namespace))


def _seconds(body: bytes) -> int:
    spec = json.decode(body or b"{}").get("spec") or {}
    seconds: int = spec.get("expirationSeconds", DEFAULT)
    if seconds < SHORTEST:
        why = "may not specify a duration less than 10 minutes"
        raise invalid(_REQUEST, "", [wrong("spec.expirationSeconds", seconds, why)])
    return seconds

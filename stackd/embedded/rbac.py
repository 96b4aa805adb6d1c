"""Who may do what: users by token, rules as in RBAC; and reviews, which ask that. Knows no objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from stackd.embedded.resources import Json
from stackd.embedded.status import StatusError, bad_request

REVIEWS = frozenset({"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One PolicyRule; `namespace` is None for a rule that a ClusterRoleBinding grants. `*` matches anything."""

    verbs: frozenset[str]
    resources: frozenset[str]
    groups: frozenset[str] = frozenset({""})
    names: frozenset[str] = frozenset()
    namespace: str | None = None

    def allows(self, ask: AccessAttributes) -> bool:
        """Whether this rule alone is enough."""
        return (
            _has(self.verbs, ask.verb)
            and _has(self.groups, ask.group)
            and (_has(self.resources, ask.resource) or f"*/{ask.resource.partition('/')[2]}" in self.resources)
            and (self.namespace is None or self.namespace == ask.namespace)
            and (not self.names or ask.name in self.names)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessAttributes:
    """What a request wants to do. `resource` includes the subresource (`pods/log`)."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody with a bearer token."""

    token: str
    name: str
    rules: tuple[Rule, ...] = ()

    def may(self, ask: AccessAttributes) -> bool:
        """Whether any rule allows it."""
        return any(rule.allows(ask) for rule in self.rules)


def everything() -> Rule:
    """The rule of cluster-admin."""
    star = frozenset({"*"})
    return Rule(verbs=star, resources=star, groups=star)


def denied(user: str, ask: AccessAttributes) -> StatusError:
    """403 as the authorizer words it."""
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
    """The rules that a service account gets from Roles, ClusterRoles and their bindings among the manifests."""
    documents = list(manifests)
    roles = {_role_key(document): document.get("rules") or [] for document in documents if _is(document, "Role")}
    found: list[Rule] = []
    for binding in documents:
        if _is(binding, "RoleBinding") and _binds(binding, account, namespace):
            scope = None if binding["kind"] == "ClusterRoleBinding" else binding["metadata"].get("namespace", "default")
            reference = binding["roleRef"]
            key = (reference["kind"], "" if reference["kind"] == "ClusterRole" else scope or "", reference["name"])
            found.extend(_rule(rule, scope) for rule in roles.get(key, []))
    return tuple(found)


def _is(document: Mapping[str, Any], kind: str) -> bool:
    return document.get("kind") in {kind, f"Cluster{kind}"}


def _role_key(document: Mapping[str, Any]) -> tuple[str, str, str]:
    cluster = document["kind"] == "ClusterRole"
    metadata = document["metadata"]
    return document["kind"], "" if cluster else metadata.get("namespace", "default"), metadata["name"]


def _binds(binding: Mapping[str, Any], account: str, namespace: str) -> bool:
    wanted = ("ServiceAccount", account, namespace)
    subjects = binding.get("subjects") or []
    return any((s.get("kind"), s.get("name"), s.get("namespace")) == wanted for s in subjects)


def _rule(rule: Mapping[str, Any], namespace: str | None) -> Rule:
    return Rule(
        verbs=frozenset(rule.get("verbs") or ()),
        resources=frozenset(rule.get("resources") or ()),
        groups=frozenset(rule.get("apiGroups") or ("",)),
        names=frozenset(rule.get("resourceNames") or ()),
        namespace=namespace,
    )


def _has(allowed: frozenset[str], wanted: str) -> bool:
    return wanted in allowed or "*" in allowed


def review(user: User | None, body: bytes) -> bytes:
    """The review with its verdict; a cluster without users allows everything. Raises ApiError 400."""
    try:
        spec: Json = orjson.loads(body)["spec"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise bad_request("the object provided is unrecognized") from exc
    asked = spec.get("resourceAttributes") or {}
    resource = asked.get("resource", "")
    if asked.get("subresource"):
        resource += f"/{asked['subresource']}"
    ask = AccessAttributes(
        verb=asked.get("verb", ""),
        resource=resource,
        group=asked.get("group", ""),
        namespace=asked.get("namespace", ""),
        name=asked.get("name", ""),
    )
    allowed = user is None or user.may(ask)
    answer = {
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {},
        "spec": spec,
        "status": {"allowed": allowed},
    }
    return orjson.dumps(answer)

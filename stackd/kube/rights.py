"""The rights that stackd has in a cluster: exactly those that it uses. Pure.

``stackd manifests`` prints the table of rights as Role and ClusterRole, ``stackd doctor`` asks the cluster about each
line, and a test compares it with the requests that stackd really sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stackd.kube.labels import admission_policy_name, lease_name
from stackd.kube.wire import (
    BINDINGS,
    CONFIG_MAPS,
    GATEWAYS,
    KINDS,
    LEASES,
    LOG,
    NAMESPACES,
    NETWORK_POLICIES,
    POLICIES,
    TOKENS,
)

CLUSTER_IDENTITY = "kube-system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """Verbs on a resource, limited to the objects in ``names`` if there are any; ``why`` is for people."""

    resource: str
    verbs: tuple[str, ...]
    why: str
    names: tuple[str, ...] = ()

    def rule(self) -> dict[str, Any]:
        group = KINDS[self.resource.partition("/")[0]].group
        rule: dict[str, Any] = {"apiGroups": [group], "resources": [self.resource], "verbs": list(self.verbs)}
        return rule | ({"resourceNames": list(self.names)} if self.names else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessReview:
    """One verb of one right, for an access review; an empty namespace means cluster scope."""

    verb: str
    resource: str
    namespace: str
    name: str = ""
    why: str = ""


def _right(resource: str, verbs: str, why: str, *names: str) -> Right:
    return Right(resource=resource, verbs=tuple(verbs.split()), why=why, names=names)


_ALL_OF_ONE = "create get list watch patch delete"
IN_NAMESPACE = (
    _right("pods", _ALL_OF_ONE, "the stacks' pods; patch restores their labels"),
    _right("services", _ALL_OF_ONE, "the stacks' Services; patch keeps their records up to date"),
    _right(CONFIG_MAPS, _ALL_OF_ONE, "the templates that are written over the API, or with kubectl"),
    _right(LOG, "get", "the logs of a stack"),
    _right("events", "list", "the events of a stack"),
    _right(NETWORK_POLICIES, "list", "require_ingress_network_policy, and the doctor"),
    _right("resourcequotas", "list", "how many stacks fit, for /capacity and the doctor"),
    _right("limitranges", "list", "what a LimitRange gives to each container, for /capacity and the doctor"),
)


_WHY = {NETWORK_POLICIES: "the pods of a stack with members reach each other, and nobody else reaches these"}


def in_namespace(instance: str, routes: Iterable[str] = ()) -> tuple[Right, ...]:
    """The rights in the namespace of the stacks, with those on the kinds of ``routes``, and on NetworkPolicies where
    stacks have members. A create cannot be limited to a name."""
    name, why = lease_name(instance), "one stackd at a time owns the stacks, and renews this Lease"
    return (
        *IN_NAMESPACE,
        *(_right(kind, _ALL_OF_ONE, _WHY.get(kind, "the names of the stacks' ports")) for kind in routes),
        _right(LEASES, "create", f"the Lease {name}, where there is none"),
        _right(LEASES, "get list watch update", why, name),
    )


def in_cluster(namespace: str, instance: str) -> tuple[Right, ...]:
    """The rights that cannot be granted in the namespace."""
    guard = admission_policy_name(instance, namespace)
    why = f"the uid of {CLUSTER_IDENTITY} tells one cluster from another; the other is where the stacks are"
    return (
        _right("nodes", "list watch", "where stacks run, and under which address"),
        _right(NAMESPACES, "get", why, CLUSTER_IDENTITY, namespace),
        *(
            _right(resource, "get", "the doctor says whether the admission policy is in force", guard)
            for resource in (POLICIES, BINDINGS)
        ),
    )


def of_namespace(name: str) -> tuple[Right, ...]:
    """The right that replaces those on the cluster where there are none (``cluster.rights = "namespace"``)."""
    return (_right(NAMESPACES, "get", "its uid tells one cluster from another", name),)


def of_account(account: str) -> tuple[Right, ...]:
    return (_right(TOKENS, "create", "its own token, which ends, is renewed in time", account),)


def of_gateway(name: str) -> tuple[Right, ...]:
    return (_right(GATEWAYS, "get", "whether the Gateway serves names", name),)


def on_stacks(namespace: str, routes: Iterable[str] = ()) -> list[AccessReview]:
    """An access review for each verb that creating and deleting stacks takes."""
    kinds = ("pods", "services", *routes)
    return [ask for ask in reviews(in_namespace("", routes), namespace) if ask.resource in kinds]


def allows(rule: Mapping[str, Any], ask: AccessReview) -> bool:
    """Whether a ResourceRule of a rules review allows this on all objects; ``*`` matches anything."""
    wanted = {"verbs": ask.verb, "apiGroups": KINDS[ask.resource].group, "resources": ask.resource}
    listed = all({item, "*"} & set(rule.get(key) or ()) for key, item in wanted.items())
    return listed and not rule.get("resourceNames")


def asks(
    namespace: str, instance: str, routes: Iterable[str] = (), gateway: str = "", *, cluster: bool = True
) -> Iterator[AccessReview]:
    """An access review for each verb of the rights on the stacks, on the ``cluster``, if there are some, and on the Gateway, if
    there is one."""
    yield from reviews(in_namespace(instance, routes), namespace)
    yield from reviews(in_cluster(namespace, instance), "") if cluster else reviews(of_namespace(namespace), namespace)
    if gateway:
        where, _, name = gateway.partition("/")
        yield from reviews(of_gateway(name), where)


def reviews(rights: tuple[Right, ...], where: str) -> Iterator[AccessReview]:
    """An access review for each verb of the rights in that namespace; in none, if it is empty."""
    for right in rights:
        for verb in right.verbs:
            for name in right.names or ("",):
                yield AccessReview(verb=verb, resource=right.resource, namespace=where, name=name, why=right.why)

"""The rights that stackd has in a cluster: exactly those that it uses.

Owns: the table of rights. ``stackd manifests`` prints it as Role and ClusterRole, ``stackd doctor`` asks the cluster
about each line, and a test compares it with the requests that stackd really sends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stackd.kube.labels import lease_name
from stackd.kube.wire import KINDS, LEASES, TOKENS

CLUSTER_IDENTITY = "kube-system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """Verbs on a resource, limited to the objects in ``names`` if there are any; ``why`` is for people."""

    resource: str
    verbs: tuple[str, ...]
    why: str
    names: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The API group of the resource."""
        return KINDS[self.resource.partition("/")[0]].group

    def rule(self) -> dict[str, Any]:
        """The right as a PolicyRule."""
        rule: dict[str, Any] = {"apiGroups": [self.group], "resources": [self.resource], "verbs": list(self.verbs)}
        return rule | ({"resourceNames": list(self.names)} if self.names else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessReview:
    """One verb of one right, for an access review; an empty namespace means cluster scope."""

    verb: str
    resource: str
    subresource: str
    group: str
    namespace: str
    name: str
    why: str


IN_NAMESPACE: tuple[Right, ...] = (
    Right(
        resource="pods",
        verbs=("create", "get", "list", "watch", "patch", "delete"),
        why="the stacks' pods; patch restores their labels",
    ),
    Right(
        resource="services",
        verbs=("create", "get", "list", "watch", "patch", "delete"),
        why="the stacks' Services; patch keeps their records up to date",
    ),
    Right(
        resource="configmaps",
        verbs=("get", "list", "delete"),
        why="the records of stopped stacks of stackd 0.1.0 before Services carried them; they are converted at the start",
    ),
    Right(resource="pods/log", verbs=("get",), why="the logs of a stack"),
    Right(resource="events", verbs=("list",), why="the events of a stack"),
    Right(
        resource="networkpolicies",
        verbs=("list",),
        why="require_ingress_network_policy, and the doctor",
    ),
    Right(resource="resourcequotas", verbs=("list",), why="how many stacks fit, for /capacity and the doctor"),
    Right(
        resource="limitranges",
        verbs=("list",),
        why="what a LimitRange gives to each container, for /capacity and the doctor",
    ),
)


def in_namespace(instance: str) -> tuple[Right, ...]:
    """The rights in the namespace of the stacks. A create cannot be limited to a name."""
    name = lease_name(instance)
    return (
        *IN_NAMESPACE,
        Right(resource=LEASES, verbs=("create",), why=f"the Lease {name}, where there is none"),
        Right(
            resource=LEASES,
            names=(name,),
            verbs=("get", "list", "watch", "update"),
            why="one stackd at a time owns the stacks, and renews this Lease",
        ),
    )


def in_cluster(namespace: str) -> tuple[Right, ...]:
    """The rights that cannot be granted in the namespace."""
    return (
        Right(resource="nodes", verbs=("list", "watch"), why="where stacks run, and under which address"),
        Right(
            resource="namespaces",
            names=(CLUSTER_IDENTITY, namespace),
            verbs=("get",),
            why=f"the uid of {CLUSTER_IDENTITY} tells one cluster from another; the other is where the stacks are",
        ),
    )


def of_account(account: str) -> tuple[Right, ...]:
    """The rights in the namespace of stackd's own account."""
    return (
        Right(
            resource=TOKENS,
            names=(account,),
            verbs=("create",),
            why="its own token, which ends, is renewed in time",
        ),
    )


def asks(namespace: str, instance: str) -> Iterator[AccessReview]:
    """An access review for each verb of the rights on the stacks and on the cluster."""
    yield from _questions(in_namespace(instance), namespace)
    yield from _questions(in_cluster(namespace), "")


def asks_of_account(account: str, namespace: str) -> Iterator[AccessReview]:
    """An access review for each verb of the rights on stackd's own account in its namespace."""
    yield from _questions(of_account(account), namespace)


def _questions(rights: tuple[Right, ...], where: str) -> Iterator[AccessReview]:
    for right in rights:
        resource, _, subresource = right.resource.partition("/")
        for verb in right.verbs:
            for name in right.names or ("",):
                yield AccessReview(
                    verb=verb,
                    resource=resource,
                    subresource=subresource,
                    group=right.group,
                    namespace=where,
                    name=name,
                    why=right.why,
                )

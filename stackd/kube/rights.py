"""What stackd may do to a cluster: exactly what it does, and nothing else.

Owns the table. ``stackd manifests`` prints it as Role and ClusterRole, ``stackd doctor`` asks the cluster about each
line, and a test holds it to the requests that are really made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NETWORKING = "networking.k8s.io"
CLUSTER_IDENTITY = "kube-system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """Verbs on a resource, for named objects only where there are ``names``; ``why`` is for people."""

    resource: str
    verbs: tuple[str, ...]
    why: str
    group: str = ""
    names: tuple[str, ...] = ()

    def rule(self) -> dict[str, Any]:
        """As a PolicyRule."""
        rule: dict[str, Any] = {"apiGroups": [self.group], "resources": [self.resource], "verbs": list(self.verbs)}
        return rule | ({"resourceNames": list(self.names)} if self.names else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One verb of one right, for an access review; an empty namespace is the cluster's scope."""

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
        why="the stacks' pods; patch writes a longer life on a pod",
    ),
    Right(
        resource="services",
        verbs=("create", "get", "list", "watch", "delete"),
        why="the stacks' services",
    ),
    Right(resource="pods/log", verbs=("get",), why="the logs of a stack"),
    Right(resource="events", verbs=("list",), why="the events of a stack"),
    Right(
        resource="networkpolicies",
        group=NETWORKING,
        verbs=("list",),
        why="require_ingress_network_policy, and the doctor",
    ),
    Right(resource="resourcequotas", verbs=("list",), why="the doctor compares the quota with the nodes"),
    Right(resource="limitranges", verbs=("list",), why="the doctor tells what a stack is limited to"),
)


def in_cluster(namespace: str) -> tuple[Right, ...]:
    """What cannot be granted within the namespace."""
    return (
        Right(resource="nodes", verbs=("list", "watch"), why="where stacks run, and under which address"),
        Right(
            resource="namespaces",
            names=(CLUSTER_IDENTITY, namespace),
            verbs=("get",),
            why=f"the uid of {CLUSTER_IDENTITY} tells one cluster from another; the other is where the stacks are",
        ),
    )


def asks(namespace: str) -> Iterator[Ask]:
    """Each verb of the table as a question."""
    scoped = ((right, namespace) for right in IN_NAMESPACE)
    wide = ((right, "") for right in in_cluster(namespace))
    for right, where in (*scoped, *wide):
        resource, _, subresource = right.resource.partition("/")
        for verb in right.verbs:
            for name in right.names or ("",):
                yield Ask(
                    verb=verb,
                    resource=resource,
                    subresource=subresource,
                    group=right.group,
                    namespace=where,
                    name=name,
                    why=right.why,
                )

"""The rights that stackd has in a cluster: exactly those that it uses; and that only stackd has them for its objects. Pure.

``stackd manifests`` prints the table of rights as Role and ClusterRole, ``stackd doctor`` asks the cluster about each
line, and a test compares it with the requests that stackd really sends.

The ValidatingAdmissionPolicy lets only stackd write the objects of its stacks. stackd believes what its labels and records
say: without the policy, whoever may create a Service in the namespace can write a record that stackd adopts. A subresource
that is not listed (status, binding, eviction) needs no exception.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stackd.kube import labels
from stackd.kube.labels import lease_name
from stackd.kube.wire import CONFIG_MAPS, GATEWAY_API, GATEWAYS, KINDS, LEASES, LOG, NAMESPACES, POLICIES, TOKENS

CLUSTER_IDENTITY = "kube-system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """Verbs on a resource, limited to the objects in ``names`` if there are any; ``why`` is for people."""

    resource: str
    verbs: tuple[str, ...]
    why: str
    names: tuple[str, ...] = ()

    def rule(self) -> dict[str, Any]:
        """The right as a PolicyRule."""
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
    _right(
        CONFIG_MAPS,
        "get list delete",
        "the records of stopped stacks of stackd 0.1.0 before Services carried them; they are converted at the start",
    ),
    _right(LOG, "get", "the logs of a stack"),
    _right("events", "list", "the events of a stack"),
    _right("networkpolicies", "list", "require_ingress_network_policy, and the doctor"),
    _right("resourcequotas", "list", "how many stacks fit, for /capacity and the doctor"),
    _right("limitranges", "list", "what a LimitRange gives to each container, for /capacity and the doctor"),
)


def in_namespace(instance: str, routes: Iterable[str] = ()) -> tuple[Right, ...]:
    """The rights in the namespace of the stacks, with those on the kinds of routes. A create cannot be limited to a name."""
    name, why = lease_name(instance), "one stackd at a time owns the stacks, and renews this Lease"
    return (
        *IN_NAMESPACE,
        *(_right(kind, _ALL_OF_ONE, "the names of the stacks' ports") for kind in routes),
        _right(LEASES, "create", f"the Lease {name}, where there is none"),
        _right(LEASES, "get list watch update", why, name),
    )


def in_cluster(namespace: str) -> tuple[Right, ...]:
    """The rights that cannot be granted in the namespace."""
    why = f"the uid of {CLUSTER_IDENTITY} tells one cluster from another; the other is where the stacks are"
    return (
        _right("nodes", "list watch", "where stacks run, and under which address"),
        _right(NAMESPACES, "get", why, CLUSTER_IDENTITY, namespace),
    )


def of_account(account: str) -> tuple[Right, ...]:
    """The rights in the namespace of stackd's own account."""
    return (_right(TOKENS, "create", "its own token, which ends, is renewed in time", account),)


def of_gateway(name: str) -> tuple[Right, ...]:
    """The rights in the namespace of the Gateway."""
    return (_right(GATEWAYS, "get", "whether the Gateway serves names", name),)


def asks(namespace: str, instance: str, routes: Iterable[str] = (), gateway: str = "") -> Iterator[AccessReview]:
    """An access review for each verb of the rights on the stacks, on the cluster and on the Gateway, if there is one."""
    yield from reviews(in_namespace(instance, routes), namespace)
    yield from reviews(in_cluster(namespace), "")
    if gateway:
        where, _, name = gateway.partition("/")
        yield from reviews(of_gateway(name), where)


def reviews(rights: tuple[Right, ...], where: str) -> Iterator[AccessReview]:
    """An access review for each verb of the rights in that namespace; in none, if it is empty."""
    for right in rights:
        for verb in right.verbs:
            for name in right.names or ("",):
                yield AccessReview(verb=verb, resource=right.resource, namespace=where, name=name, why=right.why)


KINDS_OF_STACKS: Final = (
    ("", "v1", ("pods", "pods/ephemeralcontainers", "pods/resize", "services", "configmaps")),
    ("coordination.k8s.io", "v1", ("leases",)),
)
CONTROLLERS: Final = ("system:kube-controller-manager", "system:kube-scheduler")
"""They collect garbage, drain lost nodes, and make room for pods of a higher priority. They neither create nor adopt an
object of a stack, unless somebody's ReplicaSet has its labels: it would get the stack's connections, or end the stack."""
CONTROLLER_GROUPS: Final = ("system:nodes", "system:serviceaccounts:kube-system")
"""Kubelets delete the pods that have ended; the controllers may have an account each."""
_OWNERS: Final = "(has({0}.metadata.ownerReferences) ? size({0}.metadata.ownerReferences) : 0)"
_ADOPTED: Final = f"{_OWNERS.format('object')} > {_OWNERS.format('oldObject')}"
_KEPT: Final = ("spec", "data", "binaryData", "metadata.labels", "metadata.finalizers", "metadata.ownerReferences")


def policy_spec(instance: str, user: str, routes: Sequence[str] = ()) -> dict[str, Any]:
    """Deny every write of the instance's objects, except by ``user``, the cluster itself, and whoever may delete the
    policy anyway.
    """
    kinds = (*KINDS_OF_STACKS, (GATEWAY_API, "v1", routes)) if routes else KINDS_OF_STACKS
    conditions = {
        "of-a-stack": f"[object, oldObject].exists(one, one != null && ({_is_ours(instance)}))",
        "not-by-stackd": f"request.userInfo.username != '{user}'",
        "not-by-the-cluster": f"request.operation == 'CREATE' || (request.operation == 'UPDATE' && {_ADOPTED}) || "
        f"!(request.userInfo.username in {list(CONTROLLERS)} || (has(request.userInfo.groups) && "
        f"request.userInfo.groups.exists(group, group in {list(CONTROLLER_GROUPS)})))",
        "not-by-an-administrator": "!authorizer.group('admissionregistration.k8s.io')"
        f".resource('{POLICIES}').check('delete').allowed()",
    }
    return {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": [group],
                    "apiVersions": [version],
                    "operations": ["CREATE", "UPDATE", "DELETE"],
                    "resources": list(resources),
                    "scope": "Namespaced",
                }
                for group, version, resources in kinds
            ]
        },
        "matchConditions": [{"name": name, "expression": text} for name, text in conditions.items()],
        "variables": [
            {"name": name, "expression": f"has({one}.metadata.annotations) ? {one}.metadata.annotations : {{}}"}
            for name, one in (("before", "oldObject"), ("after", "object"))
        ]
        # Not every kind has every field: the API server warns about that in the status of the policy, except for dyn().
        + [{"name": name, "expression": f"dyn({one})"} for name, one in (("old", "oldObject"), ("new", "object"))],
        "validations": [
            {
                "expression": f"request.operation == 'UPDATE' && {_unchanged()}",
                "message": f"only stackd writes the objects of its stacks ({labels.INSTANCE}={instance})",
                "reason": "Forbidden",
            }
        ],
    }


def binding_spec(policy: str, namespace: str) -> dict[str, Any]:
    """Put the policy in force in the namespace of the stacks."""
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return {"policyName": policy, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": selector}}


def _is_ours(instance: str) -> str:
    """CEL: whether ``one`` has the instance's label, or any stack's, by which Services select their pods, or is the
    instance's Lease, which has a fixed name.
    """
    named, label = "one.metadata.labels", labels.INSTANCE
    ours = f"('{label}' in {named} && {named}['{label}'] == '{instance}')"
    labelled = f"(has({named}) && ('{labels.STACK}' in {named} || {ours}))"
    lease = f"has(one.metadata.name) && one.metadata.name == '{labels.lease_name(instance)}'"
    return f"{labelled} || (request.resource.resource == 'leases' && {lease})"


def _unchanged() -> str:
    """CEL: whether an update changes nothing that stackd reads: others may annotate its pods, as some networks do."""
    kept = [f"({_value('new', path)}) == ({_value('old', path)})" for path in _KEPT]
    mine, both = "!key.startsWith('stackd.io/')", "key in variables.before && key in variables.after"
    same = f"{mine} || ({both} && variables.before[key] == variables.after[key])"
    return " && ".join([*kept, *(f"variables.{side}.all(key, {same})" for side in ("before", "after"))])


def _value(one: str, path: str) -> str:
    return f"has(variables.{one}.{path}) ? variables.{one}.{path} : null"

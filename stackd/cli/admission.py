"""The ValidatingAdmissionPolicy that lets only stackd write the objects of its stacks. Pure.

stackd believes what its labels and records say: without the policy, whoever may create a Service in the namespace can write
a record that stackd adopts. A subresource that is not listed (status, binding, eviction) needs no exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from stackd.kube import labels
from stackd.kube.wire import GATEWAY_API, POLICIES

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

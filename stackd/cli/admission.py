"""The ValidatingAdmissionPolicy that lets only stackd write the objects of its stacks. Pure.

stackd believes what its labels and records say: without the policy, whoever may create a Service in the namespace can write
a record that stackd adopts. A subresource that is not listed (status, binding, eviction) needs no exception.
"""

from __future__ import annotations

from typing import Any, Final

from stackd.kube import labels
from stackd.kube.wire import GATEWAY_API, HTTP_ROUTES, POLICIES, TLS_ROUTES

SLICES: Final = "endpointslices"
KINDS_OF_STACKS: Final = (
    ("", "v1", ("pods", "pods/ephemeralcontainers", "pods/resize", "services", "configmaps")),
    ("coordination.k8s.io", "v1", ("leases",)),
    ("networking.k8s.io", "v1", ("networkpolicies",)),
    ("discovery.k8s.io", "v1", (SLICES,)),
)
ROUTES: Final = (GATEWAY_API, "v1", (HTTP_ROUTES, TLS_ROUTES, "grpcroutes"))
# How the names of a stack's pods, routes and NetworkPolicies, of its Service, and of the one behind its routes begin.
NAMES: Final = ("stack-", "svc-stack-", "rt-stack-")
# They collect garbage, drain lost nodes, make room for pods of a higher priority, and make the EndpointSlices of Services.
# They neither create nor adopt another object of a stack, unless somebody's ReplicaSet has its labels: it would get the
# stack's connections, or end the stack.
CONTROLLERS: Final = ("system:kube-controller-manager", "system:kube-scheduler")
# Kubelets delete the pods that have ended; the controllers may have an account each.
CONTROLLER_GROUPS: Final = ("system:nodes", "system:serviceaccounts:kube-system")
_OWNERS: Final = "(has({0}.metadata.ownerReferences) ? size({0}.metadata.ownerReferences) : 0)"
_ADOPTED: Final = f"{_OWNERS.format('object')} > {_OWNERS.format('oldObject')}"
_KEPT: Final = (
    "spec", "data", "binaryData", "endpoints", "ports", "metadata.labels", "metadata.finalizers", "metadata.ownerReferences",
)  # fmt: skip


def policy_spec(instance: str, user: str, domain: str = "") -> dict[str, Any]:
    """Deny every write of the instance's objects, and of what passes for one or takes its connections, except by ``user``,
    the cluster itself, and whoever may delete the policy anyway. ``domain``: ``routes.domain``, if stacks have names.
    """
    kinds = (*KINDS_OF_STACKS, ROUTES) if domain else KINDS_OF_STACKS
    made = f"request.operation == 'CREATE' && request.resource.resource != '{SLICES}'"
    conditions = {
        "of-a-stack": f"[object, oldObject].exists(one, one != null && ({_is_ours(instance, domain)}))",
        "not-by-stackd": f"request.userInfo.username != '{user}'",
        "not-by-the-cluster": f"({made}) || (request.operation == 'UPDATE' && {_ADOPTED}) || "
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


# CEL: whether a Service selects pods by labels of stackd: it would get the connections to them, or expose them.
_SELECTS: Final = (
    "has(one.spec) && has(one.spec.selector) && one.spec.selector.exists(key,"
    f" key.contains('stackd.io/') || (key == '{labels.MANAGED_BY}' && one.spec.selector[key] == '{labels.MANAGER}'))"
)
# CEL: whether the labelled object is a template, which anybody may write who may write ConfigMaps, unless stackd has written
# it: then it has our annotations. Without them it has the rights of a tenant.
_TEMPLATE: Final = f"(request.resource.resource == 'configmaps' && '{labels.TEMPLATE}' in one.metadata.labels)"
_SERVICE: Final = "kubernetes.io/service-name"
# CEL: whether an EndpointSlice says where the connections of a stack's Service go.
_OF_SERVICE: Final = (
    f"has(one.metadata.labels) && '{_SERVICE}' in one.metadata.labels"
    f" && {list(NAMES)}.exists(prefix, one.metadata.labels['{_SERVICE}'].startsWith(prefix))"
)


def _is_ours(instance: str, domain: str) -> str:
    """CEL: whether ``one`` is the instance's or any stack's, or could pass for that (by a label, an annotation or its name);
    or takes a stack's connections.
    """
    named, notes, label = "one.metadata.labels", "one.metadata.annotations", labels.INSTANCE
    ours = f"('{label}' in {named} && {named}['{label}'] == '{instance}' && !{_TEMPLATE})"
    lease = f"has(one.metadata.name) && one.metadata.name == '{labels.lease_name(instance)}'"
    takes = [("leases", lease), ("services", _SELECTS), (SLICES, _OF_SERVICE)]
    if domain:
        takes += [(resource, _serves(domain)) for resource in ROUTES[2]]
    return " || ".join(
        [
            f"(has({named}) && ('{labels.STACK}' in {named} || {ours}))",
            f"(has({notes}) && {notes}.exists(key, key.startsWith('stackd.io/')))",
            f"(has(one.metadata.name) && {list(NAMES)}.exists(prefix, one.metadata.name.startsWith(prefix)))",
            *(f"(request.resource.resource == '{resource}' && {text})" for resource, text in takes),
        ]
    )


def _serves(domain: str) -> str:
    """CEL: whether a route takes names below ``domain``. Without hostnames, it takes all of its listener."""
    labels_of_domain = domain.split(".")
    above = [f"*.{'.'.join(labels_of_domain[count:])}" for count in range(1, len(labels_of_domain))]
    below = f"name == '{domain}' || name.endsWith('.{domain}') || name in {above}"
    return f"(!has(one.spec.hostnames) || size(one.spec.hostnames) == 0 || one.spec.hostnames.exists(name, {below}))"


def _unchanged() -> str:
    """CEL: whether an update changes nothing that stackd reads: others may annotate its pods, as some networks do."""
    kept = [f"({_value('new', path)}) == ({_value('old', path)})" for path in _KEPT]
    mine, both = "!key.startsWith('stackd.io/')", "key in variables.before && key in variables.after"
    same = f"{mine} || ({both} && variables.before[key] == variables.after[key])"
    return " && ".join([*kept, *(f"variables.{side}.all(key, {same})" for side in ("before", "after"))])


def _value(one: str, path: str) -> str:
    return f"has(variables.{one}.{path}) ? variables.{one}.{path} : null"

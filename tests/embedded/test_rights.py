from __future__ import annotations

from typing import Any

from stackd.embedded import Rule, User, everything, rules_from_manifests
from tests.embedded.wire import fast, pod, running

ADMIN = User(token="admin", name="admin", rules=(everything(),))
MANIFESTS: list[dict[str, Any]] = [
    {
        "kind": "Role",
        "metadata": {"name": "r", "namespace": "rec"},
        "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "list"]},
            {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        ],
    },
    {
        "kind": "ClusterRole",
        "metadata": {"name": "c"},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}],
    },
    {
        "kind": "RoleBinding",
        "metadata": {"name": "rb", "namespace": "rec"},
        "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "stackd", "namespace": "rec"}],
    },
    {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "cb"},
        "roleRef": {"kind": "ClusterRole", "name": "c"},
        "subjects": [{"kind": "ServiceAccount", "name": "stackd", "namespace": "rec"}],
    },
]


async def test_a_user_may_do_what_the_manifests_say_and_no_more() -> None:
    rules = rules_from_manifests(MANIFESTS, account="stackd", namespace="rec")
    user = User(token="t", name="system:serviceaccount:rec:stackd", rules=rules)
    async with running(fast(users=(ADMIN, user))) as admin:
        wire = admin.as_user("t")
        assert (await wire.post("/api/v1/namespaces/rec/pods", pod("one"))).status == 201
        await wire.until_pod("one", lambda body: body["status"]["phase"] == "Running")
        assert (await wire.get("/api/v1/namespaces/rec/pods/one/log")).status == 200
        assert (await wire.get("/api/v1/nodes")).status == 200
        refused = [
            ("DELETE", "/api/v1/namespaces/rec/pods/one"),
            ("GET", "/api/v1/namespaces/default/pods"),
            ("GET", "/api/v1/pods"),
            ("GET", "/api/v1/nodes/embedded-worker"),
            ("GET", "/api/v1/namespaces/rec/pods?watch=1"),
        ]
        answers = [await wire.call(method, path) for method, path in refused]
        assert {(answer.status, answer.body["reason"]) for answer in answers} == {(403, "Forbidden")}
        assert answers[-1].message.startswith('pods is forbidden: User "system:serviceaccount:rec:stackd" cannot watch')


async def test_a_rule_may_be_for_named_objects_alone() -> None:
    rule = Rule(verbs=frozenset({"get"}), resources=frozenset({"namespaces"}), names=frozenset({"kube-system"}))
    user = User(token="t", name="reader", rules=(rule,))
    async with running(fast(users=(ADMIN, user))) as admin:
        wire = admin.as_user("t")
        assert (await wire.get("/api/v1/namespaces/kube-system")).status == 200
        answer = await wire.get("/api/v1/namespaces/default")
        assert answer.message.startswith('namespaces "default" is forbidden: User "reader" cannot get')


async def test_other_accounts_get_nothing_from_the_manifests() -> None:
    assert rules_from_manifests(MANIFESTS, account="other", namespace="rec") == ()

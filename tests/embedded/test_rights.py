from __future__ import annotations

from pathlib import Path
from typing import Any

from stackd.embedded import ManualClock, Rule, User, everything, rules_from_manifests
from tests.embedded.wire import Json, fast, pod, running

TOKEN_PATH = "/api/v1/namespaces/rec/serviceaccounts/own/token"
RENEW = Rule(
    verbs=frozenset({"create"}),
    resources=frozenset({"serviceaccounts/token"}),
    names=frozenset({"own"}),
    namespace="rec",
)
READ = Rule(verbs=frozenset({"list"}), resources=frozenset({"nodes"}))
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


async def test_a_rule_for_a_named_object_covers_the_list_and_the_watch_of_that_name_alone() -> None:
    """Kubernetes does so: it takes the name from ``fieldSelector=metadata.name=…``."""
    verbs = frozenset({"get", "list", "watch"})
    named = Rule(
        verbs=verbs,
        resources=frozenset({"leases"}),
        groups=frozenset({"coordination.k8s.io"}),
        names=frozenset({"ours"}),
    )
    user = User(token="t", name="reader", rules=(named,))
    leases = "/apis/coordination.k8s.io/v1/namespaces/rec/leases"
    async with running(fast(users=(ADMIN, user))) as admin:
        wire = admin.as_user("t")
        assert (await wire.get(f"{leases}?fieldSelector=metadata.name%3Dours")).status == 200
        async with wire.watching(f"{leases}?watch=1&fieldSelector=metadata.name%3Dours") as watched:
            assert watched.answer.status == 200
        for query in (
            "",
            "?fieldSelector=metadata.name%3Dtheirs",
            "?fieldSelector=metadata.name%21%3Dours",
            "?watch=1",
        ):
            assert (await wire.get(leases + query)).status == 403


async def test_other_accounts_get_nothing_from_the_manifests() -> None:
    assert rules_from_manifests(MANIFESTS, account="other", namespace="rec") == ()


async def test_a_token_that_was_asked_for_is_its_accounts_until_its_time_is_over() -> None:
    clock = ManualClock()
    account = User(token="first", name="system:serviceaccount:rec:own", rules=(RENEW, READ))
    async with running(fast(users=(account,), clock=clock)) as wire:
        answer = await wire.as_user("first").post(TOKEN_PATH, request(600))
        assert answer.status == 201
        token = answer.body["status"]["token"]
        assert (await wire.as_user(token).get("/api/v1/nodes")).status == 200
        assert (await wire.as_user(token).get("/api/v1/namespaces/rec/pods")).status == 403
        assert (await wire.as_user(token).post(TOKEN_PATH, request(600))).status == 201
        for forged in (token[:-2] + "xx", token.rpartition(".")[0] + ".", "a.b.c", f"{token}."):
            assert (await wire.as_user(forged).get("/api/v1/nodes")).status == 401
        clock.advance(601)
        assert (await wire.as_user(token).get("/api/v1/nodes")).status == 401


async def test_nobody_gets_a_token_for_another_account() -> None:
    users = tuple(
        User(token=name, name=f"system:serviceaccount:rec:{name}", rules=(RENEW,)) for name in ("own", "other")
    )
    async with running(fast(users=users)) as wire:
        refused = await wire.as_user("own").post(TOKEN_PATH.replace("/own/", "/other/"), request(600))
        assert refused.status == 403
        assert 'cannot create resource "serviceaccounts/token"' in refused.message
        assert (await wire.as_user("own").get(TOKEN_PATH)).status == 405


async def test_a_token_outlives_a_restart_of_its_cluster_and_is_worth_nothing_in_another(tmp_path: Path) -> None:
    account = User(token="first", name="system:serviceaccount:rec:own", rules=(RENEW, READ))
    options = fast(users=(account,), state_path=tmp_path / "state")
    async with running(options) as wire:
        token = (await wire.as_user("first").post(TOKEN_PATH, request(600))).body["status"]["token"]
    async with running(options) as wire:
        assert (await wire.as_user(token).get("/api/v1/nodes")).status == 200
    async with running(fast(users=(account,))) as wire:
        assert (await wire.as_user(token).get("/api/v1/nodes")).status == 401


def request(seconds: int) -> Json:
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}}

"""The admission policy of ``stackd manifests`` on a real API server: who may write the objects of stacks, and who not."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from msgspec import json

from stackd.cli.provision import Administrator, ManifestOptions, documents
from stackd.config import load
from stackd.daemon import running
from stackd.errors import ClusterRefused, ObjectNotFound, StackdError, UnexpectedAnswer
from stackd.kube.credentials import ClusterTarget
from stackd.kube.wire import HTTP_ROUTES, KINDS, MERGE_PATCH, POLICIES, Kind, KubeRequest
from tests.cluster.conftest import VARIABLE, environment_of
from tests.harness import Client, eventually, until

pytestmark = pytest.mark.skipif(VARIABLE not in os.environ, reason="the embedded cluster evaluates no policies")

LABELS = {"app.kubernetes.io/managed-by": "stackd", "stackd.io/instance": "default", "stackd.io/stack": "one"}
DENIED = "only stackd writes the objects of its stacks"
SPECS: dict[str, dict[str, Any]] = {
    "pods": {"spec": {"containers": [{"name": "app", "image": "nginx:stable"}], "nodeSelector": {"no": "node"}}},
    "services": {"spec": {"ports": [{"port": 80}]}},
    "configmaps": {"data": {"key": "value"}},
    "leases": {"spec": {"holderIdentity": "me"}},
}
KINDS_OF_STACKS = sorted(SPECS)
DOMAIN = "play.example.org"
SLICES, SLICE_OF = "endpointslices", "kubernetes.io/service-name"
SLICE = {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.9"]}], "ports": [{"port": 80}]}


@dataclass(frozen=True, slots=True)
class Users:
    """The administrator, stackd's account, and two with every right in the namespace of the stacks: somebody's, and one
    as the controllers have.
    """

    admin: Administrator
    stackd: Administrator
    other: Administrator
    controller: Administrator
    namespace: str

    def call(self, verb: str, kind: str, name: str, **more: Any) -> KubeRequest:
        return KubeRequest(verb=verb, resource=kind, namespace=self.namespace, name=name, **more)

    async def create(
        self, user: Administrator, kind: str, name: str = "one", content: dict[str, Any] | None = None, **metadata: Any
    ) -> dict[str, Any]:
        body = {**KINDS[kind].type_meta, "metadata": {"name": name, **metadata}, **(content or SPECS[kind])}
        return await user.answer(self.call("create", kind, name, body=json.encode(body)))

    async def patch(self, user: Administrator, kind: str, change: dict[str, Any], name: str = "one") -> None:
        await user.answer(self.call("patch", kind, name, body=json.encode(change), content_type=MERGE_PATCH))

    async def delete(self, user: Administrator, kind: str, name: str = "one") -> None:
        await user.answer(self.call("delete", kind, name, body=b'{"gracePeriodSeconds": 0}'))

    async def gone(self, kind: str, name: str = "one") -> bool:
        try:
            await self.admin.answer(self.call("get", kind, name))
        except ObjectNotFound:
            return True
        return False


async def denied(request: Awaitable[Any]) -> None:
    with pytest.raises(StackdError, match=DENIED):
        await request


@pytest.fixture
async def users(tmp_path: Path) -> AsyncIterator[Users]:
    namespace = f"stackd-policy-{secrets.token_hex(3)}"
    site = ManifestOptions(
        namespace=namespace, profile="baseline", account="stackd", account_namespace=namespace, stacks=10, domain=DOMAIN,
        largest_cpu="100m", largest_memory="128Mi", largest_ephemeral_storage="",
    )  # fmt: skip
    target = ClusterTarget(kubeconfig=os.environ[VARIABLE], namespace=namespace)
    async with AsyncExitStack() as stack:
        admin = await Administrator.connect(target)
        stack.push_async_callback(admin.close)
        objects = documents(site)
        for one in [*objects, *_everything_in(namespace)]:
            await admin.apply(one)
            if one["metadata"].get("namespace") != namespace:
                stack.push_async_callback(_remove, admin, one)

        async def user(account: str, where: str = namespace) -> Administrator:
            document = yaml.safe_load(Path(os.environ[VARIABLE]).read_text())
            for each in document["users"]:
                each["user"] = {"token": await admin.token(where, account, 3600)}
            path = tmp_path / account
            path.write_text(yaml.safe_dump(document))
            connected = await Administrator.connect(replace(target, kubeconfig=str(path)))
            stack.push_async_callback(connected.close)
            return connected

        controller = await user(namespace, "kube-system")
        found = Users(admin, await user("stackd"), await user("other"), controller, namespace)

        async def in_force() -> bool:
            try:
                await found.create(found.other, "configmaps", "trial", labels=LABELS)
            except StackdError as refused:
                return DENIED in str(refused)
            await found.delete(found.admin, "configmaps", "trial")
            return False

        await eventually(in_force, pause=0.2)
        yield found


def _everything_in(namespace: str) -> list[dict[str, Any]]:
    """Two accounts, of somebody and as of a controller, with every right in the namespace."""
    metadata = {"name": "other", "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    accounts = [metadata, {"name": namespace, "namespace": "kube-system"}]
    subjects = [{"kind": "ServiceAccount", **one} for one in accounts]
    return [
        *({**KINDS["serviceaccounts"].type_meta, "metadata": one} for one in accounts),
        {**KINDS["rolebindings"].type_meta, "metadata": metadata, "roleRef": role, "subjects": subjects},
    ]


async def _remove(admin: Administrator, one: dict[str, Any]) -> None:
    (kind,) = [plural for plural, kind in KINDS.items() if kind.name == one["kind"]]
    metadata = one["metadata"]
    call = KubeRequest(
        verb="delete", resource=kind, namespace=metadata.get("namespace", ""), name=metadata["name"], body=b"{}"
    )
    with contextlib.suppress(ObjectNotFound):
        await admin.answer(call)


async def test_only_stackd_and_an_administrator_write_the_objects_of_stacks(users: Users) -> None:
    contents: dict[str, dict[str, Any]] = {
        "services": {"spec": {"selector": {"app": "mine"}}},
        "configmaps": {"data": {"key": "other"}},
        "pods": {"spec": {"activeDeadlineSeconds": 5}},
        "leases": {"spec": {"holderIdentity": "mine"}},
    }
    for kind, content in contents.items():
        await denied(users.create(users.other, kind, labels=LABELS))
        await users.create(users.other, kind, "theirs")
        await denied(users.patch(users.other, kind, {"metadata": {"labels": LABELS}}, "theirs"))
        await users.create(users.stackd, kind, labels=LABELS, annotations={"stackd.io/record": "{}"})
        for metadata in (
            {"labels": dict.fromkeys(LABELS)},
            {"labels": {"stackd.io/stack": "two"}},
            {"annotations": {"stackd.io/record": "forged"}},
            {"annotations": {"stackd.io/expires-at": "2035-01-01T00:00:00Z"}},
            {"finalizers": ["example.org/stays"]},
        ):
            await denied(users.patch(users.other, kind, {"metadata": metadata}))
        await denied(users.patch(users.other, kind, content))
        await denied(users.delete(users.other, kind))
        await users.patch(users.other, kind, {"metadata": {"annotations": {"cni.example.org/ip": "10.0.0.1"}}})
        await users.patch(users.admin, kind, {"metadata": {"annotations": {"stackd.io/record": "mended"}}})
        await users.delete(users.admin if kind == "leases" else users.stackd, kind)


async def test_stackd_itself_works_under_it_and_the_api_server_finds_no_mistake_in_it(
    users: Users, tmp_path: Path
) -> None:
    call = KubeRequest(verb="get", resource=POLICIES, name=f"stackd-default-{users.namespace}")
    checked = await until(lambda: users.admin.answer(call), lambda policy: "typeChecking" in policy.get("status", {}))
    assert checked["status"]["typeChecking"] == {}
    environment = environment_of(str(tmp_path / "stackd"), tmp_path) | {
        "STACKD_STACKS__NAMESPACE": users.namespace,
        "STACKD_CLUSTER__INSTANCE": "default",
    }
    async with running(load(None, environment)) as daemon, aiohttp.ClientSession() as session:
        await daemon.ready.wait()
        at = Client(session=session, url=f"http://127.0.0.1:{daemon.port}")
        stack_id = (await at.create())["stack_id"]
        await at.do("extend", stack_id, ttl="1m")
        for verb in ("restart", "stop", "start"):
            await at.do(verb, stack_id)
        await at.delete(stack_id)
        assert await users.gone("pods", stack_id)
        assert await users.gone("services", f"svc-{stack_id}")


async def test_the_lease_is_stackds_by_its_name(users: Users) -> None:
    await denied(users.create(users.other, "leases", "stackd-default"))
    await users.create(users.other, "leases", "stackd-of-somebody-else")
    await users.create(users.other, "pods", "theirs")
    one = {"stackd.io/stack": "one"}
    for taken in (one, one | {"stackd.io/instance": "another"}):
        await denied(users.create(users.other, "pods", labels=taken))
        await denied(users.patch(users.other, "pods", {"metadata": {"labels": taken}}, "theirs"))


async def test_nobody_else_takes_a_stacks_name_or_an_annotation_of_stackd(users: Users) -> None:
    """A start would find the pod there, and a rebuild the record."""
    stack, stackds = "stack-0123456789abcdef", {"stackd.io/record": "9"}
    for kind, name in (
        ("pods", stack),
        ("services", f"svc-{stack}"),
        ("services", f"rt-{stack}"),
        ("configmaps", stack),
    ):
        await denied(users.create(users.other, kind, name))
        await denied(users.create(users.other, kind, annotations=stackds))
        await users.create(users.other, kind, "theirs", annotations={"example.org/generation": "9"})
        await denied(users.patch(users.other, kind, {"metadata": {"annotations": stackds}}, "theirs"))
        await users.delete(users.other, kind, "theirs")
        await users.create(users.admin, kind, name)
        await users.delete(users.stackd, kind, name)


async def test_others_write_templates_of_their_own_and_none_that_stackd_has_written(users: Users) -> None:
    kind, name = "configmaps", "stackd-default-web-1"
    template = {"stackd.io/instance": "default", "stackd.io/template": "web-1"}
    text = {"data": {"template.yaml": "pod: {}"}}
    await users.create(users.other, kind, name, text, labels=template)
    await users.patch(users.other, kind, {"data": {"template.yaml": "pod: 7"}}, name)
    for forged in ({"annotations": {"stackd.io/scope": "admin"}}, {"labels": {"stackd.io/stack": "one"}}):
        await denied(users.patch(users.other, kind, {"metadata": forged}, name))
    await denied(
        users.create(users.other, kind, "theirs", text, labels=template, annotations={"stackd.io/owner": "key:1"})
    )
    written = {"metadata": {"annotations": {"stackd.io/owner": "key:1", "stackd.io/scope": "admin"}}}
    await users.patch(users.stackd, kind, written, name)
    for change in (
        {"data": {"template.yaml": "pod: 8"}},
        {"metadata": {"annotations": {"stackd.io/owner": None, "stackd.io/scope": None}}},
        {"metadata": {"labels": {"stackd.io/template": "web-2"}}},
        {"metadata": {"labels": dict.fromkeys(template)}},
    ):
        await denied(users.patch(users.other, kind, change, name))
    await denied(users.delete(users.other, kind, name))
    await users.delete(users.stackd, kind, name)
    await users.create(users.other, kind, name, text, labels=template)
    await users.delete(users.other, kind, name)


async def test_nobody_elses_service_selects_stacks_by_what_stackd_writes(users: Users) -> None:
    theirs = {"app": "theirs", "app.kubernetes.io/managed-by": "Helm"}
    await users.create(users.other, "services", "theirs", {"spec": {"ports": [{"port": 80}], "selector": theirs}})
    for selector in (
        {"stackd.io/stack": "stack-0123456789abcdef"},
        {"stackd.io/instance": "default"},
        {"label.stackd.io/team": "7"},
        {"app.kubernetes.io/managed-by": "stackd"},
    ):
        spec = {"spec": {"ports": [{"port": 80}], "selector": selector}}
        await denied(users.create(users.other, "services", "one", spec))
        await denied(users.patch(users.other, "services", spec, "theirs"))


async def test_only_the_clusters_controllers_say_where_a_stacks_service_leads(
    users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, SLICES, Kind(name="EndpointSlice", api_version="discovery.k8s.io/v1"))
    service, selector = "svc-stack-0123456789abcdef", {"stackd.io/stack": "stack-0123456789abcdef"}
    for name in ("theirs", f"{service}-theirs"):
        await denied(users.create(users.other, SLICES, name, SLICE, labels={SLICE_OF: service}))
    await users.create(users.other, SLICES, "theirs", SLICE, labels={SLICE_OF: "theirs"})
    await denied(users.patch(users.other, SLICES, {"metadata": {"labels": {SLICE_OF: service}}}, "theirs"))
    spec = {"spec": {"ports": [{"port": 80}], "selector": selector}}
    await users.create(users.stackd, "services", service, spec, labels=LABELS)
    call = users.call("list", SLICES, "", params={"labelSelector": f"{SLICE_OF}={service}"})
    made = (await until(lambda: users.admin.answer(call), lambda slices: slices["items"]))["items"][0]["metadata"][
        "name"
    ]
    await denied(users.patch(users.other, SLICES, {"endpoints": SLICE["endpoints"]}, made))
    await users.delete(users.stackd, "services", service)
    await eventually(lambda: users.gone(SLICES, made), pause=0.2)


async def test_nobody_elses_route_takes_names_of_stacks(users: Users) -> None:
    try:
        await users.create(users.other, HTTP_ROUTES, "theirs", {"spec": {"hostnames": ["www.example.org"]}})
    except ClusterRefused as error:
        pytest.skip(str(error))
    for names in ([DOMAIN], [f"*.{DOMAIN}"], ["*.example.org"], ["www.example.org", f"b.{DOMAIN}"], []):
        await denied(users.create(users.other, HTTP_ROUTES, "one", {"spec": {"hostnames": names}}))
        await denied(users.patch(users.other, HTTP_ROUTES, {"spec": {"hostnames": names}}, "theirs"))


async def test_the_clusters_controllers_may_end_an_object_but_neither_make_nor_adopt_one(users: Users) -> None:
    """Whoever may create a ReplicaSet has its controller create pods, and adopt and delete those that match."""
    owner = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "one", "uid": "one", "controller": True}]
    for kind in KINDS_OF_STACKS:
        await denied(users.create(users.controller, kind, labels=LABELS))
        await users.create(users.stackd, kind, labels=LABELS, finalizers=["example.org/stays"])
        await denied(users.patch(users.controller, kind, {"metadata": {"ownerReferences": owner}}))
        await users.patch(users.controller, kind, {"metadata": {"finalizers": None}})
        await users.delete(users.controller, kind)


async def test_the_cluster_itself_goes_on(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is collected, a pod is evicted, and the namespace is emptied, which the fixture waits for."""
    monkeypatch.setitem(KINDS, "pods/eviction", Kind(name="Eviction", api_version="policy/v1"))
    owner = await users.create(users.stackd, "pods", labels=LABELS)
    owned = [{**KINDS["pods"].type_meta, "name": "one", "uid": owner["metadata"]["uid"]}]
    for kind in ("services", "configmaps"):
        await users.create(users.stackd, kind, labels=LABELS, ownerReferences=owned)
    with contextlib.suppress(UnexpectedAnswer):  # the answer is a Status
        await users.create(users.other, "pods/eviction", "one", {"spec": {}})
    for kind in ("pods", "services", "configmaps"):
        await eventually(partial(users.gone, kind), pause=0.2)
    await users.create(users.admin, "configmaps", labels=LABELS)
    await users.admin.answer(KubeRequest(verb="delete", resource="namespaces", name=users.namespace, body=b"{}"))
    await eventually(lambda: users.gone("configmaps"), lambda: "the namespace is not emptied", pause=0.2)


async def test_a_pod_runs_and_ends_on_a_node(users: Users) -> None:
    """The kubelet writes its status, and deletes it at the end of its grace period."""
    listed = await users.admin.answer(KubeRequest(verb="list", resource="nodes"))
    real = [one["metadata"]["name"] for one in listed["items"] if one["status"]["nodeInfo"].get("kubeletVersion")]
    if not real:
        pytest.skip("no node has a kubelet")
    spec = {
        "containers": [{"name": "app", "image": "nginx:stable", "imagePullPolicy": "IfNotPresent"}],
        "terminationGracePeriodSeconds": 1,
        "nodeSelector": {"kubernetes.io/hostname": real[0]},
    }
    body = {**KINDS["pods"].type_meta, "metadata": {"name": "one", "labels": LABELS}, "spec": spec}
    await users.stackd.answer(users.call("create", "pods", "one", body=json.encode(body)))
    get = users.call("get", "pods", "one")
    await until(lambda: users.admin.answer(get), lambda pod: pod["status"]["phase"] == "Running", 60)
    await users.stackd.answer(users.call("delete", "pods", "one", body=b"{}"))
    await eventually(lambda: users.gone("pods"), pause=0.2)

"""The doctor finds what is wrong and says what to do; it finds nothing on a cluster that ``manifests`` has set up."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from stackd.cli import stackd
from stackd.cli.doctor import examine
from stackd.config import load
from stackd.doctor import Finding, Level, machine
from stackd.doctor import cluster as doctors
from stackd.doctor.cluster import Size
from stackd.doctor.probe import ProbeOptions, Question
from stackd.embedded import EmbeddedCluster, NodeSpec, User
from stackd.kube.objects import node_state
from stackd.lifecycle.capacity import ENOUGH, Bound, Storage, by_nodes, by_quotas, fits, free_of
from tests.api.test_reconcile import leave_behind
from tests.api.test_templates import PLAIN, folder_with
from tests.harness import KEY, READ_KEY, eventually, fast_cluster, harness
from tests.provisioning import ADMIN, OURS, apply, printed, rules

ROLE = {"role": "stack"}
STRANGE = "stack-00000000000000aa"
QUICK = ProbeOptions(seconds=10.0)


@dataclass(slots=True, kw_only=True)
class Ward:
    """A prepared cluster, and the ways to let the doctor examine it."""

    cluster: EmbeddedCluster
    environment: dict[str, str]
    folder: Path

    async def look(self, options: ProbeOptions | None = None, **settings: str) -> list[Finding]:
        loaded = load(None, self.environment | settings)
        return [finding async for finding in examine(loaded, None, Size(), options)]

    async def send(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        headers = {"Authorization": f"Bearer {ADMIN.token}", "Content-Type": kind}
        url = self.cluster.url + path
        async with aiohttp.ClientSession(headers=headers) as session, session.request(method, url, json=body) as answer:
            return await answer.json()

    async def names(self, resource: str) -> list[str]:
        document = await self.send("GET", f"/api/v1/namespaces/stacks/{resource}")
        return [item["metadata"]["name"] for item in document["items"]]


@asynccontextmanager
async def ward(folder: Path, documents: list[dict[str, Any]] | None = None, **cluster: Any) -> AsyncIterator[Ward]:
    documents = printed() if documents is None else documents
    account = User(token=OURS, name="system:serviceaccount:stackd:stackd", rules=rules(documents) or rules(printed()))
    async with EmbeddedCluster(fast_cluster(users=(ADMIN, account), **cluster)) as made:
        await apply(made, documents)
        made.write_kubeconfig(folder / "kubeconfig", token=OURS)
        environment = {
            "STACKD_AUTH__KEY": KEY,
            "STACKD_SERVER__PORT": "1",
            "STACKD_STATE__PATH": str(folder / "stackd.db"),
            "STACKD_CLUSTER__KUBECONFIG": str(folder / "kubeconfig"),
        }
        yield Ward(cluster=made, environment=environment, folder=folder)


def bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level is not Level.OK]


def only(findings: list[Finding], about: str) -> Finding:
    (found,) = [finding for finding in bad(findings) if finding.about == about]
    return found


async def test_where_all_is_as_it_should_be_nothing_is_found(tmp_path: Path) -> None:
    async with ward(tmp_path) as at:
        findings = await at.look()
        assert not bad(findings)
        assert [finding.about for finding in findings] == [
            "configuration", "files", "disk", "daemon", "cluster", "clock", "credentials", "namespace", "rights", "policies",
            "policies", "nodes", "ports", "room",
        ]  # fmt: skip
        assert not await at.names("services")


async def test_each_missing_right_is_named(tmp_path: Path) -> None:
    documents = printed()
    for document in documents:
        for rule in document.get("rules", ()):
            rule["verbs"] = [verb for verb in rule["verbs"] if verb not in ("watch", "delete")]
    async with ward(tmp_path, documents) as at:
        found = {finding.what.partition(":")[0] for finding in bad(await at.look()) if finding.level is Level.FAIL}
        wanted = (
            "watch pods in stacks",
            "delete pods in stacks",
            "watch services in stacks",
            "delete services in stacks",
            "delete configmaps in stacks",
            "watch leases in stacks",
        )
        assert found == {f"stackd may not {right}" for right in (*wanted, "watch nodes")}


async def test_a_token_that_ends_and_cannot_be_renewed_is_found(tmp_path: Path) -> None:
    def credentials(findings: list[Finding]) -> tuple[Level, str]:
        (found,) = [finding for finding in findings if finding.about == "credentials"]
        return found.level, found.what

    async with ward(tmp_path) as at:
        assert credentials(await at.look()) == (Level.OK, "they do not expire, or something else renews them")
        at.cluster.write_kubeconfig(tmp_path / "kubeconfig", token=at.cluster.accounts.issue("stackd", "stackd", 600))
        level, what = credentials(await at.look())
        assert (level, what.endswith("and is renewed before")) == (Level.OK, True)
    (tmp_path / "two").mkdir()
    documents = [one for one in printed() if "token" not in one["metadata"]["name"]]
    async with ward(tmp_path / "two", documents) as at:
        path = tmp_path / "two" / "kubeconfig"
        at.cluster.write_kubeconfig(path, token=at.cluster.accounts.issue("stackd", "stackd", 600))
        level, what = credentials(await at.look())
        assert (level, "may not create a new one" in what) == (Level.WARN, True)


async def test_an_account_that_may_do_everything_is_warned_of(tmp_path: Path) -> None:
    async with ward(tmp_path) as at:
        at.cluster.write_kubeconfig(tmp_path / "kubeconfig", token=ADMIN.token)
        found = only(await at.look(), "rights")
        assert (found.level, "get secrets in stacks" in found.what) == (Level.WARN, True)


async def test_an_absent_namespace_policies_and_quota_are_found(tmp_path: Path) -> None:
    async with ward(tmp_path, []) as at:
        (found,) = bad(await at.look())
        assert (found.about, found.level, found.what) == ("namespace", Level.FAIL, "there is no namespace stacks")
        assert "is stacks.namespace right?" in found.advice
    (tmp_path / "two").mkdir()
    async with ward(tmp_path / "two", [{"kind": "Namespace", "metadata": {"name": "stacks"}}]) as at:
        findings = bad(await at.look())
        assert [(finding.about, finding.level) for finding in findings] == [
            ("namespace", Level.WARN),
            ("policies", Level.FAIL),
            ("policies", Level.WARN),
            ("room", Level.WARN),
            ("room", Level.WARN),
        ]
        assert all("manifests" in f.advice or "kubectl label" in f.advice for f in findings)
        levels = [f.level for f in bad(await at.look(STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY="false"))]
        assert Level.FAIL not in levels


async def test_a_wrong_namespace_is_one_question_and_not_a_failure_for_each_right(tmp_path: Path) -> None:
    async with ward(tmp_path) as at:
        *_, found = bad(await at.look(STACKD_STACKS__NAMESPACE="stakcs"))
        assert (found.about, "has none of its" in found.what, "stakcs" in found.what) == ("rights", True, True)
        assert "is stacks.namespace right?" in found.advice
        assert len(bad(await at.look(STACKD_STACKS__NAMESPACE="stakcs"))) <= 2


@pytest.mark.parametrize(("free", "level"), [(1 << 30, Level.OK), (300 << 20, Level.WARN), (8 << 20, Level.FAIL)])
async def test_a_disk_that_is_nearly_full_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: Level
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    loaded = load(
        None, {"STACKD_AUTH__KEY": KEY, "STACKD_STATE__PATH": f"{tmp_path}/a.db", "STACKD_CLUSTER__MODE": "embedded"}
    )
    (found,) = [one for one in machine.examine(loaded, None) if one.about == "disk"]
    assert found.level is level


async def test_what_keeps_the_daemon_waiting_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKD_API_KEY", KEY)
    async with ward(tmp_path) as ours, harness(tmp_path, cluster=ours.cluster, token="refused", wait=False) as at:
        await at.until_unready("waiting for the cluster: ")
        looked = await ours.look(STACKD_SERVER__PORT=str(at.port))
    found = [one for one in looked if one.level is Level.FAIL]
    assert [one.about for one in found] == ["daemon", "cluster"]
    assert found[1].what not in found[0].what


async def test_nodes_that_cannot_be_used_or_reached_are_found(tmp_path: Path) -> None:
    nodes = (NodeSpec(name="a", labels=ROLE, external_ip=None), NodeSpec(name="b", labels={"role": "other"}))
    async with ward(tmp_path, nodes=nodes) as at:
        found = only(await at.look(), "nodes")
        assert (found.level, "no public address (ExternalIP): a" in found.what) == (Level.WARN, True)
        assert not bad(await at.look(STACKD_STACKS__PUBLIC_IPS="a=203.0.113.1"))
        assert not bad(await at.look(STACKD_STACKS__ADDRESS_TYPES="InternalIP"))
        found = only(await at.look(STACKD_STACKS__NODE_SELECTOR="role=arena"), "nodes")
        assert (found.level, found.what) == (Level.FAIL, "none of 2 has role=arena")
        at.cluster.faults.cordon("a")
        assert only(await at.look(), "nodes").level is Level.FAIL
        assert only(await at.look(), "room").level is Level.FAIL


async def test_a_namespace_that_is_stricter_than_the_profile_can_meet_is_found(tmp_path: Path) -> None:
    documents = printed()
    documents[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "restricted"
    async with ward(tmp_path, documents) as at:
        found = only(await at.look(), "namespace")
        assert (found.level, "enforces the Pod Security Standard restricted" in found.what) == (Level.FAIL, True)
        assert "kubectl label --overwrite namespace stacks pod-security.kubernetes.io/enforce=baseline" in found.advice
        assert not bad(await at.look(STACKD_POLICY__PROFILE="restricted"))
        meets = {"STACKD_POLICY__RUN_AS_ROOT": "false", "STACKD_POLICY__DROP_CAPABILITIES": "ALL"}
        assert not [finding for finding in bad(await at.look(None, **meets)) if finding.level is Level.FAIL]


async def test_pods_of_the_same_instance_that_the_daemon_does_not_know_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACKD_API_KEY", KEY)
    async with ward(tmp_path) as at:
        quiet = {"STACKD_RECONCILE__INTERVAL": "1h"} | folder_with(tmp_path, web=PLAIN + "pool: 1\n")
        async with harness(tmp_path, quiet, cluster=at.cluster, token=OURS, admin=ADMIN.token) as own:
            await own.until_metric("stackd_pool_stacks", 1, template="web", state="ready")
            await leave_behind(own, STRANGE)
            port = {"STACKD_SERVER__PORT": str(own.port)}
            assert "instance" not in {finding.about for finding in await at.look(None, **port)}
            monkeypatch.setattr(doctors, "STRANGE_SECONDS", -1.0)
            found = only(await at.look(None, **port), "instance")
            assert (found.level, found.what.startswith("1 pods with cluster.instance default are no stacks of")) == (
                Level.FAIL,
                True,
            )
            assert STRANGE in found.what
            assert "give each its own cluster.instance" in found.advice


async def test_objects_that_belong_to_no_known_stack_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACKD_API_KEY", KEY)
    grace = {"STACKD_RECONCILE__ORPHAN_GRACE": "0s"}
    async with ward(tmp_path) as at, harness(tmp_path, grace, cluster=at.cluster, token=OURS, admin=ADMIN.token) as own:
        port = {"STACKD_SERVER__PORT": str(own.port)}
        await leave_behind(own, "stack-00000000000000aa")
        await own.until_metric("stackd_unknown_objects", 1)
        found = only(await at.look(None, **port), "daemon")
        assert (found.level, "pods stack-00000000000000aa" in found.what) == (Level.WARN, True)


DISKLESS = NodeSpec(name="diskless", ephemeral_storage="")


async def test_nodes_without_the_disk_that_the_limit_range_gives_are_found(tmp_path: Path) -> None:
    async with ward(tmp_path, nodes=(DISKLESS,)) as at:
        room, why = [finding for finding in bad(await at.look()) if finding.about == "room"]
        assert (room.level, room.what.startswith("for 0 stacks")) == (Level.FAIL, True)
        assert "nodes, ephemeral-storage" in room.what
        assert why.what == (
            "LimitRange stacks gives each container 64Mi of ephemeral-storage, and diskless reports none: no stack runs there"
        )
        assert "stackd manifests --no-ephemeral-storage" in why.advice
    (tmp_path / "mixed").mkdir()
    async with ward(tmp_path / "mixed", nodes=(DISKLESS, NodeSpec(name="whole"))) as at:
        found = only(await at.look(), "room")
        assert (found.level, "and diskless reports none" in found.what) == (Level.WARN, True)
    (tmp_path / "fixed").mkdir()
    async with ward(tmp_path / "fixed", printed("--no-ephemeral-storage"), nodes=(DISKLESS,)) as at:
        assert not bad(await at.look())
        found = bad(await at.look(STACKD_POLICY__MAX_EPHEMERAL_STORAGE="8Gi"))[-1]
        assert "policy.max_ephemeral_storage gives each pod 8Gi of ephemeral-storage" in found.what


async def test_a_policy_that_gives_more_disk_than_the_limit_range_allows_is_found(tmp_path: Path) -> None:
    async with ward(tmp_path) as at:
        found = only(await at.look(STACKD_POLICY__MAX_EPHEMERAL_STORAGE="8Gi"), "room")
        assert (found.level, "LimitRange stacks refuses a container more than 2Gi" in found.what) == (Level.FAIL, True)
        assert not bad(await at.look(STACKD_POLICY__MAX_EPHEMERAL_STORAGE="2Gi"))


async def test_disk_counts_where_stacks_ask_for_it(tmp_path: Path) -> None:
    async with ward(tmp_path, nodes=(NodeSpec(name="small", ephemeral_storage="1Gi"),)) as at:
        (room,) = [finding for finding in await at.look() if finding.about == "room"]
        assert room.what.startswith("for 16 stacks of 100m CPU and 128Mi (nodes, ephemeral-storage)")
        loaded = load(None, at.environment)
        asked = [one async for one in examine(loaded, None, Size(ephemeral_bytes=2 << 30), None)]
        assert [finding.level for finding in asked if finding.about == "room"] == [Level.FAIL, Level.FAIL]


async def test_a_cluster_whose_pods_are_not_in_the_networks_that_the_policies_leave_out_is_found(
    tmp_path: Path,
) -> None:
    nodes = (NodeSpec(name="a", pod_cidr="100.80.0.0/24"), NodeSpec(name="b", pod_cidr="100.80.1.0/24"))
    async with ward(tmp_path, nodes=nodes) as at:
        found = only(await at.look(), "policies")
        assert found.level is Level.FAIL
        assert found.what == (
            "NetworkPolicy stacks-from-outside lets in the cluster's own pods (podCIDR 100.80.0.0/24, 100.80.1.0/24)"
        )
        assert "stackd manifests --cluster-cidr" in found.advice
    (tmp_path / "fixed").mkdir()
    documents = printed("--cluster-cidr", "100.80.0.0/16")
    async with ward(tmp_path / "fixed", documents, nodes=nodes) as at:
        assert not bad(await at.look())


async def test_a_port_range_beyond_the_clusters_own_is_found(tmp_path: Path) -> None:
    async with ward(tmp_path, node_port_range=(30000, 32000)) as at:
        found = only(await at.look(), "ports")
        said = "only 31001-32000 of the node ports 31001-32767 are used: the cluster's own range is 30000-32000"
        assert (found.level, found.what) == (Level.WARN, said)
        at.cluster.faults.take_port(31001)
        assert not bad(await at.look(STACKD_STACKS__NODE_PORT_MAX="32000"))
        nothing = await at.look(STACKD_STACKS__NODE_PORT_MIN="20000", STACKD_STACKS__NODE_PORT_MAX="20100")
        found = only(nothing, "ports")
        assert found.level is Level.FAIL
        assert "20000-20100" in found.what
        assert "30000-32000" in found.what
        assert "node_port_min" in found.advice
        assert not await at.names("services")


async def test_the_probe_takes_a_node_port_that_the_cluster_has(tmp_path: Path) -> None:
    async with ward(tmp_path, node_port_range=(31500, 31501), serve_node_ports=True) as at:
        findings = [finding for finding in await at.look(QUICK) if finding.about == "probe"]
        assert findings[0].level is Level.OK, findings
        none = await at.look(QUICK, STACKD_STACKS__NODE_PORT_MAX="31100")
        (found,) = [finding for finding in none if finding.about == "probe"]
        assert (found.level, "31001-31100" in found.what) == (Level.FAIL, True)


async def test_a_cluster_that_does_not_answer_is_one_failure(tmp_path: Path) -> None:
    async with ward(tmp_path) as at:
        at.cluster.faults.add_fault(action="status", code=401)
        found = bad(await at.look())
        assert [(finding.about, finding.level) for finding in found] == [("cluster", Level.FAIL)]


async def test_files_that_everybody_may_read_are_found(tmp_path: Path) -> None:
    async with ward(tmp_path) as at:
        (tmp_path / "stackd.db").touch(mode=0o644)
        (tmp_path / "kubeconfig").chmod(0o604)
        (tmp_path / "keys").write_text(READ_KEY)
        (tmp_path / "keys").chmod(0o666)
        (tmp_path / "stackd.db.token").touch(mode=0o644)
        findings = await at.look(STACKD_AUTH__KEY_FILE=str(tmp_path / "keys"))
        found = [finding for finding in findings if finding.about == "files"]
        assert {finding.level for finding in found} == {Level.FAIL}
        assert {finding.advice.rpartition("/")[2] for finding in found} == {
            "stackd.db",
            "stackd.db.token",
            "kubeconfig",
            "keys",
        }
        assert all(finding.advice.startswith("chmod") for finding in found)


async def test_a_key_beside_the_configuration_that_everybody_may_read_is_found(tmp_path: Path) -> None:
    async with ward(tmp_path) as at:
        (tmp_path / "config.toml").touch(mode=0o640)
        (tmp_path / "api-key").write_text(READ_KEY)
        (tmp_path / "api-key").chmod(0o644)
        loaded = load(None, at.environment)
        findings = [finding async for finding in examine(loaded, tmp_path / "config.toml", Size(), None)]
        found = only(findings, "files")
        assert (found.level, found.advice) == (Level.FAIL, f"chmod o-rwx {tmp_path}/api-key")


async def test_a_running_daemon_is_asked_how_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STACKD_AUTH__KEY", raising=False)
    async with harness(tmp_path) as at:
        environment = {
            "STACKD_AUTH__KEY": KEY,
            "STACKD_CLUSTER__MODE": "embedded",
            "STACKD_SERVER__PORT": str(at.port),
        }

        async def look() -> Finding:
            found = [f async for f in examine(load(None, environment), None, Size(), None) if f.about == "daemon"]
            return found[0]

        monkeypatch.setenv("STACKD_API_KEY", KEY)
        assert (await look()).level is Level.OK
        monkeypatch.setenv("STACKD_API_KEY", "sk-wrong")
        assert "asks for a key" in (await look()).what
        monkeypatch.setenv("STACKD_API_KEY", KEY)
        await asyncio.gather(*(at.create() for _ in range(15)))
        for name in await at.objects("pods"):
            await at.delete_object("pods", name)
        await at.until_at_least("stackd_brake_held_stacks", 1)
        found = await look()
        assert (found.level, "a brake is on" in found.what) == (Level.FAIL, True)


async def test_templates_are_looked_at_and_what_keeps_them_from_being_ready_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STACKD_AUTH__KEY", raising=False)
    monkeypatch.setenv("STACKD_API_KEY", KEY)
    bad = PLAIN.replace("nginx:stable", "registry.invalid/none:1") + "prepull: true\n"
    templates = folder_with(tmp_path, web_1=PLAIN, bad=bad)
    async with harness(tmp_path, templates) as at:
        environment = {
            "STACKD_AUTH__KEY": KEY,
            "STACKD_CLUSTER__MODE": "embedded",
            "STACKD_SERVER__PORT": str(at.port),
            **templates,
        }

        async def look() -> list[Finding]:
            found = [f async for f in examine(load(None, environment), None, Size(), None)]
            return [finding for finding in found if finding.about == "templates"]

        await at.until_at_least("stackd_prepull_images", 1, state="failing")
        right, failing = await look()
        assert (right.level, right.what) == (Level.OK, "bad, web-1: all valid")
        assert failing.level is Level.WARN
        assert "images cannot be pulled ahead: bad: embedded-worker" in failing.what
        assert "ImagePull" in failing.what
        folder_with(tmp_path, web_1=PLAIN + "pol: 1\n")
        wrong, _ = await look()
        assert (wrong.level, "web-1.yaml:19: pol: there is no such field" in wrong.what) == (Level.FAIL, True)


async def test_the_probe_proves_what_is_reached_and_what_is_not_and_removes_itself(tmp_path: Path) -> None:
    async with ward(tmp_path, serve_node_ports=True) as at:
        findings = [finding for finding in await at.look(QUICK) if finding.about == "probe"]
        assert [finding.level for finding in findings] == [Level.OK] * 6, findings
        assert findings[0].what == "a pooled stack answers nobody before it is assigned"
        assert "node port answers at 127.0.0.1:" in findings[1].what
        assert [finding.what.rpartition("reach ")[2].partition(",")[0] for finding in findings[2:]] == [
            "another stack",
            "the metadata address",
            "the API server",
            "raw sockets",
        ]
        assert not await at.names("pods")
        assert not await at.names("services")


EGRESS = {"shut": "none", "names": "dns", "also_shut": "none"}


async def test_the_network_egress_of_templates_is_compared_with_the_policies_and_proven(tmp_path: Path) -> None:
    templates = {name: f"{PLAIN}network: {{egress: {egress}}}\n" for name, egress in EGRESS.items()}
    env = folder_with(tmp_path, **templates)
    async with ward(tmp_path, printed("--dns", env=env), serve_node_ports=True) as at:
        found = await at.look(QUICK, **env)
        assert [(one.about, one.what) for one in bad(found)] == [
            ("probe", "network.egress dns: a stack does not reach the cluster's DNS")
        ]
        assert "network.egress none: a stack does not reach the cluster's DNS" in [one.what for one in found]
    (tmp_path / "before").mkdir()
    documents = printed("--dns")
    for one in documents:
        one.get("spec", {}).get("podSelector", {}).pop("matchExpressions", None)
    async with ward(tmp_path / "before", documents) as at:
        assert {one.what for one in bad(await at.look(None, **env))} == {
            "there is no NetworkPolicy egress-dns: stacks of names reach nothing",
            "NetworkPolicy stacks-to-dns lets stacks of names out, beyond their network.egress",
            "NetworkPolicy stacks-to-dns lets stacks of also-shut, shut out, beyond their network.egress",
        }


async def test_the_probes_pods_are_hardened_and_pass_the_restricted_standard(tmp_path: Path) -> None:
    documents = printed()
    documents[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "restricted"
    async with ward(tmp_path, documents, serve_node_ports=True) as at:
        settings = {"STACKD_POLICY__PROFILE": "restricted", "STACKD_POLICY__RUNTIME_CLASS": "gvisor"}
        seen: list[dict[str, Any]] = []
        task = asyncio.create_task(at.look(QUICK, **settings))
        while not task.done():
            seen += (await at.send("GET", "/api/v1/namespaces/stacks/pods"))["items"]
            await asyncio.sleep(0.01)
        assert not bad(await task)
        for pod in seen:
            assert pod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "stackd"
            assert pod["metadata"]["labels"]["stackd.io/instance"].startswith("default-probe-")
            assert pod["spec"]["runtimeClassName"] == "gvisor"
            assert pod["spec"]["automountServiceAccountToken"] is False
        assert len({pod["metadata"]["name"] for pod in seen}) == 2


async def test_what_a_stack_reaches_is_a_failure_with_what_to_do(tmp_path: Path) -> None:
    reached = Question(name="api", what="the API server", script="true; exit 0", remedy="restrict egress")
    odd = Question(name="odd", what="the odd", script="true; exit 127", remedy="")
    async with ward(tmp_path, serve_node_ports=True) as at:
        options = ProbeOptions(seconds=10.0, questions=(reached, odd))
        found = [finding for finding in await at.look(options) if finding.about == "probe"]
        assert [finding.level for finding in found] == [Level.OK, Level.OK, Level.FAIL, Level.FAIL]
        assert (found[2].what, found[2].advice) == ("a stack reaches the API server", "restrict egress")
        assert "is not known: exit code 127" in found[3].what


async def test_a_port_that_answers_before_anybody_has_the_stack_is_a_failure(tmp_path: Path) -> None:
    async with ward(tmp_path, serve_node_ports=True) as at:
        opened = json.dumps({"spec": {"selector": {"stackd.io/assigned": None}}})
        at.cluster.faults.add_fault(action="admit", verb="create", resource="services", body=opened)
        found = [finding for finding in await at.look(QUICK) if finding.about == "probe"]
        assert found[0].level is Level.FAIL
        assert "before anybody has it" in found[0].what


@pytest.mark.parametrize(
    ("image", "said"),
    [("registry.invalid/x", "does not run"), ("probe/exit0", "ended by itself"), ("probe/fail", "ended by itself")],
)
async def test_a_probe_that_cannot_ask_says_so_and_removes_itself(tmp_path: Path, image: str, said: str) -> None:
    async with ward(tmp_path, serve_node_ports=True, run_time=0.0) as at:
        options = ProbeOptions(image=image, seconds=1.0)
        (found,) = [finding for finding in await at.look(options) if finding.about == "probe"]
        assert found.level is Level.FAIL
        assert said in found.what
        assert "--probe-image" in found.what
        assert not await at.names("pods")
        assert not await at.names("services")


async def test_a_probe_for_which_no_node_has_room_ends_at_once_and_says_so(tmp_path: Path) -> None:
    nodes = (NodeSpec(name="a", labels=ROLE, cpu="10m"),)
    async with ward(tmp_path, nodes=nodes, serve_node_ports=True) as at:
        began = time.monotonic()
        (found,) = [finding for finding in await at.look(ProbeOptions(seconds=60.0)) if finding.about == "probe"]
        assert time.monotonic() - began < 45
        assert found.level is Level.FAIL
        assert "no node has room for the probe (0/1 nodes are available" in found.what
        assert not await at.names("pods")


async def test_a_node_port_that_does_not_answer_is_a_failure(tmp_path: Path) -> None:
    async with ward(tmp_path, serve_node_ports=False) as at:
        found = [finding for finding in await at.look(ProbeOptions(seconds=1.0)) if finding.about == "probe"]
        assert found[1].level is Level.FAIL
        assert "does not answer at 127.0.0.1:" in found[1].what


async def test_an_interrupted_probe_removes_itself(tmp_path: Path) -> None:
    async with ward(tmp_path, serve_node_ports=False) as at:
        task = asyncio.create_task(at.look(ProbeOptions(seconds=30.0)))

        async def under_way() -> bool:
            return bool(await at.names("pods")) and bool(await at.names("services"))

        await eventually(under_way)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not await at.names("pods")
        assert not await at.names("services")


async def test_a_configuration_that_is_wrong_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[stacks]\nttll = 1\n")
    result = await asyncio.to_thread(CliRunner().invoke, stackd, ["doctor", "--config", str(tmp_path / "config.toml")])
    assert result.exit_code == 1
    assert "ttll" in result.output
    assert "failures" in result.output
    words = ["doctor", "--config", str(tmp_path / "config.toml"), "-o", "jsonl"]
    result = await asyncio.to_thread(CliRunner().invoke, stackd, words)
    assert result.exit_code == 1
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert found[0]["level"] == "fail"
    assert "ttll" in found[0]["what"]
    assert found[0]["advice"]


async def test_the_command_prints_all_and_exits_with_one_if_anything_fails(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "stackd.py"
    async with ward(tmp_path) as at:
        for more, code, said in (
            ({}, 0, "0 failures"),
            ({"STACKD_STACKS__NODE_SELECTOR": "role=none"}, 1, "→ kubectl label"),
        ):
            env = {**os.environ, **at.environment, **more, "COLUMNS": "100"}
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(script), "doctor", stdout=PIPE, stderr=PIPE, env=env
            )
            out, err = await process.communicate()
            assert process.returncode == code, out.decode() + err.decode()
            assert said in out.decode()
            assert not err
            assert KEY not in out.decode()


def test_what_fits_is_counted_from_nodes_and_quotas() -> None:
    node = {
        "metadata": {"name": "a", "uid": "1"},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "50"}, "conditions": []},
    }
    small = Size().need(Storage())
    large = Size(cpu_milli=1000, memory_bytes=4 << 30).need(Storage())
    free = free_of(node_state(node))
    assert by_nodes([fits(free, small)]) == Bound(stacks=40, why="cpu")
    assert by_nodes([fits(free, large)]) == Bound(stacks=2, why="memory")
    assert by_nodes([]) == Bound(stacks=0, why="nodes")
    quota = {
        "metadata": {"name": "q"},
        "spec": {"hard": {"limits.cpu": "1500m", "pods": "7", "requests.memory": "1Gi", "services": "1e30"}},
    }
    others = {"metadata": {"name": "o"}, "spec": {"hard": {"pods": "0"}, "scopes": ["BestEffort"]}}
    disk = {"metadata": {"name": "d"}, "spec": {"hard": {"requests.ephemeral-storage": "1Gi", "limits.cpu": "8"}}}
    given = Storage(request="64Mi", limit="1Gi", limit_range="stacks")
    assert {bound.why: bound.stacks for bound in by_quotas([disk], Size().need(given), left=False)} == {
        "d: requests.ephemeral-storage": 16,
        "d: limits.cpu": 80,
    }
    assert {bound.why: bound.stacks for bound in by_quotas([quota, others], small, left=False)} == {
        "q: limits.cpu": 15,
        "q: pods": 7,
        "q: requests.memory": 8,
        "q: services": ENOUGH,
    }


async def test_a_standby_is_well_and_its_owner_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKD_API_KEY", KEY)
    async with ward(tmp_path) as at:
        (tmp_path / "other").mkdir()
        async with (
            harness(tmp_path / "other", cluster=at.cluster, token=OURS),
            harness(tmp_path, cluster=at.cluster, token=OURS, wait=False) as own,
        ):
            await own.until_unready("owns the stacks")
            looked = await at.look(None, STACKD_SERVER__PORT=str(own.port))
            (found,) = [finding for finding in looked if finding.about == "daemon"]
            assert (found.level, "it stands by" in found.what) == (Level.OK, True)

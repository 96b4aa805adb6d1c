"""The doctor finds what is wrong, says what to do, and finds nothing where everything is as ``manifests`` sets it up."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stackd.cli.doctor import examine
from stackd.config import load
from stackd.doctor import Finding, Level
from stackd.doctor.capacity import Size, by_nodes, by_quotas
from stackd.doctor.probe import Options, Question
from stackd.embedded import EmbeddedCluster, NodeSpec, User
from stackd.kube.objects import node_state
from tests.api.test_rights import ADMIN, OURS, apply, printed, rules
from tests.stand import KEY, READ_KEY, eventually, fast_cluster, stand

ROLE = {"role": "stack"}
QUICK = Options(seconds=10.0)


@dataclass(slots=True, kw_only=True)
class Ward:
    """A cluster that was set up, and how the doctor is asked to look at it."""

    cluster: EmbeddedCluster
    environment: dict[str, str]
    folder: Path

    async def look(self, options: Options | None = None, **settings: str) -> list[Finding]:
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
            "configuration", "files", "daemon", "cluster", "clock", "namespace", "rights", "policies", "policies",
            "nodes", "ports", "room",
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
        )
        assert found == {f"it may not {right}" for right in (*wanted, "watch nodes")}


async def test_an_account_that_may_do_everything_is_warned_of(tmp_path: Path) -> None:
    async with ward(tmp_path) as at:
        at.cluster.write_kubeconfig(tmp_path / "kubeconfig", token=ADMIN.token)
        found = only(await at.look(), "rights")
        assert (found.level, "get secrets in stacks" in found.what) == (Level.WARN, True)


async def test_an_absent_namespace_policies_and_quota_are_found(tmp_path: Path) -> None:
    async with ward(tmp_path, []) as at:
        found = {finding.about: finding.level for finding in bad(await at.look())}
        assert found["namespace"] is Level.FAIL
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


async def test_nodes_that_cannot_be_used_or_reached_are_found(tmp_path: Path) -> None:
    nodes = (NodeSpec(name="a", labels=ROLE, external_ip=None), NodeSpec(name="b", labels={"role": "other"}))
    async with ward(tmp_path, nodes=nodes) as at:
        found = only(await at.look(), "nodes")
        assert (found.level, "no public address (ExternalIP): a" in found.what) == (Level.WARN, True)
        assert not bad(await at.look(STACKD_STACKS__PUBLIC_IPS="a=203.0.113.1"))
        assert not bad(await at.look(STACKD_STACKS__ADDRESS_TYPES="InternalIP"))
        found = only(await at.look(STACKD_STACKS__NODE_SELECTOR="role=arena"), "nodes")
        assert (found.level, found.what) == (Level.FAIL, "none has role=arena")
        at.cluster.faults.cordon("a")
        assert only(await at.look(), "nodes").level is Level.FAIL
        assert only(await at.look(), "room").level is Level.FAIL


async def test_a_port_range_beyond_the_clusters_own_is_found(tmp_path: Path) -> None:
    async with ward(tmp_path, node_port_range=(30000, 32000)) as at:
        found = only(await at.look(), "ports")
        assert (found.level, "32767 is not a node port" in found.what) == (Level.FAIL, True)
        at.cluster.faults.take_port(31001)
        assert not bad(await at.look(STACKD_STACKS__NODE_PORT_MAX="32000"))


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
        findings = await at.look(STACKD_AUTH__KEY_FILE=str(tmp_path / "keys"))
        found = [finding for finding in findings if finding.about == "files"]
        assert {finding.level for finding in found} == {Level.FAIL}
        assert {finding.advice.rpartition("/")[2] for finding in found} == {"stackd.db", "kubeconfig", "keys"}
        assert all(finding.advice.startswith("chmod") for finding in found)


async def test_a_running_daemon_is_asked_how_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STACKD_AUTH__KEY", raising=False)
    async with stand(tmp_path) as at:
        environment = {
            "STACKD_AUTH__KEY": KEY,
            "STACKD_CLUSTER__MODE": "embedded",
            "STACKD_SERVER__PORT": str(at.daemon.port),
        }

        async def look() -> Finding:
            found = [f async for f in examine(load(None, environment), None, Size(), None) if f.about == "daemon"]
            return found[0]

        monkeypatch.setenv("STACKD_API_KEY", KEY)
        assert (await look()).level is Level.OK
        monkeypatch.setenv("STACKD_API_KEY", "sk-wrong")
        assert "wants a key" in (await look()).what
        monkeypatch.setenv("STACKD_API_KEY", KEY)
        await asyncio.gather(*(at.create() for _ in range(15)))
        for name in await at.objects("pods"):
            await at.delete_object("pods", name)
        await eventually(lambda: bool(at.daemon.room.brake.held))
        found = await look()
        assert (found.level, "a brake is on" in found.what) == (Level.FAIL, True)


async def test_the_probe_proves_what_is_reached_and_what_is_not_and_removes_itself(tmp_path: Path) -> None:
    async with ward(tmp_path, serve_node_ports=True) as at:
        findings = [finding for finding in await at.look(QUICK) if finding.about == "probe"]
        assert [finding.level for finding in findings] == [Level.OK] * 4, findings
        assert "node port answers at 127.0.0.1:" in findings[0].what
        assert [finding.what.rpartition("reach ")[2] for finding in findings[1:]] == [
            "another stack",
            "the metadata address",
            "the API server",
        ]
        assert not await at.names("pods")
        assert not await at.names("services")


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
    reached = Question(name="api", what="the API server", script="true; exit 0", mended_by="restrict egress")
    odd = Question(name="odd", what="the odd", script="true; exit 127", mended_by="")
    async with ward(tmp_path, serve_node_ports=True) as at:
        options = Options(seconds=10.0, questions=(reached, odd))
        found = [finding for finding in await at.look(options) if finding.about == "probe"]
        assert [finding.level for finding in found] == [Level.OK, Level.FAIL, Level.FAIL]
        assert (found[1].what, found[1].advice) == ("a stack reaches the API server", "restrict egress")
        assert "is not known: exit code 127" in found[2].what


@pytest.mark.parametrize(
    ("image", "said"),
    [("registry.invalid/x", "does not run"), ("probe/exit0", "ended by itself"), ("probe/fail", "ended by itself")],
)
async def test_a_probe_that_cannot_ask_says_so_and_removes_itself(tmp_path: Path, image: str, said: str) -> None:
    async with ward(tmp_path, serve_node_ports=True) as at:
        options = Options(image=image, seconds=1.0)
        (found,) = [finding for finding in await at.look(options) if finding.about == "probe"]
        assert found.level is Level.FAIL
        assert said in found.what
        assert "--probe-image" in found.what
        assert not await at.names("pods")
        assert not await at.names("services")


async def test_a_node_port_that_does_not_answer_is_a_failure(tmp_path: Path) -> None:
    async with ward(tmp_path, serve_node_ports=False) as at:
        found = [finding for finding in await at.look(Options(seconds=1.0)) if finding.about == "probe"]
        assert found[0].level is Level.FAIL
        assert "does not answer at 127.0.0.1:" in found[0].what


async def test_an_interrupted_probe_removes_itself(tmp_path: Path) -> None:
    async with ward(tmp_path, serve_node_ports=False) as at:
        task = asyncio.create_task(at.look(Options(seconds=30.0)))

        async def under_way() -> bool:
            return bool(await at.names("pods")) and bool(await at.names("services"))

        await eventually(under_way)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not await at.names("pods")
        assert not await at.names("services")


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
    small, large = Size(), Size(cpu_milli=1000, memory_bytes=4 << 30)
    assert by_nodes([node_state(node)], small).stacks == 40
    assert by_nodes([node_state(node)], large).stacks == 2
    quota = {
        "metadata": {"name": "q"},
        "spec": {"hard": {"limits.cpu": "1500m", "pods": "7", "requests.memory": "1Gi"}},
    }
    assert {bound.why: bound.stacks for bound in by_quotas([quota], small)} == {
        "quota q, limits.cpu": 15,
        "quota q, pods": 7,
        "quota q, requests.memory": 8,
    }

"""The doctor finds what is wrong and says what to do; it finds nothing on a cluster that ``manifests`` has set up."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from msgspec import json

from stackd.cli import stackd
from stackd.config import load
from stackd.doctor import Finding, Level, machine
from stackd.doctor import cluster as doctors
from stackd.doctor.probe import ProbeOptions, Question
from stackd.embedded import NodeSpec
from stackd.embedded.resources import PODS
from stackd.embedded.store import ObjectChange
from tests.brakes import leave_behind
from tests.doctor.prepared import QUICK, Documents, found_in, prepared
from tests.harness import KEY, READ_KEY, eventually, harness
from tests.provisioning import ADMIN, OURS, of_namespace_admin, printed
from tests.templates import PLAIN, folder_with

OK, WARN, FAIL = Level
ROLE = {"role": "stack"}
STRANGE = "stack-00000000000000aa"


def bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level is not OK]


def only(findings: list[Finding], about: str) -> Finding:
    (found,) = [finding for finding in bad(findings) if finding.about == about]
    return found


def without_rights(documents: Documents) -> Documents:
    for document in documents:
        for rule in document.get("rules", ()):
            rule["verbs"] = [verb for verb in rule["verbs"] if verb not in ("watch", "delete")]
    return documents


def restricted(documents: Documents) -> Documents:
    documents[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "restricted"
    return documents


OF_KINDS = (f"{verb} {kind} in" for verb in ("watch", "delete") for kind in ("pods", "services", "configmaps"))
MISSING = ("watch nodes", "watch leases in stacks", *OF_KINDS)
WITH_PODS = (NodeSpec(name="a", pod_cidr="100.80.0.0/24"), NodeSpec(name="b", pod_cidr="100.80.1.0/24"))
NODES = (NodeSpec(name="a", labels=ROLE, external_ip=None), NodeSpec(name="b", labels={"role": "other"}))
LOWEST, HIGHEST = "STACKD_STACKS__NODE_PORT_MIN", "STACKD_STACKS__NODE_PORT_MAX"
DISK = "STACKD_POLICY__MAX_EPHEMERAL_STORAGE"
OF_OTHERS = {
    "kind": "ResourceQuota", "metadata": {"name": "others", "namespace": "stacks"},
    "spec": {"hard": {"pods": "0"}, "scopes": ["BestEffort"]},
}  # fmt: skip
FOR_ONE = {
    "kind": "ResourceQuota", "metadata": {"name": "tight", "namespace": "stacks"}, "spec": {"hard": {"pods": "1"}},
}  # fmt: skip
SPARE_AND_ITS_QUOTA = (
    {
        "kind": "Service", "metadata": {"name": "svc-stack-0", "namespace": "stacks", "labels": {
            "app.kubernetes.io/managed-by": "stackd", "stackd.io/instance": "default", "stackd.io/spare": "true",
        }},
        "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 1}]},
    },
    {"kind": "ResourceQuota", "metadata": {"name": "few", "namespace": "stacks"}, "spec": {"hard": {"services": "1"}}},
)  # fmt: skip
ANOTHER = {
    "kind": "Pod", "metadata": {"name": "another", "namespace": "stacks"},
    "spec": {"containers": [{"name": "a", "image": "a/b", "resources": {"limits": {"cpu": "1m", "memory": "1Mi"}}}]},
}  # fmt: skip
POLICIES = [("policies", FAIL, "manifests"), ("policies", WARN, "manifests")]
Expected = list[tuple[str, Level, str]]


def without_binding(documents: Documents) -> Documents:
    return [one for one in documents if one["kind"] != "ValidatingAdmissionPolicyBinding"]


def as_before_templates(documents: Documents) -> Documents:
    return [json.decode(json.encode(one).replace(b"stackd.io/template", b"stackd.io/other")) for one in documents]


CASES: dict[str, tuple[Callable[[Documents], Documents] | None, dict[str, Any], dict[str, str], Expected]] = {
    "rights": (without_rights, {}, {}, [("rights", FAIL, f"stackd may not {one}") for one in MISSING]),
    "no namespace": (lambda _: [], {}, {}, [("namespace", FAIL, "no namespace stacks\nis stacks.namespace right?")]),
    "wrong namespace": (
        None, {}, {"STACKD_STACKS__NAMESPACE": "stakcs"},
        [("namespace", FAIL, "it has no right to get namespaces"), ("rights", FAIL, "has none of its")],
    ),
    "namespace alone": (
        lambda _: [{"kind": "Namespace", "metadata": {"name": "stacks"}}], {}, {},
        [
            ("namespace", WARN, "kubectl label"), *POLICIES, ("admission", WARN, "no admission policy is in force"),
            ("room", WARN, "quota"), ("room", WARN, "LimitRange"),
        ],
    ),
    "restricted": (
        restricted, {}, {},
        [("namespace", FAIL, "kubectl label --overwrite namespace stacks")],
    ),
    "no address": (None, {"nodes": NODES}, {}, [("nodes", WARN, "no public address (ExternalIP): a")]),
    "no node": (
        None, {"nodes": NODES}, {"STACKD_STACKS__NODE_SELECTOR": "role=arena"},
        [("nodes", FAIL, "none of 2 has role=arena"), ("room", FAIL, "for 0 stacks")],
    ),
    "no disk": (
        None, {"nodes": (NodeSpec(name="diskless", ephemeral_storage=""),)}, {},
        [("room", FAIL, "for 0 stacks"), ("room", FAIL, "64Mi of ephemeral-storage, and diskless reports none")],
    ),
    "a quota that is used up": (
        lambda documents: [*documents, FOR_ONE, ANOTHER], {}, {}, [("room", WARN, "quota tight, pods is used up")],
    ),
    "a quota that spare Services use up": (
        lambda documents: [*documents, *SPARE_AND_ITS_QUOTA], {}, {}, [],
    ),
    "more spare Services than there can be": (
        None, {}, {LOWEST: "32001", "STACKD_STACKS__SPARE_SERVICES": "400"},
        [("ports", WARN, "only 383 of 400 spare Services are kept")],
    ),
    "too much disk": (
        None, {}, {DISK: "8Gi"}, [("room", FAIL, "LimitRange stacks refuses a container more than 2Gi")],
    ),
    "an admission policy without its binding": (without_binding, {}, {}, [("admission", WARN, "can have stackd run a stack")]),
    "an earlier admission policy": (
        as_before_templates, {}, {}, [("admission", WARN, "is an earlier stackd's")],
    ),
    "own pods let in": (None, {"nodes": WITH_PODS}, {}, [("policies", FAIL, "lets in the cluster's own pods")]),
    "some ports": (None, {"node_port_range": (30000, 32000)}, {}, [("ports", WARN, "only 31001-32000 of the node ports")]),
    "all met": (
        lambda _: [*restricted(printed("--cluster-cidr", "100.80.0.0/16")), OF_OTHERS],
        {"nodes": (replace(WITH_PODS[0], external_ip=None), replace(WITH_PODS[1], labels={})), "node_port_range": (30000, 32000)},
        {"STACKD_POLICY__PROFILE": "restricted", "STACKD_STACKS__PUBLIC_IPS": "a=203.0.113.1", DISK: "2Gi", HIGHEST: "32000"},
        [],
    ),
    "no ports": (
        None, {"node_port_range": (30000, 32000)}, {LOWEST: "20000", HIGHEST: "20100"}, [("ports", FAIL, "node_port_min")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_what_is_wrong_in_the_cluster_is_found(tmp_path: Path, case: str) -> None:
    change, options, settings, expected = CASES[case]
    documents = printed() if change is None else change(printed())
    async with prepared(tmp_path, documents, **options) as at:
        found = bad(await at.look(**settings))
        assert not set(await at.names("services")) - {"svc-stack-0"}
    assert sorted((one.about, one.level) for one in found) == sorted(one[:2] for one in expected), found
    for about, level, part in expected:
        texts = [f"{one.what}\n{one.advice}" for one in found if (one.about, one.level) == (about, level)]
        assert any(part.lower() in text.lower() for text in texts), (part, texts)


async def test_a_template_with_members_needs_rights_on_network_policies(tmp_path: Path) -> None:
    pod = yaml.safe_load(PLAIN)["pod"]
    async with prepared(tmp_path) as at:
        findings = await at.look(
            **folder_with(tmp_path, trio=PLAIN + yaml.safe_dump({"members": {"db": {"pod": pod}}}))
        )
    told = [finding.what for finding in bad(findings) if finding.about == "rights"]
    assert any(what.startswith("stackd may not create networkpolicies in stacks:") for what in told)


async def test_with_rights_in_the_namespace_alone_it_says_what_that_costs(tmp_path: Path) -> None:
    env = {"STACKD_CLUSTER__RIGHTS": "namespace"}
    async with prepared(tmp_path, of_namespace_admin(env)) as at:
        found = [one for one in bad(await at.look(**env)) if one.about != "daemon"]
        assert {one.level for one in found} == {WARN}, found
        said = " ".join(one.what for one in found)
        assert 'stacks.public_ips has no "*"' in said
        advice = [one.advice for one in found if "no ResourceQuota" in one.what or "no LimitRange" in one.what]
        assert [text.startswith("an administrator of the cluster makes one") for text in advice] == [True, True]
        (room,) = [one.what for one in await at.look(**env) if one.what.startswith("for ")]
        assert room.endswith(" (node ports)")


async def test_too_many_rights_are_reported(tmp_path: Path) -> None:
    def credentials(findings: list[Finding]) -> tuple[Level, str]:
        (found,) = [finding for finding in findings if finding.about == "credentials"]
        return found.level, found.what

    async with prepared(tmp_path) as at:
        kubeconfig = tmp_path / "kubeconfig"
        assert credentials(await at.look())[0] is OK
        at.cluster.write_kubeconfig(kubeconfig, token=at.cluster.accounts.issue("stackd", "stackd", 600))
        level, what = credentials(await at.look())
        assert (level, what.endswith("and is renewed before")) == (OK, True)
        at.cluster.write_kubeconfig(kubeconfig, token=ADMIN.token)
        found = only(await at.look(), "rights")
        assert (found.level, "get secrets in stacks" in found.what) == (WARN, True)
        at.cluster.faults.add_fault(action="status", code=401)
        assert [(finding.about, finding.level) for finding in bad(await at.look())] == [("cluster", FAIL)]
    documents = [one for one in printed() if "token" not in one["metadata"]["name"]]
    async with prepared(tmp_path, documents) as at:
        at.cluster.write_kubeconfig(kubeconfig, token=at.cluster.accounts.issue("stackd", "stackd", 600))
        level, what = credentials(await at.look())
        assert (level, "may not create a new one" in what) == (WARN, True)


def on_this_machine(folder: Path) -> dict[str, str]:
    return {"STACKD_AUTH__KEY": KEY, "STACKD_STATE__PATH": f"{folder}/a.db", "STACKD_CLUSTER__MODE": "embedded"}


def test_a_disk_that_is_nearly_full_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = on_this_machine(tmp_path)
    for free, level in ((1 << 30, OK), (300 << 20, WARN), (8 << 20, FAIL)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert level in [one.level for one in machine.examine(load(None, settings), None) if one.about == "disk"]


def test_backups_that_do_not_leave_the_machine_are_found(tmp_path: Path) -> None:
    settings = on_this_machine(tmp_path)

    def found(command: str, *, installed: bool = False) -> list[Level]:
        loaded = load(None, settings | {"STACKD_BACKUP__COMMAND": command})
        seen = machine.examine(loaded, None, installed=installed)
        return [one.level for one in seen if one.about == "backups"]

    assert not found("")
    assert found("", installed=True) == found("true") == [WARN]
    mark = tmp_path / "a.db.backed-up"
    for age, expected in ((3600, OK), (25 * 3600, WARN)):
        mark.touch()
        os.utime(mark, (time.time() - age,) * 2)
        assert found("true") == [expected]


async def test_files_that_everybody_may_read_are_found(tmp_path: Path) -> None:
    async with prepared(tmp_path) as at:
        (tmp_path / "kubeconfig").chmod(0o604)
        (tmp_path / "config.toml").touch()
        (tmp_path / "config.toml").chmod(0o644)
        names = ("stackd.db", "stackd.db.token", "api-key", "keys")
        for name in names:
            (tmp_path / name).write_text(READ_KEY)
            (tmp_path / name).chmod(0o644)
        loaded = load(None, at.environment | {"STACKD_AUTH__KEY_FILE": str(tmp_path / "keys")})
        found = [one for one in await found_in(loaded, tmp_path / "config.toml") if one.about == "files"]
        assert {one.level for one in found} == {FAIL}
        assert {one.advice for one in found} == {f"chmod o-rwx {tmp_path}/{name}" for name in (*names, "kubeconfig")}
        (tmp_path / "config.toml").chmod(0o646)
        (own,) = {*machine.examine(loaded, tmp_path / "config.toml")} - {*found, *machine.examine(loaded, None)}
        assert "config.toml, has mode 0646: every user can write it" in own.what


# ---- beside a running daemon


async def test_objects_that_the_daemon_does_not_know_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKD_API_KEY", KEY)
    settings = {"STACKD_RECONCILE__ORPHAN_GRACE": "0s"} | folder_with(tmp_path, web=PLAIN + "pool: 1\n")
    async with (
        prepared(tmp_path) as at,
        harness(tmp_path, settings, cluster=at.cluster, token=OURS, admin=ADMIN.token) as own,
    ):
        await own.until_metric("stackd_pool_stacks", 1, template="web", state="ready")
        await leave_behind(own, STRANGE)
        await own.until_metric("stackd_unknown_objects", 1)
        port = {"STACKD_SERVER__PORT": str(own.port)}
        looked = await at.look(**port)
        assert "instance" not in {finding.about for finding in looked}
        found = only(looked, "daemon")
        assert (found.level, f"pods {STRANGE}" in found.what) == (WARN, True)
        assert only(await at.look(STACKD_STACKS__NAMESPACE="stakcs", **port), "rights").level is FAIL
        monkeypatch.setattr(doctors, "STRANGE_SECONDS", -1.0)
        found = only(await at.look(**port), "instance")
        assert (found.level, STRANGE in found.what) == (FAIL, True)


async def test_a_daemon_is_asked_for_its_state_and_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STACKD_AUTH__KEY", raising=False)
    failing = PLAIN.replace("nginx:stable", "registry.invalid/none:1") + "prepull: true\n"
    templates = folder_with(tmp_path, web_1=PLAIN, bad=failing)
    async with harness(tmp_path, templates) as at:
        environment = {"STACKD_AUTH__KEY": KEY, "STACKD_CLUSTER__MODE": "embedded", "STACKD_SERVER__PORT": str(at.port)}

        async def look(about: str) -> list[Finding]:
            return [one for one in await found_in(load(None, environment | templates)) if one.about == about]

        monkeypatch.setenv("STACKD_API_KEY", "sk-wrong")
        assert "asks for a key" in (await look("daemon"))[0].what
        monkeypatch.setenv("STACKD_API_KEY", KEY)
        assert (await look("daemon"))[0].level is OK
        await at.until_at_least("stackd_prepull_images", 1, state="failing")
        right, pulls = await look("templates")
        assert (right.level, pulls.level, "bad: embedded-worker" in pulls.what) == (OK, WARN, True)
        folder_with(tmp_path, web_1=PLAIN + "pol: 1\n")
        wrong, _ = await look("templates")
        assert (wrong.level, "web-1.yaml:19: pol: there is no such field" in wrong.what) == (FAIL, True)
        await asyncio.gather(*(at.create() for _ in range(15)))
        for name in await at.objects("pods"):
            await at.delete_object("pods", name)
        await at.until_at_least("stackd_brake_held_stacks", 1)
        (found, *_) = await look("daemon")
        assert (found.level, "a brake is on" in found.what) == (FAIL, True)


# ---- the probe


async def test_the_probe_proves_what_is_reached(tmp_path: Path) -> None:
    documents = restricted(printed())
    async with prepared(tmp_path, documents, serve_node_ports=True) as at:
        settings = {"STACKD_POLICY__PROFILE": "restricted", "STACKD_POLICY__RUNTIME_CLASS": "gvisor"}
        changes: list[ObjectChange] = []
        at.cluster.store.observe(changes.append)
        findings = await at.probe(**settings)
        assert [finding.level for finding in findings] == [OK] * 6, findings
        seen = [change.after.obj for change in changes if change.after.resource is PODS]
        for pod in seen:  # hardened, and they pass the restricted standard
            assert pod["metadata"]["labels"]["stackd.io/instance"].startswith("default-probe-")
            assert (pod["spec"]["runtimeClassName"], pod["spec"]["automountServiceAccountToken"]) == ("gvisor", False)
        assert len({pod["metadata"]["name"] for pod in seen}) == 2


async def test_the_network_egress_of_templates_is_compared_with_the_policies_and_proven(tmp_path: Path) -> None:
    egress = {"shut": "none", "names": "dns", "also_shut": "none"}
    env = folder_with(tmp_path, **{name: f"{PLAIN}network: {{egress: {kind}}}\n" for name, kind in egress.items()})
    async with prepared(tmp_path, printed("--dns", env=env), serve_node_ports=True) as at:
        found = await at.look(QUICK, **env)
        assert [(one.about, one.what[:18]) for one in bad(found)] == [("probe", "network.egress dns")]
        assert [one for one in found if one.what.startswith("network.egress none: a stack does not reach")]
    documents = printed("--dns")
    for one in documents:
        one.get("spec", {}).get("podSelector", {}).pop("matchExpressions", None)
    async with prepared(tmp_path, documents) as at:
        assert {one.what for one in bad(await at.look(**env))} == {
            "there is no NetworkPolicy egress-dns: stacks of names reach nothing",
            "NetworkPolicy stacks-to-dns lets stacks of names out, beyond their network.egress",
            "NetworkPolicy stacks-to-dns lets stacks of also-shut, shut out, beyond their network.egress",
        }


async def test_what_a_stack_reaches_is_a_failure_with_what_to_do(tmp_path: Path) -> None:
    reached = Question(name="api", what="the API server", script="true; exit 0", remedy="restrict egress")
    odd = Question(name="odd", what="the odd", script="true; exit 127", remedy="")
    async with prepared(tmp_path, serve_node_ports=True) as at:
        found = await at.probe(ProbeOptions(seconds=10.0, questions=(reached, odd)))
        assert [finding.level for finding in found] == [OK, OK, FAIL, FAIL]
        assert (found[2].what, found[2].advice) == ("a stack reaches the API server", "restrict egress")
        assert "is not known: exit code 127" in found[3].what
        opened = json.encode({"spec": {"selector": {"stackd.io/assigned": None}}}).decode()
        at.cluster.faults.add_fault(action="admit", verb="create", resource="services", body=opened)
        first, *_ = await at.probe()
        assert (first.level, "before anybody has it" in first.what) == (FAIL, True)


SHORT, NO_ROOM = ProbeOptions(seconds=5.0), (NodeSpec(name="a", labels=ROLE, cpu="10m"),)
NO_PROBES: list[tuple[dict[str, Any], ProbeOptions, dict[str, str], list[str]]] = [
    *(
        ({}, ProbeOptions(image=image, seconds=5.0), {}, [why, "--probe-image"])
        for image, why in (("registry.invalid/x", "does not run"), ("probe/nostart", "ended by itself"))
    ),
    ({"nodes": NO_ROOM}, ProbeOptions(seconds=60.0), {}, ["no node has room for the probe (0/1 nodes are available"]),
    ({"node_port_range": (31500, 31501)}, SHORT, {HIGHEST: "31100"}, ["31001-31100"]),
    ({"serve_node_ports": False}, SHORT, {}, ["does not answer at "]),
]


@pytest.mark.parametrize(("cluster", "options", "settings", "reasons"), NO_PROBES)
async def test_a_probe_that_cannot_ask_or_gets_no_answer_says_why(
    tmp_path: Path, cluster: dict[str, Any], options: ProbeOptions, settings: dict[str, str], reasons: list[str]
) -> None:
    async with prepared(tmp_path, **{"serve_node_ports": True} | cluster) as at:
        async with asyncio.timeout(45):
            (found,) = bad(await at.probe(options, **settings))
    assert (found.level, [part in found.what for part in reasons]) == (FAIL, [True] * len(reasons)), found


async def test_an_interrupted_probe_removes_itself(tmp_path: Path) -> None:
    async with prepared(tmp_path, serve_node_ports=False) as at:
        task = asyncio.create_task(at.look(ProbeOptions(seconds=30.0)))

        async def under_way() -> bool:
            return bool(await at.names("pods")) and bool(await at.names("services"))

        await eventually(under_way)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not await at.names("pods")
        assert not await at.names("services")


# ---- the command


async def test_the_command_prints_all_and_exits_with_one_if_anything_fails(tmp_path: Path) -> None:
    async def doctor(*words: str, **env: str) -> tuple[int, str]:
        result = await asyncio.to_thread(CliRunner(env=env | {"COLUMNS": "100"}).invoke, stackd, ["doctor", *words])
        return result.exit_code, result.output

    async with prepared(tmp_path) as at:
        code, out = await doctor(**at.environment)
        assert (code, "0 failures" in out, KEY in out) == (0, True, False), out
        code, out = await doctor(**at.environment, STACKD_STACKS__NODE_SELECTOR="role=none")
        assert (code, "→ kubectl label" in out) == (1, True), out
    (tmp_path / "config.toml").write_text("[stacks]\nttll = 1\n")
    code, out = await doctor("--config", str(tmp_path / "config.toml"), "-o", "jsonl")
    first = json.decode(out.splitlines()[0])
    assert (code, first["level"], "ttll" in first["what"]) == (1, "fail", True)

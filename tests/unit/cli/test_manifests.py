"""``stackd manifests`` follows the configuration and its options; its output can be applied again and again."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from stackd.cli import stackd
from stackd.config import load
from stackd.kube.labels import role_labels
from stackd.kube.policies import EGRESS, INGRESS, protects
from stackd.kube.rights import in_namespace
from tests.provisioning import printed
from tests.templates import CHECK, PLAIN


def policies(documents: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["metadata"]["name"]: one["spec"] for one in documents if one["kind"] == "NetworkPolicy"}


def test_only_stackd_may_write_the_objects_of_its_stacks() -> None:
    """What the expressions mean is tried on a real API server in ``tests/cluster/test_admission.py``."""
    policy, binding = (one for one in printed("--account", "me") if one["kind"].startswith("ValidatingAdmission"))
    assert binding["spec"]["policyName"] == policy["metadata"]["name"] == "stackd-default-stacks"
    namespace = {"kubernetes.io/metadata.name": "stacks"}
    assert binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"] == namespace
    assert (binding["spec"]["validationActions"], policy["spec"]["failurePolicy"]) == (["Deny"], "Fail")
    rules = policy["spec"]["matchConstraints"]["resourceRules"]
    written = {right.resource for right in in_namespace("default") if {"create", "update", "patch"} & {*right.verbs}}
    assert written <= {resource for rule in rules for resource in rule["resources"]}, "all that stackd writes"
    assert all(rule["operations"] == ["CREATE", "UPDATE", "DELETE"] for rule in rules)
    conditions = {one["name"]: one["expression"] for one in policy["spec"]["matchConditions"]}
    assert "system:serviceaccount:stackd:me" in conditions["not-by-stackd"]
    for word in ("'stackd.io/instance'] == 'default'", "'stack-'", "'svc-stack-'", "'rt-stack-'", "endpointslices"):
        assert word in conditions["of-a-stack"]
    kinds = [one["kind"] for one in printed("--no-admission-policy")]
    assert not [kind for kind in kinds if kind.startswith("ValidatingAdmission")]


def test_the_internet_is_neither_the_cluster_nor_a_private_network_nor_the_metadata_address() -> None:
    assert set(policies(printed())) == {"default-deny", "stacks-from-outside"}, "nothing is reached unasked"
    documents = printed(
        "--egress", "internet", "--cluster-cidr", "203.0.113.0/24", "--cluster-cidr", "2001:db8::/56",
        "--target-port", "80", "--target-port", "8000-8999",
    )  # fmt: skip
    for direction in (INGRESS, EGRESS):
        assert protects([one for one in documents if one["kind"] == "NetworkPolicy"], "default", direction)
    found = policies(documents)
    four, six = (peer["ipBlock"] for peer in found["stacks-to-internet"]["egress"][0]["to"])
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "203.0.113.0/24"} <= set(four["except"])
    assert {"fc00::/7", "fe80::/10", "2001:db8::/56"} <= set(six["except"])
    (rule,) = found["stacks-from-outside"]["ingress"]
    assert [peer["ipBlock"] for peer in rule["from"]] == [
        {"cidr": "0.0.0.0/0", "except": ["203.0.113.0/24"]},
        {"cidr": "::/0", "except": ["2001:db8::/56"]},
    ]
    assert {(port["port"], port.get("endPort")) for port in rule["ports"]} == {(80, None), (8000, 8999)}


KUBECTL = """#!/bin/sh
case "$*" in
  *configmap*) [ -z "$REFUSED" ] || exit 1; printf 'PEM of two\\nlines\\n' ;;
  *"create token"*) echo "$*" >> "$(dirname "$0")/asked"; echo fresh.token.text ;;
  *secret*) echo lasting ;;
esac
"""


def kubeconfig_made(folder: Path, *arguments: str, refused: str = "") -> subprocess.CompletedProcess[str]:
    """Run the printed script with a fake kubectl."""
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    words = ["manifests", "--kubeconfig-for", "https://api.example:6443", *arguments]
    script = CliRunner().invoke(stackd, words).output
    env = {"PATH": f"{folder}:/usr/bin:/bin", "REFUSED": refused}
    return subprocess.run(["sh"], input=script, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_kubeconfig_script_prints_a_kubeconfig_with_a_token_that_ends(tmp_path: Path) -> None:
    made = yaml.safe_load(kubeconfig_made(tmp_path, "--token-hours", "48").stdout)
    cluster = made["clusters"][0]["cluster"]
    assert cluster["server"] == "https://api.example:6443"
    assert base64.b64decode(cluster["certificate-authority-data"]) == b"PEM of two\nlines\n"
    assert made["users"][0]["user"] == {"token": "fresh.token.text"}
    assert (tmp_path / "asked").read_text() == "-n stackd create token stackd --duration=48h\n"
    lasting = yaml.safe_load(kubeconfig_made(tmp_path, "--token", "lasting").stdout)
    assert lasting["users"][0]["user"] == {"token": "lasting"}
    refused = kubeconfig_made(tmp_path, refused="yes")
    assert (refused.returncode != 0, refused.stdout) == (True, "")


def test_each_network_egress_of_templates_has_one_policy_of_its_own(tmp_path: Path) -> None:
    for name, egress in zip("abcde", ("none", "dns", "[192.0.2.0/24, 2001:db8::/32]", "dns", "internet"), strict=True):
        (tmp_path / f"{name}.yaml").write_text(f"{PLAIN}network: {{egress: {egress}}}\n")
    (tmp_path / "plain.yaml").write_text(PLAIN)
    found = policies(printed("--egress", "internet", "--dns", env={"STACKD_TEMPLATES__DIRECTORY": str(tmp_path)}))
    general = {name: found.pop(name) for name in ("stacks-to-dns", "stacks-to-internet")}
    for spec in general.values():
        assert spec["podSelector"]["matchExpressions"] == [{"key": "stackd.io/egress", "operator": "DoesNotExist"}]
    own = {name: spec for name, spec in found.items() if name.startswith("egress-")}
    only = next(name for name in own if name.startswith("egress-only-"))
    assert own.keys() == {"egress-dns", "egress-internet", only}
    assert [peer["ipBlock"]["cidr"] for peer in own[only]["egress"][0]["to"]] == ["192.0.2.0/24", "2001:db8::/32"]
    for name, spec in own.items():
        assert spec["podSelector"]["matchLabels"]["stackd.io/egress"] == name.removeprefix("egress-")


def test_the_pods_of_checks_reach_what_players_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "web-1.yaml").write_text(PLAIN + CHECK)
    monkeypatch.setenv("STACKD_TEMPLATES__DIRECTORY", str(tmp_path))
    monkeypatch.setenv("STACKD_STACKS__NODE_PORT_MAX", "31010")
    documents = printed()
    own, pods = policies(documents), {"podSelector": {"matchLabels": role_labels("check", "default")}}
    assert (own["checks"]["podSelector"], own["checks"]["policyTypes"]) == (pods["podSelector"], ["Egress"])
    to_stacks, to_ports = own["checks"]["egress"]
    assert to_stacks == {"to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/managed-by": "stackd"}}}]}
    assert to_ports["ports"] == [{"protocol": one, "port": 31001, "endPort": 31010} for one in ("TCP", "UDP")]
    assert own["stacks-from-checks"]["ingress"] == [{"from": [pods]}]
    quota = next(one["spec"]["hard"] for one in documents if one["kind"] == "ResourceQuota")
    assert (quota["pods"], quota["services.nodeports"]) == ("18", "10")
    monkeypatch.delenv("STACKD_TEMPLATES__DIRECTORY")
    assert not {"checks", "stacks-from-checks"} & policies(printed()).keys()


def test_what_runs_stackd_in_the_cluster_keeps_to_what_it_needs(tmp_path: Path) -> None:
    (config := tmp_path / "config.toml").write_text("[stacks]\nttl = '10m'\n")
    (tmp_path / "api-key").write_text("a key")
    documents = printed("--config", str(config), "--run", "stackd:1")
    by_kind = {one["kind"]: one for one in documents if one["metadata"]["name"] == "stackd"}
    selector = by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    assert by_kind["Service"]["spec"]["selector"] == selector == {"app.kubernetes.io/name": "stackd"}
    assert by_kind["NetworkPolicy"]["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8081}]}]
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["image"], container["securityContext"]["readOnlyRootFilesystem"]) == ("stackd:1", True)
    assert pod["volumes"][1] == {"name": "state", "persistentVolumeClaim": {"claimName": "stackd"}}
    assert not [one for one in documents if "serviceaccounts/token" in str(one)], "the kubelet renews the token"
    assert [one["tolerationSeconds"] for one in pod["tolerations"]] == [30, 30], "a dead node holds it for five minutes"
    two = printed("--config", str(config), "--run", "stackd:1", "--replicas", "2")
    assert "PersistentVolumeClaim" not in [one["kind"] for one in two], "each replica has a file of its own"


def test_it_is_reached_whichever_family_the_cluster_has_first() -> None:
    by_kind = {one["kind"]: one["spec"] for one in printed("--run", "stackd:1") if "spec" in one}
    assert by_kind["Service"]["ipFamilyPolicy"] == "PreferDualStack"
    (container,) = by_kind["Deployment"]["template"]["spec"]["containers"]
    assert {"name": "STACKD_SERVER__HOST", "value": "::"} in container["env"]


def test_a_secret_that_is_not_there_is_made_once_and_by_hand(tmp_path: Path) -> None:
    """A new key with each run would end the one in force."""
    (config := tmp_path / "config.toml").write_text("")
    text = CliRunner().invoke(stackd, ["manifests", "--config", str(config), "--run", "stackd:1"]).output
    assert "kubectl -n stackd create secret generic stackd --from-literal=api-key=" in text
    assert "Secret" not in [one["kind"] for one in yaml.safe_load_all(text)]


def test_the_pod_reads_what_is_printed_for_it(tmp_path: Path) -> None:
    """Its environment and its files are a configuration without a mistake."""
    documents = printed("--run", "stackd:1")
    (pod,) = (one["spec"]["template"]["spec"] for one in documents if one["kind"] == "Deployment")
    environment = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    environment |= {"CREDENTIALS_DIRECTORY": str(tmp_path), "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    (tmp_path / "api-key").write_text("sk-0123456789abcdef0123456789abcdef")
    found = load(None, environment)
    assert (found.config.cluster.mode, found.origins["auth.keys"]) == ("in-cluster", "credential api-key")

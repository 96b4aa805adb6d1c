"""A cluster as ``stackd manifests`` sets it up: its documents, applied by an administrator, and their rights."""

from __future__ import annotations

from typing import Any

import aiohttp
import yaml
from click.testing import CliRunner

from stackd.cli import stackd
from stackd.embedded import EmbeddedCluster, Rule, User, everything, rules_from_manifests

ADMIN = User(token="admin", name="admin", rules=(everything(),))
OURS = "token-of-stackd"
PATHS = {
    "Pod": "/api/v1/namespaces/{}/pods",
    "Namespace": "/api/v1/namespaces",
    "ResourceQuota": "/api/v1/namespaces/{}/resourcequotas",
    "LimitRange": "/api/v1/namespaces/{}/limitranges",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}


def printed(*arguments: str, env: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """What ``stackd manifests`` prints with these arguments."""
    result = CliRunner().invoke(stackd, ["manifests", *arguments], env=env)
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.output))


def rules(documents: list[dict[str, Any]]) -> tuple[Rule, ...]:
    """The rules that the daemon's account has where the documents were applied."""
    accounts = (one["metadata"]["namespace"] for one in documents if one["kind"] == "ServiceAccount")
    return rules_from_manifests(documents, account="stackd", namespace=next(accounts, "stackd"))


def of_namespace_admin(env: dict[str, str]) -> list[dict[str, Any]]:
    """What is printed for rights in one namespace only, after the namespace that the cluster's administrator has made."""
    return [{"kind": "Namespace", "metadata": {"name": "stacks"}}, *printed(env=env)]


async def ask(cluster: EmbeddedCluster, method: str, path: str, body: Any = None) -> Any:
    """What the cluster answers to its administrator, with success; a PATCH is a merge patch."""
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    headers = {"Authorization": f"Bearer {ADMIN.token}", "Content-Type": kind}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, cluster.url + path, json=body) as answer,
    ):
        assert answer.ok, await answer.text()
        return await answer.json()


async def apply(cluster: EmbeddedCluster, documents: list[dict[str, Any]]) -> None:
    """Create the documents, without the RBAC, as the administrator's ``kubectl apply`` does on a new cluster."""
    for document in documents:
        if path := PATHS.get(document["kind"]):
            await ask(cluster, "POST", path.format(document["metadata"].get("namespace")), document)

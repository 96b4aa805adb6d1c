"""A stack, kubeconfigs, and what a cluster says of itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from stackd.model import PortMapping, Stack, StackStatus
from tests.kube.wire import namespace, says

STACK = Stack(
    stack_id="stack-716b6384dd477b0b",
    namespace="stacks",
    pod_spec="kind: Pod\n",
    ports=(
        PortMapping(container_port=80, protocol="TCP", node_port=31538),
        PortMapping(container_port=53, protocol="UDP", node_port=31001),
    ),
    status=StackStatus.CREATING,
    created_at=1_770_688_946_535_664_123,
    updated_at=1_770_688_946_535_664_123,
    ttl_expires_at=1_770_696_146_535_664_000,
    requested_cpu_milli=100,
    requested_memory_bytes=134217728,
    labels={"team": "7"},
)
SYSTEM = "/api/v1/namespaces/kube-system"
UID = says(namespace("kube-system", uid="cluster-1"))
ELSEWHERE = "http://127.0.0.1:1"


def kubeconfig(path: Path, server: str, user: dict[str, Any], *, context: str = "main", **cluster: Any) -> Path:
    contexts = {"main": "c", "elsewhere": "far"}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "contexts": [{"name": name, "context": {"cluster": at, "user": "u"}} for name, at in contexts.items()],
        "clusters": [
            {"name": "c", "cluster": {"server": server, **cluster}},
            {"name": "far", "cluster": {"server": ELSEWHERE}},
        ],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def plugin(folder: Path, token_file: Path) -> dict[str, Any]:
    """A credential plugin that returns the content of a file and counts its runs."""
    script = folder / "plugin.sh"
    credential = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}'
    script.write_text(f"#!/bin/sh\necho run >> {folder}/runs\nprintf '{credential}' \"$(cat {token_file})\"\n")
    script.chmod(0o755)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script)}}


@asynccontextmanager
async def connected(path: Path, **more: Any) -> AsyncIterator[Cluster]:
    """A client with that kubeconfig."""
    cluster = await Cluster.connect(ClusterTarget(kubeconfig=str(path), **more))
    try:
        yield cluster
    finally:
        await cluster.close()

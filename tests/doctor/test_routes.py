"""The doctor says what keeps ports from being reached at names: CRDs, Gateway, listeners, DNS, certificate."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stackd.doctor import Finding, Level
from stackd.doctor.routes import holds
from tests.certificates import authority, issued
from tests.doctor.prepared import Prepared, prepared
from tests.provisioning import ask, printed

DOMAIN = "stacks.example.org"
GATEWAY = "/apis/gateway.networking.k8s.io/v1/namespaces/gateways/gateways/public"
ROUTES = {
    "STACKD_ROUTES__DOMAIN": DOMAIN,
    "STACKD_ROUTES__GATEWAY": "gateways/public",
    "STACKD_ROUTES__HTTP_LISTENER": "http",
    "STACKD_ROUTES__HTTPS_LISTENER": "https",
    "STACKD_ROUTES__TLS_LISTENER": "tls",
}


@asynccontextmanager
async def site(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, days: int = 90, host: str = f"*.{DOMAIN}", **cluster: Any
) -> AsyncIterator[Prepared]:
    """A cluster with a Gateway, to which all names below the domain lead."""
    by = authority(folder)
    pair = issued(folder, by, host=f"DNS:{host}", days=days)
    monkeypatch.setenv("SSL_CERT_FILE", str(by.cert))
    resolve = socket.getaddrinfo

    def getaddrinfo(name: str, *more: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if name.endswith(DOMAIN) else name, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=pair.server_context())
    environment = ROUTES | {"STACKD_ROUTES__PORT": str(server.sockets[0].getsockname()[1])}
    async with server, prepared(folder, printed(env=environment), **({"gateway": "gateways/public"} | cluster)) as at:
        at.environment |= environment
        yield at


async def about_routes(at: Prepared) -> list[Finding]:
    return [finding for finding in await at.look() if finding.about in ("routes", "rights")]


async def test_names_that_work_are_shown_and_else_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path, monkeypatch) as at:
        assert {finding.level for finding in await about_routes(at)} == {Level.OK}
        everybody = {"namespaces": {"from": "All"}}
        selected = {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"stacks": "no"}}}}
        listeners = [
            {"name": "http", "protocol": "HTTP", "port": 80, "hostname": "*.example.com", "allowedRoutes": everybody},
            {"name": "https", "protocol": "HTTPS", "port": 443, "allowedRoutes": selected},
            {"name": "other", "protocol": "TLS", "port": 443, "allowedRoutes": everybody},
        ]
        refused = {"type": "Programmed", "status": "False", "reason": "Invalid", "message": "no address"}
        changes = {"spec": {"listeners": listeners}, "status": {"conditions": [refused]}}
        await ask(at.cluster, "PATCH", GATEWAY, changes)
        await ask(at.cluster, "PATCH", f"{GATEWAY}/status", changes)
        failed = [finding.what for finding in await about_routes(at) if finding.level is Level.FAIL]
        words = ("not programmed: no address", "listener http is for", "listener https lets in no", "no listener tls")
        assert [part in what for part, what in zip(words, failed, strict=True)] == [True] * 4, failed


@pytest.mark.parametrize(
    ("expression", "lets_in"),
    [
        ({"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["stacks", "web"]}, True),
        ({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["stacks"]}, False),
        ({"key": "team", "operator": "NotIn", "values": ["red"]}, True),
        ({"key": "team", "operator": "In", "values": ["red"]}, False),
        ({"key": "team", "operator": "Exists"}, False),
        ({"key": "team", "operator": "DoesNotExist"}, True),
    ],
)
def test_a_listener_lets_in_the_namespaces_that_its_expression_selects(
    expression: dict[str, Any], lets_in: bool
) -> None:
    assert holds(expression, {"kubernetes.io/metadata.name": "stacks"}) is lets_in

"""Stacks with names, behind a Gateway."""

from __future__ import annotations

from typing import Any

from tests.harness import Harness, seed

GATEWAY = "gateways/public"
SETTINGS = {
    "STACKD_ROUTES__DOMAIN": "stacks.localhost",
    "STACKD_ROUTES__GATEWAY": GATEWAY,
    "STACKD_ROUTES__HTTP_LISTENER": "http",
    "STACKD_ROUTES__HTTPS_LISTENER": "https",
    "STACKD_ROUTES__TLS_LISTENER": "tls",
}


def asking(*routes: str | None, image: str = "nginx:stable") -> dict[str, Any]:
    """A create whose container has the ports 80, 81, …: each with its route, None for a node port."""
    body = seed()
    ports = [{"container_port": 80 + i, "protocol": "TCP"} for i in range(len(routes))]
    declared = "".join(f"\n        - containerPort: {80 + i}" for i in range(len(routes)))
    spec = body["pod_spec"].replace("\n        - containerPort: 80\n          protocol: TCP", declared)
    body["pod_spec"] = spec.replace("nginx:stable", image)
    body["target_port"] = [
        port | ({} if route is None else {"route": route}) for port, route in zip(ports, routes, strict=True)
    ]
    return body


async def routes_of(at: Harness) -> dict[str, Any]:
    """All that gives names: each HTTPRoute, each TLSRoute, and each Service behind them."""
    routes = {**await at.objects("httproutes"), **await at.objects("tlsroutes")}
    services = await at.objects("services")
    return routes | {name: one for name, one in services.items() if name.startswith("rt-")}

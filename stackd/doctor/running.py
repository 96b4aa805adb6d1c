"""A running daemon: does it answer where the configuration says, and how is it."""

from __future__ import annotations

import ipaddress
from typing import Any

import aiohttp

from stackd.config import Config
from stackd.doctor.findings import Finding, fail, ok, warn

ABOUT = "daemon"
SECONDS = 5.0


async def examine(config: Config, key: str) -> Finding:
    """Ask it for its readiness; ``key`` may be empty."""
    url = f"{'https' if config.server.tls_cert else 'http'}://{_host(config)}:{config.server.port}"
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    headers = {"X-API-KEY": key} if key else {}
    try:
        # The certificate is judged elsewhere; it need not be one for this name.
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url}/readyz", headers=headers, ssl=False) as answer,
        ):
            status, body = answer.status, await answer.json(content_type=None)
    except (aiohttp.ClientConnectorError, TimeoutError):
        return ok(ABOUT, f"none is running here: nothing answers at {url}")
    except (aiohttp.ClientError, ValueError):
        return fail(ABOUT, f"what answers at {url} is not stackd", "choose another server.port, or stop the other one")
    return _judged(url, status, body if isinstance(body, dict) else {})


def _judged(url: str, status: int, body: dict[str, Any]) -> Finding:
    if status == 200:
        return ok(ABOUT, f"it is ready at {url}")
    if status in (401, 403, 429):
        return warn(ABOUT, f"it answers at {url}, and wants a key", "set STACKD_API_KEY to ask it how it is")
    reasons = str(body.get("error", f"it answers {status}"))
    if body.get("held"):
        return fail(ABOUT, f"a brake is on: {reasons}", "look at `stackd reconcile --plan`, then `--confirm`")
    return fail(ABOUT, f"it is not ready: {reasons}")


def _host(config: Config) -> str:
    """The address to reach it at from here."""
    try:
        address = ipaddress.ip_address(config.server.host)
    except ValueError:
        return config.server.host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"

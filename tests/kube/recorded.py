"""The recordings of a real API server, played by the scripted one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stackd.kube.wire import KINDS, KubeRequest, KubeResponse
from tests.kube.wire import Wire, page, says

FOLDER = Path(__file__).parent.parent / "recordings"


def recording(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return document


def all_recordings() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def play(wire: Wire, name: str) -> None:
    """Answer the next such request with the recorded response."""
    request, response = recording(name)["request"], recording(name)["response"]
    body, code = response["body"], response["status"]
    reply = page(body, code, "text/plain") if isinstance(body, str) else says(body, code)
    wire.on(request["method"], request["path"].partition("?")[0], reply)


def asked(document: dict[str, Any]) -> KubeRequest:
    """The call that was recorded."""
    method, path = document["request"]["method"], document["request"]["path"].partition("?")[0]
    if path == "/version":
        return KubeRequest(verb="get", resource="version")
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = rest[1] if rest[0] == "namespaces" and len(rest) > 2 else ""
    resource, *more = rest[2:] if namespace else rest
    body = document["request"].get("body") or {}
    name = more[0] if more else (body.get("metadata") or {}).get("name", "")
    reading = "get" if more else "list"
    verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": reading}[method]
    return KubeRequest(
        verb=verb,
        resource="/".join([resource, *more[1:]]),
        namespace=namespace,
        name=name,
        uid=(body.get("preconditions") or {}).get("uid", "") if verb == "delete" else "",
    )


def answered(document: dict[str, Any]) -> KubeResponse:
    """The answer that was recorded."""
    body, code = document["response"]["body"], document["response"]["status"]
    if isinstance(body, str):
        return KubeResponse(status=code, body=body.encode(), content_type="text/plain")
    return KubeResponse(status=code, body=json.dumps(body).encode(), content_type="application/json")


def is_ours(document: dict[str, Any]) -> bool:
    """Whether stackd sends requests of this kind."""
    if "response" not in document:
        return False
    call = asked(document)
    return call.resource in KINDS or call.resource in ("version", "pods/log")

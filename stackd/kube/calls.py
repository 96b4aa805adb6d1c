"""One request to the API server and its answer, as plain data; and the addresses of what stackd asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

METHODS: Mapping[str, str] = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "delete": "DELETE",
    "patch": "PATCH",
}
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
_OK = range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is asked: Kubernetes' verb and resource (as RBAC and the counters name them), and where."""

    verb: str
    resource: str
    path: str
    namespace: str = ""
    name: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, whatever its status; ``retry_after`` in seconds and ``date`` where the server said so."""

    status: int
    body: bytes
    retry_after: int | None = None
    date: str = ""

    @property
    def ok(self) -> bool:
        """Whether the status says that it was done."""
        return self.status in _OK

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty one where it is none (a proxy's page, a cut answer)."""
        try:
            document = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return document if isinstance(document, dict) else {}


def core(resource: str, *, namespace: str = "", name: str = "") -> str:
    """The path of a resource of the core group."""
    return _path("/api/v1", resource, namespace, name)


def grouped(group: str, resource: str, *, namespace: str = "") -> str:
    """The path of a resource of a named API group such as ``networking.k8s.io/v1``."""
    return _path(f"/apis/{group}", resource, namespace, "")


def _path(root: str, resource: str, namespace: str, name: str) -> str:
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{resource}{f'/{name}' if name else ''}"

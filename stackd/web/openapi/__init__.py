"""The API's description, OpenAPI 3.1, built from the route table.

Owns: the document at ``/openapi.json``. Inside:

    shapes               JSON Schema in a few words
    schemas, reports     what goes over the wire
    parameters           queries and headers
    operation            how one route reads
    operations, more     what is said of each route
    examples             the contract's own
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stackd import __version__
from stackd.config import Config
from stackd.web.api import Route
from stackd.web.auth import HEADER, PARAMETER
from stackd.web.openapi.operation import JSON, rendered
from stackd.web.openapi.operations import OPERATIONS, TAGS
from stackd.web.openapi.schemas import schemas
from stackd.web.openapi.shapes import ref

ABOUT = """\
Hand out *stacks*: a hardened Pod and a NodePort Service each, with a time to live.

Every error is `{"error": "<sentence>"}`. A 429 or 503 says in `Retry-After` when another try may be worth it. Times are
RFC 3339 in UTC with up to nine fraction digits. Bodies are read as JSON whatever their type says. Every answer has an
`X-Request-ID`, the client's own if it sent one; the log has it too."""

ERRORS = {
    400: "The request is wrong: its body, a parameter, the pod spec (with the path of each mistake); or the "
    "namespace's LimitRange refuses the pod.",
    401: "No API key, or a wrong one.",
    403: "The API key may only read.",
    404: "There is no such thing.",
    405: "The path does not have this method; `Allow` says which it has.",
    408: "The request did not arrive in time.",
    409: "It contradicts the present state, and says how.",
    413: "The body is larger than `server.max_body`, or a list longer than `batch_delete.max_ids`.",
    422: "The Idempotency-Key came with another body before.",
    429: "Too much for this key or address at a time, and says of what.",
    431: "The request's head is too large.",
    500: "A mistake of stackd's; its log has the details.",
    503: "Not now, and why: full (node ports, quota, nodes), Kubernetes is away, a brake is on, stackd is stopping.",
}
HEADERS = {
    429: ("Retry-After",),
    503: ("Retry-After",),
}


def document(routes: Iterable[Route], config: Config) -> dict[str, Any]:
    """The description of these routes under these settings. Raises ValueError for a route of which nothing is said."""
    paths: dict[str, dict[str, Any]] = {}
    order = list(OPERATIONS)
    for route in sorted(routes, key=lambda route: order.index((route.method, route.path))):
        operation = OPERATIONS[route.method, route.path]
        path = route.path
        paths.setdefault(path, {})[route.method.lower()] = rendered(operation, route.method, path, public=route.public)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "stackd",
            "version": __version__,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"header": []}, {"query": []}] if config.auth.enabled else [],
        "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "header": {"type": "apiKey", "in": "header", "name": HEADER},
                "query": {"type": "apiKey", "in": "query", "name": PARAMETER},
            },
            "headers": {
                "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}},
                "Idempotency-Replayed": {
                    "description": "`true` on an answer that was given before.",
                    "schema": {"type": "string", "const": "true"},
                },
            },
            "responses": {str(status): _error(status, about) for status, about in ERRORS.items()},
            "schemas": schemas(config),
        },
    }


def _error(status: int, about: str) -> dict[str, Any]:
    made: dict[str, Any] = {"description": about, "content": {JSON: {"schema": ref("Error")}}}
    if status in HEADERS:
        made["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS[status]}
    return made

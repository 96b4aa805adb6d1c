"""The API's description, OpenAPI 3.1, built from the route table.

Owns: the document at ``/openapi.json``. Inside:

    schemas      the bodies of requests and responses
    operations   the parameters, text, examples and responses of each route
    examples     the example bodies
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from stackd import __version__
from stackd.config import Config
from stackd.web.api import Route
from stackd.web.auth import HEADER, METRICS_PATHS, OPERATOR_PATHS, PARAMETER, SAFE_METHODS
from stackd.web.openapi import examples
from stackd.web.openapi.operations import TAGS
from stackd.web.openapi.schemas import schemas
from stackd.web.schema import Operation, answer

ABOUT = """\
Hand out *stacks*: a hardened Pod and a NodePort Service each, with a time to live.

Every error is `{"error": "<sentence>"}`. Some have more fields: a 400 for a pod spec its `reasons` (path, line and text of
each), a 409 for a label's limit the `stack_id` of the existing stack, a 503 a `detail`: what Kubernetes said, for whoever runs
stackd. Where a limit or the room is the reason (409, 429, 503), `player_message` is a sentence for players. A 429 or 503 has
`Retry-After`: when to try again. Times are RFC 3339 in UTC with up to nine fraction digits. Bodies are read as JSON whatever
their Content-Type says. A compressed body is a 415, a field given twice in an object a 400, a method that a path does not have
a 405 with `Allow`. Every answer has an `X-Request-ID`, the client's own if it sent one. The log has it too."""

SCOPES = """\
A key of scope `admin` may do everything. One of scope `read` may read everything, including pod specs and logs. One of scope
`metrics` may read `/metrics`, `/healthz`, `/readyz` and `/owner`. One of scope `tenant` may do everything with the stacks that
have its labels. Others' stacks and jobs do not exist for it, and `/metrics`, `/reconcile` and `/takeover` are a 403."""

ERRORS = {
    400: "The request is wrong: its body, a parameter, the pod spec (with the path of each mistake); or the "
    "namespace's LimitRange refuses the pod.",
    401: "No API key, or a wrong one.",
    403: "The scope of the API key does not cover this.",
    404: "Not found.",
    408: "The request did not arrive in time.",
    409: "The request conflicts with the present state; `error` says how.",
    413: "The body is larger than `server.max_body`, or a list longer than `batch_delete.max_ids`.",
    415: "The body is compressed (`Content-Encoding`). Send it uncompressed.",
    417: "`Expect` may only be `100-continue`.",
    422: "The Idempotency-Key was used with another body before.",
    429: "Too many requests for this key, address or label; `error` names the limit.",
    431: "The request's head is too large.",
    500: "An error in stackd; its log has the details.",
    503: "Not possible now; `error` says why: no capacity (node ports, quota, nodes), Kubernetes is unreachable, "
    "a brake is on, or stackd is stopping.",
}
HEADERS = {
    429: ("Retry-After",),
    503: ("Retry-After",),
}

ALWAYS = (431, 500, 503)
WITH_KEY = (401, 429)
WITH_BODY = (400, 408, 413, 415, 417)
PATH_PARTS = {
    "stack_id": ("A stack's id.", examples.STACK_ID),
    "job_id": ("A job's id.", examples.JOB_ID),
}


def document(routes: Iterable[Route], config: Config) -> dict[str, Any]:
    """The OpenAPI document for ``routes`` under ``config``. Pages for browsers have no description, and are not in it."""
    paths: dict[str, dict[str, Any]] = {}
    described = [(route, route.doc) for route in routes if route.doc is not None]
    for route, operation in sorted(described, key=lambda each: list(TAGS).index(each[1].tag)):
        public = config.metrics.public if route.path == "/metrics" else route.public
        paths.setdefault(route.path, {})[route.method.lower()] = _rendered(operation, route, public=public)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "stackd",
            "version": __version__,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"header": []}, {"bearer": []}, {"query": []}] if config.auth.enabled else [],
        "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "header": {"type": "apiKey", "in": "header", "name": HEADER, "description": SCOPES},
                "bearer": {"type": "http", "scheme": "bearer", "description": SCOPES},
                "query": {"type": "apiKey", "in": "query", "name": PARAMETER, "description": SCOPES},
            },
            "headers": {
                "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}},
                "Idempotency-Replayed": {
                    "description": "`true` if this is the answer to an earlier request with the same key.",
                    "schema": {"type": "string", "const": "true"},
                },
            },
            "responses": {
                str(status): answer(about, "Error", headers=HEADERS.get(status, ())) for status, about in ERRORS.items()
            },
            "schemas": schemas(config),
        },
    }


def _rendered(operation: Operation, route: Route, *, public: bool) -> dict[str, Any]:
    """The operation in the form of OpenAPI 3.1."""
    parameters = [*_path_parameters(route.path), *operation.parameters]
    responses = {
        status: {"$ref": f"#/components/responses/{status}"} for status in _errors(operation, route, public=public)
    }
    return {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.about,
        **({"security": []} if public else {}),
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": operation.body} if operation.body else {}),
        "responses": {str(status): each for status, each in sorted((responses | dict(operation.answers)).items())},
    }


def _errors(operation: Operation, route: Route, *, public: bool) -> set[int]:
    errors = {*operation.errors, *ALWAYS}
    errors.update(() if public else WITH_KEY)
    errors.update(
        () if public or (route.method in SAFE_METHODS and route.path in METRICS_PATHS - OPERATOR_PATHS) else (403,)
    )
    errors.update(WITH_BODY if operation.body else ())
    errors.update((400,) if operation.parameters else ())
    errors.update((404,) if "{" in route.path else ())
    return errors


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PATH_PARTS[name][0],
            "schema": {"type": "string", "minLength": 1},
            "example": PATH_PARTS[name][1],
        }
        for name in re.findall(r"\{(\w+)", path)
    ]

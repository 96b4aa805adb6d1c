"""The API's description, OpenAPI 3.1, from the route table and ``contract``: the document at ``/openapi.json``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from aiohttp import web
from msgspec import Meta, json

from stackd import contract
from stackd.codes import ErrorCode
from stackd.config import Config
from stackd.config.sections import OidcSection
from stackd.contract import BATCH_JOB, DELETE_JOB, OF_CREATE, Body, Field, Request, fields_of, is_body
from stackd.model import EventKind, JobStatus, StackStatus
from stackd.units import format_duration
from stackd.version import VERSION
from stackd.web import examples
from stackd.web.api import IDEMPOTENCY_KEY, ROUTES, ApiCall, Route, Shape, route
from stackd.web.auth import HEADER, METRICS_PATHS, OPERATOR_PATHS, PARAMETER, SAFE_METHODS
from stackd.web.idempotency import KEY_LIMIT
from stackd.web.listing import BATCH
from stackd.web.oidc import described_at
from stackd.web.pages import file_of, send
from stackd.web.parameters import MOST_VALUES, Parameter
from stackd.web.responses import JSON
from stackd.web.stacks import HISTORY, STACKS
from stackd.web.system import HEALTH, OPERATOR

Schema = dict[str, Any]

ABOUT = """\
Hand out *stacks*: a hardened Pod and a NodePort Service each, with a time to live.

Every error is `{"error": "<sentence>", "code": "<code>"}`: the sentence is for people and may change, the code is for programs
and stays. Some have more fields: a 400 for a pod spec its `reasons` (path, line and text of each), a 409 for a label's limit the
`stack_id` of the existing stack, a 503 a `detail`: what Kubernetes said, for the operator of stackd. A player may read
`player_message`, and nothing else of an error. A 429 or 503 has `Retry-After`: when to try again.

A request may have only what is described here, and a route without a body takes none, or `{}`; null stands for absent. Answers
may get new fields, and enumerations new values. Times are RFC 3339 in UTC with up to nine fraction digits. Bodies are read as
JSON whatever their Content-Type says. A compressed body is a 415, a field given twice in an object a 400, a method that a path
does not have a 405 with `Allow`. Every answer has an `X-Request-ID`, the client's own if it sent one. The log has it too."""

SCOPES = """\
A key of scope `admin` may do everything. One of scope `read` may read everything, including pod specs and logs. One of scope
`metrics` may read `/metrics`, `/healthz`, `/readyz` and `/owner`. One of scope `tenant` may do everything with the stacks that
have its labels. Others' stacks and jobs do not exist for it, and `/metrics`, `/reconcile` and `/takeover` are a 403."""

WRITTEN_ONCE: Final = Parameter(
    IDEMPOTENCY_KEY,
    "A value that the client chooses for one request. For a day, a repetition with the same value gets the status of the "
    "first answer and the same stack or job, as it is by then, even if limits or policies have changed; a 409 if it is gone.",
    str,
    {"pattern": "^[!-~](?:[ -~]*[!-~])?$", "maxLength": KEY_LIMIT},
    where="header",
)
OF_ONE_VERSION: Final = Parameter(
    "If-Match",
    "The `ETag` of an earlier answer, which is the `version` in quotes, or `*`: a 412 if the template has another one by now, or "
    "is not there.",
    str,
    {"maxLength": 1024},
    where="header",
)
LINKS: Final = "Links"
TAGS: Final = {
    STACKS: "A stack is a hardened pod and a NodePort service with a time to live.",
    BATCH: "Extending, restarting, stopping, starting or deleting many stacks as one job.",
    LINKS: "Links by which players start stacks without a key, on the page `/play`.",
    HISTORY: "What happened to a stack, and what happens now.",
    HEALTH: "Whether stackd works, and how busy it is.",
    OPERATOR: "For whoever runs stackd.",
}
ERRORS: Final = {
    400: "The request is wrong: its body, a parameter, the pod spec (with the path of each mistake); or the "
    "namespace's LimitRange refuses the pod.",
    401: "No API key, or a wrong one.",
    403: "The scope of the API key does not cover this.",
    404: "Not found.",
    408: "The request did not arrive in time.",
    409: "The request conflicts with the present state; `error` says how.",
    412: "The template is not the one of `If-Match`.",
    413: "The body is larger than `server.max_body`, or a list longer than `batch_delete.max_ids`.",
    415: "The body is compressed (`Content-Encoding`). Send it uncompressed.",
    422: "The Idempotency-Key was used with another body before.",
    429: "Too many requests for this key, address or label; `error` names the limit.",
    431: "The request's head is too large.",
    500: "An error in stackd; its log has the details.",
    503: "Not possible now; `error` says why: no capacity (node ports, quota, nodes), Kubernetes is unreachable, "
    "a brake is on, or stackd is stopping.",
}
MORE: Final = " Later versions may have more values."
PATH_PARTS: Final = {
    "stack_id": ("A stack's id.", examples.STACK_ID),
    "job_id": ("A job's id.", examples.JOB_ID),
    "template": ("A template's name.", "web-2"),
    "link_id": ("A link's id.", examples.LINK_ID),
    "message_id": ("A message's id.", examples.MESSAGE_ID),
}
NAMED: Final[Mapping[str, Schema]] = {
    "StackId": {"type": "string", "description": "A stack's id.", "examples": [examples.STACK_ID]},
    "StackStatus": {
        "type": "string",
        "description": "`creating`: the pod may not be running yet. `running`: ready to accept traffic. `stopped`: the pod "
        "has ended or was stopped. `failed`: it failed to start or to run. `node_deleted`: its node is gone.",
        "enum": list(StackStatus),
    },
    "ErrorCode": {
        "type": "string",
        "description": "\n".join(f"- `{code}` ({code.status}): {code.about}" for code in ErrorCode)
        + "\n\nTreat one that you do not know by the status."
        + MORE,
        "enum": list(ErrorCode),
    },
    "JobStatus": {
        "type": "string",
        "description": "`queued`: waits to start. `running`: in progress. `completed`: finished, see the counts. "
        "`failed`: finished, and every id failed.",
        "enum": list(JobStatus),
    },
}
"""Schemas of single values; fields of ``contract`` name them as their description."""

BYTES: Final = "application/octet-stream"
"""Generators of clients know no other type for a body that is neither JSON nor a form."""

PLAIN: Final = {str: "string", int: "integer", float: "number", bool: "boolean"}


@route("GET", "/openapi.json", public=True, standby=True)
async def openapi(call: ApiCall) -> web.Response:
    """The route table, described; rendered once for each configuration."""
    config = call.api.context.config
    if call.api.described is None or call.api.described[0] is not config:
        call.api.described = config, file_of(json.encode(document(ROUTES, config)), JSON)
    return send(call, call.api.described[1])


def document(routes: Iterable[Route], config: Config) -> Schema:
    """The OpenAPI document for ``routes`` under ``config``. Pages for browsers are not in it."""
    paths: dict[str, Schema] = {}
    described = [each for each in routes if each.id]
    for each in sorted(described, key=lambda each: list(TAGS).index(each.tag)):
        public = config.metrics.public if each.path == "/metrics" else each.public
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, public=public)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "stackd",
            "version": VERSION,
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
                **_sign_in(config.auth.oidc),
            },
            "headers": {
                "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}},
                "ETag": {"description": "The template's `version` in quotes.", "schema": {"type": "string"}},
                "Idempotency-Replayed": {
                    "description": "`true` if this is the answer to an earlier request with the same key.",
                    "schema": {"type": "string", "const": "true"},
                },
            },
            "responses": {
                str(status): {
                    "description": about,
                    "content": {JSON: {"schema": _ref("Error")}},
                    **(_headers("Retry-After") if status in (429, 503) else {}),
                }
                for status, about in ERRORS.items()
            },
            "schemas": schemas(config),
        },
    }


def _operation(each: Route, *, public: bool) -> Schema:
    in_path = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PATH_PARTS[name][0],
            "schema": {"type": "string", "minLength": 1},
            "example": PATH_PARTS[name][1],
        }
        for name in re.findall(r"\{(\w+)", each.path)
    ]
    query = (*each.query, *((WRITTEN_ONCE,) if each.replays else ()))
    query += (OF_ONE_VERSION,) if each.versioned and each.method not in SAFE_METHODS else ()
    parameters = [*in_path, *map(_parameter, query)]
    responses: dict[int, Schema] = {
        status: {"$ref": f"#/components/responses/{status}"} for status in _errors(each, public=public)
    }
    for answer in each.answers:
        headers: tuple[str, ...] = ("Retry-After",) if answer.status == 503 else ()
        headers += ("Idempotency-Replayed",) if each.replays and answer.status != 503 else ()
        headers += ("ETag",) if each.versioned and each.method != "DELETE" else ()
        described = {
            "description": answer.about,
            "content": {answer.media: {"schema": _shape(answer.body)}},
            **_headers(*headers),
        }
        if answer.job:
            link = {"operationId": answer.job, "parameters": {"job_id": "$response.body#/job_id"}}
            described["links"] = {"job": link}
        responses[answer.status] = described
    summary, _, about = inspect.cleandoc(each.handler.__doc__ or "").partition("\n")
    return {
        "operationId": each.id,
        "tags": [each.tag],
        "summary": summary.removesuffix("."),
        "description": about.strip(),
        **({"security": []} if public else {}),
        **({"parameters": parameters} if parameters else {}),
        **(
            {"requestBody": {"required": not each.body_optional, "content": _body(each)}}
            if each.body or each.media
            else {}
        ),
        "responses": {str(status): responses[status] for status in sorted(responses)},
    }


def _body(each: Route) -> Schema:
    if each.media:
        schema = {"type": "string", "format": "binary", "contentMediaType": each.media}
        return {BYTES: {"schema": schema, "examples": {"a web server": {"value": examples.TEMPLATE}}}}
    named = examples.BODIES[each.body.__name__] if each.body else {}
    return {JSON: {"schema": _shape(each.body), "examples": {name: {"value": value} for name, value in named.items()}}}


def _errors(each: Route, *, public: bool) -> set[int]:
    """The statuses of errors that the route can answer."""
    errors = {*each.errors, 400, 408, 413, 415, 431, 500, 503, *((409, 422) if each.replays else ())}
    if not public:
        errors |= {401, 429}
        for_all = each.method in SAFE_METHODS and each.path in METRICS_PATHS - OPERATOR_PATHS
        errors |= set() if for_all else {403}
    return errors | ({404} if "{" in each.path else set())


def _parameter(one: Parameter[Any]) -> Schema:
    schema: Schema = {"type": "string", **one.schema}
    described = {
        "name": one.name,
        "in": one.where,
        "description": one.about,
        "schema": {"type": "array", "items": schema, "maxItems": MOST_VALUES} if one.many else schema,
    }
    return described | ({"required": True} if one.required else {}) | ({"example": one.example} if one.example else {})


def _sign_in(oidc: OidcSection) -> dict[str, Any]:
    """How people sign in to the dashboard, if they can; it is for no program, so no operation names it."""
    if not oidc:
        return {}
    about = "People sign in to the dashboard with it; programs use an API key."
    return {"session": {"type": "openIdConnect", "openIdConnectUrl": described_at(oidc), "description": about}}


def _headers(*names: str) -> Schema:
    return {"headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}} if names else {}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _shape(body: Shape | None) -> Schema:
    if body is None:
        return {"type": "string"}
    if isinstance(body, tuple):
        return {"anyOf": [_shape(one) for one in body]}
    return _ref(body if isinstance(body, str) else body.__name__)


def schemas(config: Config) -> dict[str, Schema]:
    """All schemas by name, for these settings. Those of requests are closed, those of answers open to later fields."""
    schemas = {
        kind.__name__: _record(kind)
        for kind in vars(contract).values()
        if is_body(kind) and kind not in (Body, Request)
    }
    stack = schemas.pop("Stack")
    fields = {name: schema for name, schema in stack["properties"].items() if name not in OF_CREATE}
    schemas["StackCreated"] = stack | {"description": "The new stack."}
    schemas["StackDetail"] = stack | {"properties": fields}
    schemas["StackEntry"] = stack | {
        "description": "A stack in a list; with `fields`, only those.",
        "properties": fields,
    }
    del schemas["StackEntry"]["required"]
    job = schemas["Job"]
    schemas["BatchJob"] = _chosen(job, (*BATCH_JOB, "results"))
    about = "A batch-delete job. At its end `total` = `deleted` + `not_found` + `failed`."
    schemas["Job"] = _chosen(job, DELETE_JOB) | {"description": about}
    schemas["TimelineEvent"]["properties"]["kind"] |= {"enum": list(EventKind), "description": "What." + MORE}
    create, batch = schemas["Create"], schemas["Batch"]
    create |= {  # not as oneOf: of its alternatives, generators of clients make classes, or nothing
        "if": _given("template"),
        "then": {"not": {"anyOf": [_given("target_port"), _given("pod_spec"), _given("members")]}},
        "else": _given("pod_spec"),
    }
    batch |= {
        "if": {"properties": {"action": {"const": "create"}}},
        "then": {
            "required": ["each"],
            "not": {"anyOf": [_given("stack_ids"), _given("labels"), _null("each")]},
        },
        "else": {
            "if": {"properties": {"action": {"const": "extend"}}},
            "then": _given("ttl"),
            "else": {"not": _given("ttl")},
            "oneOf": [_given("stack_ids"), _given("labels")],
            "not": {"anyOf": [_given("template"), _given("env"), _given("each")]},
        },
    }
    for one in (batch["properties"], schemas["BatchDelete"]["properties"]):
        one["stack_ids"]["maxItems"] = config.batch_delete.max_ids
    batch["properties"]["each"]["maxItems"] = config.batch_delete.max_ids
    if names := list(config.limits.required_labels):
        create["required"] = ["labels"]
        create["properties"]["labels"] |= {"type": "object", "required": names}
    create["properties"]["ttl"]["description"] += f" Now at most {format_duration(config.stacks.max_ttl)}."
    create["properties"]["pod_spec"]["description"] += f" Now {config.limits.pod_spec} bytes (`limits.pod_spec`)."
    if offered := list(config.routes.offered):
        schemas["TargetPort"]["properties"]["route"]["enum"] = [*offered, None]
    else:
        del schemas["TargetPort"]["properties"]["route"]
    return {**NAMED, **schemas}


def _given(name: str) -> Schema:
    """The condition that a request has the field, and not as null."""
    return {
        "required": [name],
        "not": _null(name),
    }  # Redocly takes the properties of a condition for all that there are


def _null(name: str) -> Schema:
    return {"properties": {name: {"type": "null"}}}


def _chosen(schema: Schema, names: Iterable[str]) -> Schema:
    required = [name for name in names if name in schema["required"]]
    return schema | {"required": required, "properties": {name: schema["properties"][name] for name in names}}


def _record(kind: type[Body]) -> Schema:
    """An object with these fields in this order; that of a request has no others."""
    fields, closed = fields_of(kind), issubclass(kind, Request)
    required = [each.name for each in fields if not each.optional]
    properties = {each.name: _field(each) for each in fields}
    for field in properties.values():
        if not closed and "enum" in field:
            field["description"] += MORE
    schema: Schema = {"type": "object", "description": (kind.__doc__ or "").replace("``", "`")}
    return (
        schema
        | ({"required": required} if required else {})
        | {"properties": properties}
        | ({"additionalProperties": False} if closed else {})
    )


def _field(each: Field) -> Schema:
    if each.about in NAMED:
        return _ref(each.about)
    return _typed(each.kind) | {"description": each.about} | dict(each.keywords)


def _typed(kind: Any) -> Schema:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        schema = _typed(inner[0])
        for meta in inner[1:]:
            schema |= _bounds(meta, schema["type"])
        return schema
    if kind in PLAIN:
        return {"type": PLAIN[kind]} | ({"minimum": 0} if kind is int else {})
    if kind is datetime:
        return {"type": "string", "format": "date-time"}
    if is_body(kind):
        return _ref(kind.__name__)
    if origin is tuple:
        return {"type": "array", "items": _typed(inner[0])}
    if origin is Literal:
        return {"type": PLAIN[type(inner[0])]} | ({"const": inner[0]} if len(inner) == 1 else {"enum": list(inner)})
    if origin in (Union, UnionType):
        schema = _typed(inner[0])
        if is_body(inner[0]):
            return {"anyOf": [schema, {"type": "null"}]}
        values = schema.get("enum") or ([schema.pop("const")] if "const" in schema else [])
        return schema | {"type": [schema["type"], "null"]} | ({"enum": [*values, None]} if values else {})
    names = _typed(inner[0])
    return (
        {"type": "object"}
        | ({"propertyNames": {"pattern": names["pattern"]}} if "pattern" in names else {})
        | ({} if inner[1] is Any else {"additionalProperties": _typed(inner[1])})
    )


def _bounds(meta: Meta, kind: str) -> Schema:
    """The bounds that msgspec checks, in the words of JSON Schema."""
    size = {"string": "Length", "array": "Items", "object": "Properties"}.get(kind, "")
    bounds = {"minimum": meta.ge, "maximum": meta.le, f"min{size}": meta.min_length, f"max{size}": meta.max_length}
    pattern = meta.pattern and re.sub(r"^\\A", "^", re.sub(r"\\Z$", "$", meta.pattern))
    found = {**bounds, "description": meta.description, "pattern": pattern}
    given = {word: value for word, value in found.items() if value is not None}
    return given | (meta.extra_json_schema or {})

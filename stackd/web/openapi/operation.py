"""What is said of one route, and how that reads in OpenAPI 3.1."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stackd.web.openapi import examples
from stackd.web.openapi.shapes import Schema, ref

JSON = "application/json"
ALWAYS = (431, 500, 503)
WITH_KEY = (401, 429)
CHANGES = (403,)
WITH_BODY = (400, 408, 413)
READS = frozenset({"GET"})
PATH_PARTS = {
    "stack_id": ("A stack's id.", examples.STACK_ID),
    "job_id": ("A job's id.", examples.JOB_ID),
    "folder": ("A page's name.", "docs"),
    "file": ("A file's name.", "index.html"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer; ``schema`` is the name of a schema, or a schema; an empty one is a body of no schema.

    An empty ``media`` is no body.
    """

    about: str
    schema: str | Schema = field(default_factory=dict)
    media: str = JSON
    examples: Mapping[str, Any] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    links: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A request's JSON body; ``schema`` is the name of a schema."""

    schema: str
    examples: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A query parameter or a header."""

    name: str
    about: str
    schema: Schema
    where: str = "query"
    many: bool = False
    required: bool = False
    example: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is said of one route. ``errors`` are those beside what the kind of route brings with it anyway."""

    id: str
    tag: str
    summary: str
    about: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    answers: Mapping[int, Answer]
    errors: tuple[int, ...] = ()


def rendered(operation: Operation, method: str, path: str, *, public: bool) -> dict[str, Any]:
    """The operation as OpenAPI has it."""
    made: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.about:
        made["description"] = operation.about
    if public:
        made["security"] = []
    parameters = _path_parameters(path) + [_parameter(each) for each in operation.parameters]
    if parameters:
        made["parameters"] = parameters
    if operation.body is not None:
        content = {"schema": ref(operation.body.schema), "examples": _examples(operation.body.examples)}
        made["requestBody"] = {"required": True, "content": {JSON: content}}
    answers = {str(status): _answer(answer) for status, answer in operation.answers.items()}
    for status in _errors(operation, method, path, public=public):
        answers.setdefault(str(status), {"$ref": f"#/components/responses/{status}"})
    return made | {"responses": dict(sorted(answers.items()))}


def _errors(operation: Operation, method: str, path: str, *, public: bool) -> set[int]:
    errors = {*operation.errors, *ALWAYS}
    errors.update(() if public else WITH_KEY)
    errors.update(() if public or method in READS else CHANGES)
    errors.update(WITH_BODY if operation.body else ())
    errors.update((400,) if operation.parameters else ())
    errors.update((404,) if "{" in path else ())
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


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = {"type": "array", "items": parameter.schema} if parameter.many else parameter.schema
    made: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.where,
        "description": parameter.about,
        "schema": schema,
    }
    if parameter.required:
        made["required"] = True
    return made if parameter.example is None else made | {"example": parameter.example}


def _answer(answer: Answer) -> dict[str, Any]:
    schema = ref(answer.schema) if isinstance(answer.schema, str) else answer.schema
    content: dict[str, Any] = {"schema": schema} if schema else {}
    if answer.examples:
        content["examples"] = _examples(answer.examples)
    made: dict[str, Any] = {"description": answer.about}
    if answer.media:
        made["content"] = {answer.media: content}
    if answer.headers:
        made["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in answer.headers}
    if answer.links:
        made["links"] = dict(answer.links)
    return made


def _examples(examples: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"value": value} for name, value in examples.items()}

"""Building blocks of the API's description: short forms for JSON Schema, and the records that describe a route.

Owns: how the tables of fields, schemas and operations are written down. Knows none of them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stackd.web.responses import JSON

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """A schema of the document, by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def text(description: str, **more: Any) -> Schema:
    """A string; ``more`` are JSON Schema keywords."""
    return {"type": "string", "description": description, **more}


def number(description: str, least: int = 0, most: int | None = None, **more: Any) -> Schema:
    """A whole number from ``least`` to ``most``."""
    limits = {"minimum": least} | ({} if most is None else {"maximum": most})
    return {"type": "integer", "description": description, **limits, **more}


def flag(description: str) -> Schema:
    """True or false."""
    return {"type": "boolean", "description": description}


def moment(description: str) -> Schema:
    """A time."""
    return text(description, format="date-time")


def one_of(kind: type[enum.StrEnum], description: str) -> Schema:
    """One of an enumeration's values."""
    return text(description, enum=[str(member) for member in kind])


def nullable(schema: Schema) -> Schema:
    """The same schema, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def many(items: Schema, description: str = "", **more: Any) -> Schema:
    """A list."""
    about = {"description": description} if description else {}
    return {"type": "array", **about, "items": items, **more}


def table(values: Schema, description: str, **more: Any) -> Schema:
    """An object whose names come from the client or the cluster."""
    return {"type": "object", "description": description, "additionalProperties": values, **more}


def record(description: str, properties: dict[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    """An object with exactly these fields, in this order; all but the ``optional`` ones are always present."""
    return {
        "type": "object",
        "description": description,
        "required": [name for name in properties if name not in optional],
        "properties": properties,
        "additionalProperties": False,
    }


def answer(
    about: str,
    schema: str | Schema,
    *,
    media: str = JSON,
    examples: Mapping[str, Any] | None = None,
    headers: Iterable[str] = (),
    links: Mapping[str, Any] | None = None,
) -> Schema:
    """A response. ``schema`` is the name of a schema, or a schema."""
    described: Schema = {"description": about, "content": {media: _content(schema, examples or {})}}
    if headers:
        described["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return described | ({"links": links} if links else {})


def body(schema: str, examples: Mapping[str, Any]) -> Schema:
    """A request's JSON body; ``schema`` is the name of a schema."""
    return {"required": True, "content": {JSON: _content(schema, examples)}}


def parameter(
    name: str, about: str, schema: Schema, *, where: str = "query", most: int = 1, example: Any = None
) -> Schema:
    """A query parameter or a header with ``most`` values at most."""
    schema = many(schema, maxItems=most) if most > 1 else schema
    described = {"name": name, "in": where, "description": about, "schema": schema}
    return described if example is None else described | {"example": example}


def _content(schema: str | Schema, examples: Mapping[str, Any]) -> Schema:
    content = {"schema": ref(schema) if isinstance(schema, str) else schema}
    return content | ({"examples": {name: {"value": value} for name, value in examples.items()}} if examples else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The description of one route. ``errors`` adds to those that every route of its kind can answer."""

    id: str
    tag: str
    summary: str
    about: str = ""
    parameters: tuple[Schema, ...] = ()
    body: Schema | None = None
    answers: Mapping[int, Schema]
    errors: tuple[int, ...] = ()

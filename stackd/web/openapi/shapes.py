"""JSON Schema in a few words, so that the descriptions of the API read like tables."""

from __future__ import annotations

import enum
from typing import Any

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
    """The same, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def many(items: Schema, description: str = "", **more: Any) -> Schema:
    """A list."""
    about = {"description": description} if description else {}
    return {"type": "array", **about, "items": items, **more}


def table(values: Schema, description: str, **more: Any) -> Schema:
    """An object with names of the client's or the cluster's."""
    return {"type": "object", "description": description, "additionalProperties": values, **more}


def record(description: str, properties: dict[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    """An object with exactly these fields, in this order; those not ``optional`` are always there."""
    return {
        "type": "object",
        "description": description,
        "required": [name for name in properties if name not in optional],
        "properties": properties,
        "additionalProperties": False,
    }

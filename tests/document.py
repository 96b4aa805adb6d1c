"""The OpenAPI document, and answers that it describes."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

from stackd.config import Config
from stackd.play import ROUTES
from stackd.web.openapi import Schema, document
from tests.harness import Harness

DESCRIBED: dict[str, Any] = document(ROUTES, Config())


def validator(schema: Schema) -> Any:
    return jsonschema_rs.validator_for(schema | {"components": DESCRIBED["components"]}, validate_formats=False)


def matches(name: str, value: object) -> None:
    """Check that the value has exactly the schema's fields, in the schema's order."""
    validator({"$ref": f"#/components/schemas/{name}"}).validate(value)
    schema: Schema = DESCRIBED["components"]["schemas"][name]
    if isinstance(value, dict) and "properties" in schema:
        known = list(schema["properties"])
        assert list(value) == [field for field in known if field in value]


async def activity(at: Harness, query: str = "") -> list[dict[str, Any]]:
    page = await at.get(f"/activity{query}")
    matches("ActivityPage", page)
    entries: list[dict[str, Any]] = page["activity"]
    return entries

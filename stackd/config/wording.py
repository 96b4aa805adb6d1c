"""The sentences for mistakes: pydantic's findings and unknown names, with what would be right.

A value is repeated only if its key cannot hold a secret.
"""

from __future__ import annotations

import json
from typing import Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stackd.config.sections import Config
from stackd.config.sources import KeyPath
from stackd.keys import ApiKey
from stackd.kinds import Expects
from stackd.names import did_you_mean, suggest
from stackd.podspec.policy import Toleration

_NESTED: Final[dict[str, type[BaseModel]]] = {"keys": ApiKey, "tolerations": Toleration}
_TYPES: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    tuple: "a list",
    dict: "a table",
}

_NO_KEY_TEXT: Final = (
    "the text of a key does not belong in a file that others read; use STACKD_AUTH__KEY, key_file, "
    "or its SHA-256 in [[auth.keys]]"
)


def sections() -> dict[str, type[BaseModel]]:
    """The model of each section, by name, in the order of the file."""
    found: dict[str, type[BaseModel]] = {}
    for name, field in Config.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            found[name] = model
    return found


def expectation(field: FieldInfo) -> Expects:
    """What is expected of a field; for fields of nested models, their description."""
    for item in field.metadata:
        if isinstance(item, Expects):
            return item
    return Expects(what=field.description or "something else", secret=field.repr is False)


def name(path: KeyPath) -> str:
    """``[auth] keys[0].sha256``."""
    section, *rest = path
    text = ""
    for part in rest:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return f"[{section}] {text}".rstrip()


def explain(model: type[BaseModel], error: ErrorDetails) -> str:
    """A finding of pydantic about a section, as ``what is wrong; what would be right``."""
    location = error["loc"]
    field = _field(model, location)
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        nested = _NESTED[str(location[0])]
        return "unknown key" + did_you_mean(str(location[-1]), nested.model_fields)
    expects = expectation(field)
    if kind == "missing":
        return f"this is missing; {expects.what} is expected"
    if kind == "value_error":
        return f"{error['ctx']['error']}; {expects.what} is expected"
    if kind == "literal_error":
        return _unknown_word(value, str(error["ctx"]["expected"]))
    shown = "this" if expects.secret else _shown(value)
    return f"{shown} {_wrong(kind, value)}; {expects.what} is expected"


def _field(model: type[BaseModel], location: tuple[int | str, ...]) -> FieldInfo:
    key = str(location[0])
    nested = _NESTED.get(key)
    if nested is not None and len(location) > 2 and location[2] in nested.model_fields:
        return nested.model_fields[str(location[2])]
    return model.model_fields[key]


def _wrong(kind: str, value: object) -> str:
    if kind.startswith(("greater_than", "less_than")):
        return "is out of range"
    if kind == "string_too_short":
        return "is empty"
    if kind in ("string_too_long", "string_pattern_mismatch"):
        return "is not acceptable"
    if kind == "finite_number":
        return "is not a number that can be used"
    return f"is {_TYPES.get(type(value), 'a ' + type(value).__name__)}"


def _unknown_word(value: object, expected: str) -> str:
    choices = [choice.strip("'") for choice in expected.replace(" or ", ", ").split(", ")]
    one_of = "one of " + ", ".join(f'"{choice}"' for choice in choices)
    suggestion = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"{_shown(value)} is not known; {one_of} is expected{suggestion}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def unknown_key(section: str, key: str) -> str:
    """The sentence for an unknown key, with the nearest name in the section, or the section that has the key."""
    if (section, key) == ("auth", "key"):
        return _NO_KEY_TEXT
    models = sections()
    elsewhere = [other for other, model in models.items() if key in model.model_fields]
    if elsewhere:
        return "unknown key" + suggest(f"[{elsewhere[0]}] {key}")
    return "unknown key" + did_you_mean(key, models[section].model_fields)


def unknown_section(section: str) -> str:
    """The sentence for an unknown section, with the nearest name; or the section in which this key belongs."""
    models = sections()
    owners = [other for other, model in models.items() if section in model.model_fields]
    if owners:
        return "this key belongs in a section" + suggest(f"[{owners[0]}] {section}")
    return "unknown section" + did_you_mean(section, models)

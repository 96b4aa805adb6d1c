"""From untyped data to a typed Pod that holds allowed fields only.

Owns: the walk along the table of ``fields`` that checks types, leaves out empty values, and turns quantities into
``Quantity``. It is many times faster than validating with the Kubernetes client's models. The result is a new tree.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from stackd import quantity
from stackd.podspec.fields import MODELS, WHY, FieldKind, FieldType, Use
from stackd.podspec.reasons import Reasons, below, unknown_field

Decoder = Callable[[Any, str, Reasons], Any]
"""Returns the checked value, or ``None`` if there is nothing to keep (or a reason was added)."""


def decode(document: Mapping[str, Any], reasons: Reasons) -> dict[str, Any]:
    """The allowed, well-typed part of ``document``; everything else goes into ``reasons``."""
    typed: dict[str, Any] = _pod_decoder()(document, "", reasons)
    return typed


@functools.cache
def _pod_decoder() -> Decoder:
    return _object("Pod")


def _object(model: str) -> Decoder:
    types = MODELS[model]
    decoders = {name: _field(field) for name, field in types.items() if field.use is not Use.NEVER}

    def decode_object(value: Any, path: str, reasons: Reasons) -> Any:
        if type(value) is not dict:
            reasons.add(path, f"must be an object, not {_described(value)}")
            return None
        typed = {}
        for name, item in value.items():
            if item is None and name in types:
                continue
            decoder = decoders.get(name)
            if decoder is None:
                reasons.add(below(path, name), _refusal(model, name))
                continue
            kept = decoder(item, f"{path}.{name}" if path else name, reasons)
            if kept is not None:
                typed[name] = kept
        return typed

    return decode_object


def _field(field: FieldType) -> Decoder:
    if field.model is not None:
        decoder = _object(field.model)
        return _each(decoder) if field.kind is FieldKind.OBJECTS else decoder
    if field.use is Use.QUANTITY:
        return _quantities if field.kind is FieldKind.STRING_MAP else _quantity
    decoder = _LEAVES[field.kind]
    return decoder if field.use is Use.KEPT else _unless_empty(decoder)


def _refusal(model: str, name: str) -> str:
    types = MODELS[model]
    if name in types:
        return WHY.get(f"{model.removeprefix('Init')}.{name}", "not accepted in a stack's pod")
    return unknown_field(name, types)


def _unless_empty(decoder: Decoder) -> Decoder:
    def decode_unless_empty(value: Any, path: str, reasons: Reasons) -> Any:
        return decoder(value, path, reasons) or None

    return decode_unless_empty


def _each(decoder: Decoder) -> Decoder:
    def decode_each(value: Any, path: str, reasons: Reasons) -> Any:
        if type(value) is not list:
            reasons.add(path, f"must be a list, not {_described(value)}")
            return None
        # A bad item becomes an empty object, so that the other items keep the indexes that the tenant wrote.
        return [decoder(item, f"{path}[{index}]", reasons) or {} for index, item in enumerate(value)] or None

    return decode_each


def _string(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) is not str:
        hint = "" if value is None or isinstance(value, (dict, list)) else "; put it in quotes"
        reasons.add(path, f"must be a string, not {_described(value)}{hint}")
        return None
    if "\0" in value:
        reasons.add(path, "must not contain the character NUL")
        return None
    return value


def _integer(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) is not int:
        reasons.add(path, f"must be an integer, not {_described(value)}")
        return None
    if not -(2**63) <= value < 2**63:
        reasons.add(path, "must fit into 64 bits")
        return None
    return value


def _boolean(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) is not bool:
        reasons.add(path, f"must be true or false, not {_described(value)}")
        return None
    return value


def _integer_or_string(value: Any, path: str, reasons: Reasons) -> Any:
    return _string(value, path, reasons) if type(value) is str else _integer(value, path, reasons)


def _strings(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) is not list:
        reasons.add(path, f"must be a list of strings, not {_described(value)}")
        return None
    return [_string(item, f"{path}[{index}]", reasons) for index, item in enumerate(value)]


def _string_map(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) is not dict:
        reasons.add(path, f"must be a mapping of strings, not {_described(value)}")
        return None
    return {name: _string(item, below(path, name), reasons) for name, item in value.items()}


def _quantity(value: Any, path: str, reasons: Reasons) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        reasons.add(path, f"must be a quantity, not {_described(value)}")
        return None
    try:
        return quantity.parse(value)
    except ValueError as exc:
        reasons.add(path, str(exc))
        return None


def _quantities(value: Any, path: str, reasons: Reasons) -> Any:
    if type(value) is not dict:
        reasons.add(path, f"must be a mapping of quantities, not {_described(value)}")
        return None
    return {name: _quantity(item, below(path, name), reasons) for name, item in value.items()} or None


def _described(value: object) -> str:
    """The kind of a value, without the value: it may be a secret."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


_LEAVES: Mapping[FieldKind, Decoder] = {
    FieldKind.STRING: _string,
    FieldKind.INTEGER: _integer,
    FieldKind.BOOLEAN: _boolean,
    FieldKind.INTEGER_OR_STRING: _integer_or_string,
    FieldKind.STRINGS: _strings,
    FieldKind.STRING_MAP: _string_map,
}

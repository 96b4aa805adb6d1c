"""From untyped data to a typed Pod that holds allowed fields only.

Owns: joining the types of Kubernetes' fields with the allowlist (once, on first use), and the walk that checks types,
leaves out empty values, and turns quantities into ``Quantity``. Walking this table is many times faster than validating
with the Kubernetes client's models. The result is a new tree.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from stackd import quantity
from stackd.podspec.allow import POD, Leaf, Refused
from stackd.podspec.fields import MODELS, FieldKind, FieldType
from stackd.podspec.reasons import Reasons, below, unknown_field

Decoder = Callable[[Any, str, Reasons], Any]
"""Returns the checked value, or ``None`` if there is nothing to keep (or a reason was added)."""


def decode(document: Mapping[str, Any], reasons: Reasons) -> dict[str, Any]:
    """The allowed, well-typed part of ``document``; everything else goes into ``reasons``."""
    typed: dict[str, Any] = _pod_decoder()(document, "", reasons)
    return typed


@functools.cache
def _pod_decoder() -> Decoder:
    return _object("Pod", POD)


def _object(model: str, table: Mapping[str, Any]) -> Decoder:
    types = MODELS[model]
    unheard = table.keys() - types.keys()
    if unheard:
        raise LookupError(f"{model} has no field {', '.join(sorted(unheard))}")
    decoders = {name: _field(types[name], entry) for name, entry in table.items() if not isinstance(entry, Refused)}
    refused = {name: entry.why for name, entry in table.items() if isinstance(entry, Refused)}

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
                reasons.add(below(path, name), refused.get(name) or _refusal(name, types))
                continue
            kept = decoder(item, f"{path}.{name}" if path else name, reasons)
            if kept is not None:
                typed[name] = kept
        return typed

    return decode_object


def _field(field: FieldType, entry: Leaf | Mapping[str, Any]) -> Decoder:
    if not isinstance(entry, Leaf):
        if field.model is None:
            raise LookupError("the allowlist has fields below a field that is no object")
        decoder = _object(field.model, entry)
        return _each(decoder) if field.kind is FieldKind.OBJECTS else decoder
    if entry is Leaf.QUANTITY:
        return _quantities if field.kind is FieldKind.STRING_MAP else _quantity
    decoder = _LEAVES[field.kind]
    return decoder if entry is Leaf.KEPT else _unless_empty(decoder)


def _refusal(name: str, types: Mapping[str, object]) -> str:
    if name in types:
        return "not accepted in a stack's pod"
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

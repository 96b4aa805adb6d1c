"""From the JSON of a request to an object as Kubernetes keeps it: known fields, in order, with canonical quantities.

Knows the field tables of `schema`, not what the fields are good for.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Any

from stackd.embedded.resources import Json, Resource
from stackd.embedded.schema import STRUCTS
from stackd.embedded.status import bad_request
from stackd.quantity import parse

_GO_TYPES = {
    "quantity": "resource.Quantity",
    "bool!": "bool",
    "map": "map[string]string",
    "intstr": "intstr.IntOrString",
    "object": "map[string]interface {}",
    "microtime": "v1.MicroTime",
    "bytes": "map[string][]uint8",
}
_PRESENT_WHEN_EMPTY = frozenset(
    {"resources", "securityContext", "emptyDir", "podSelector", "value", "containers", "items", "spec", "status"}
    | {"holderIdentity"}
)
_QUANTITY = re.compile(r"([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)")
_QUANTITY_RULE = f"the regular expression '^{_QUANTITY.pattern}$'"
_RANGES = {"int32": 2**31, "int64": 2**63}
_MICRO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(.*)")
_MICRO_LAYOUT = "2006-01-02T15:04:05.000000Z07:00"
_BASE64 = re.compile(r"[A-Za-z0-9+/]*")


def decode(resource: Resource, raw: Json, *, strict: bool = False) -> Json:
    """The object without kind and apiVersion. Raises ApiError 400 for a wrong type, and if `strict` unknown fields."""
    body = {key: value for key, value in raw.items() if key not in {"kind", "apiVersion"}}
    if resource.kind not in STRUCTS:
        given = body.get("metadata") or {}
        metadata = _Decoder(resource).value(given, "ObjectMeta", resource.kind, ("metadata",), "metadata")
        return {"metadata": metadata} | {key: value for key, value in body.items() if key != "metadata"}
    decoder = _Decoder(resource)
    decoded = decoder.struct(body, resource.kind, (), "")
    if strict and decoder.unknown:
        listed = ", ".join(f'unknown field "{path}"' for path in decoder.unknown)
        raise bad_request(f"{decoder.refusal}: strict decoding error: {listed}")
    decoded.setdefault("metadata", {})
    return decoded


class _Decoder:
    def __init__(self, resource: Resource) -> None:
        self.refusal = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}'
        self.unknown: list[str] = []

    def struct(self, value: Any, name: str, trail: tuple[str, ...], path: str) -> Json:
        fields = STRUCTS[name]
        known: list[tuple[int, str, Any]] = []
        for key, part in value.items():
            field = fields.get(key)
            here = f"{path}.{key}" if path else key
            if field is None:
                if key not in {"managedFields", "selfLink"}:
                    self.unknown.append(here)
            elif part is not None:
                decoded = self.value(part, field[1], name, (*trail, key), here)
                if (decoded or decoded == 0 or key in _PRESENT_WHEN_EMPTY) and not (
                    decoded is False and field[1] == "bool!"
                ):
                    known.append((field[0], key, decoded))
        known.sort()
        return {key: part for _, key, part in known}

    def value(self, value: Any, kind: str, owner: str, trail: tuple[str, ...], path: str) -> Any:
        if kind == "object" and isinstance(value, dict):
            return value
        if kind.startswith("[]"):
            if not isinstance(value, list):
                raise self.mismatch(value, f"[]{_go(kind[2:])}", owner, trail)
            return [self.value(item, kind[2:], owner, trail, f"{path}[{i}]") for i, item in enumerate(value)]
        if kind in STRUCTS:
            if not isinstance(value, dict):
                raise self.mismatch(value, _go(kind), owner, trail)
            return self.struct(value, kind, trail, path)
        return self.scalar(value, kind, owner, trail)

    def scalar(self, value: Any, kind: str, owner: str, trail: tuple[str, ...]) -> Any:
        if kind == "string" and isinstance(value, str):
            return value
        if kind in {"bool", "bool!"} and isinstance(value, bool):
            return value
        if kind == "microtime" and isinstance(value, str):
            return self.microtime(value)
        if kind in _RANGES and isinstance(value, int) and not isinstance(value, bool):
            if -_RANGES[kind] <= value < _RANGES[kind]:
                return value
        elif kind == "intstr" and isinstance(value, (int, str)) and not isinstance(value, bool):
            return value
        elif kind == "map" and isinstance(value, dict):
            if all(isinstance(part, str) for part in value.values()):
                return dict(sorted(value.items()))
            value = next(part for part in value.values() if not isinstance(part, str))
            raise self.mismatch(value, "string", owner, trail)
        elif kind == "quantities" and isinstance(value, dict):
            return {key: self.quantity(part) for key, part in sorted(value.items())}
        elif kind == "bytes" and isinstance(value, dict):
            return {key: self.bytes(part, owner, trail) for key, part in sorted(value.items())}
        raise self.mismatch(value, _go(kind), owner, trail)

    def quantity(self, value: Any) -> str:
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise bad_request(f"{self.refusal}: json: cannot unmarshal {_kind(value)} into Go value of type string")
        try:
            return str(parse(value).in_milli())
        except ValueError as exc:
            known = _QUANTITY.fullmatch(str(value))
            wrong = "unable to parse quantity's suffix" if known else f"quantities must match {_QUANTITY_RULE}"
            raise bad_request(f"{self.refusal}: {wrong}") from exc

    def microtime(self, text: str) -> str:
        """In UTC. Six fraction digits, no more and no fewer: the layout that Go parses it by has six."""
        found = _MICRO.fullmatch(text)
        fraction, zone = (found[2] or "", found[3]) if found else ("", "")
        try:
            if found and len(fraction) == 7:
                return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        except (ValueError, OverflowError):
            zone = ""
        rest, wanted = (text, "2006")
        if found and len(fraction) < 7:
            rest, wanted = fraction + zone, ".000000"
        elif found and zone:
            rest, wanted = fraction[7:] + zone, "Z07:00"
        problem = f'parsing time "{text}" as "{_MICRO_LAYOUT}": cannot parse "{rest}" as "{wanted}"'
        raise bad_request(f"{self.refusal}: {problem}")

    def bytes(self, value: Any, owner: str, trail: tuple[str, ...]) -> str:
        if not isinstance(value, str):
            raise self.mismatch(value, "[]uint8", owner, trail)
        try:
            return base64.b64encode(base64.b64decode(value, validate=True)).decode()
        except binascii.Error as exc:
            good = _BASE64.match(value)
            place = good.end() if good else 0
            raise bad_request(f"{self.refusal}: illegal base64 data at input byte {place}") from exc

    def mismatch(self, value: Any, wanted: str, owner: str, trail: tuple[str, ...]) -> Exception:
        found = _kind(value)
        if found == "number" and wanted in _RANGES:
            found = f"number {value}"
        where = f"{owner}.{'.'.join(trail)}"
        return bad_request(
            f"{self.refusal}: json: cannot unmarshal {found} into Go struct field {where} of type {wanted}"
        )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _go(kind: str) -> str:
    return f"v1.{kind}" if kind in STRUCTS else _GO_TYPES.get(kind, kind)

"""A Pod's fields and their types, taken from the Kubernetes client's own models.

Owns: the translation of the models into a small table (which is walked many times faster than the models validate), and
the nearest-name hint for typos. Knows nothing of what is allowed.

The models are imported on first use, at the cost of a third of a second; ``prepare`` spends it at the start instead.
"""

from __future__ import annotations

import difflib
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

if typing.TYPE_CHECKING:
    from pydantic import BaseModel

_LONGEST_GUESSED = 64


class Kind(Enum):
    """The JSON shape of a field."""

    STRING = "a string"
    INTEGER = "an integer"
    BOOLEAN = "true or false"
    INTEGER_OR_STRING = "an integer or a string"
    STRINGS = "a list of strings"
    STRING_MAP = "a mapping of strings"
    OBJECT = "an object"
    OBJECTS = "a list of objects"
    OTHER = "something else"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldType:
    """A field's shape; ``model`` for objects and lists of objects."""

    kind: Kind
    model: type[BaseModel] | None = None


def pod_model() -> type[BaseModel]:
    """The typed model of a Pod."""
    from kubernetes.aio.client.models.v1_pod import V1Pod

    return V1Pod


@functools.cache
def fields_of(model: type[BaseModel]) -> Mapping[str, FieldType]:
    """The model's fields by their JSON names."""
    hints = typing.get_type_hints(model)
    return {info.serialization_alias or name: _field_type(hints[name]) for name, info in model.model_fields.items()}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was most likely meant to be, letter case aside."""
    if len(name) > _LONGEST_GUESSED:
        return None
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower().replace("_", "").replace("-", ""), by_lower, n=1, cutoff=0.7)
    return by_lower[close[0]] if close else None


def _field_type(annotation: object) -> FieldType:
    inner = [part for part in _alternatives(annotation) if part is not type(None)]
    if len(inner) > 1:
        return FieldType(kind=Kind.INTEGER_OR_STRING if set(inner) == {int, str} else Kind.OTHER)
    (only,) = inner
    if only in _PLAIN:
        return FieldType(kind=_PLAIN[only])
    origin, arguments = typing.get_origin(only), typing.get_args(only)
    if origin is list:
        item = _field_type(arguments[0])
        return FieldType(kind=_LISTS.get(item.kind, Kind.OTHER), model=item.model)
    if origin is dict:
        return FieldType(kind=Kind.STRING_MAP if arguments[1] is str else Kind.OTHER)
    if isinstance(only, type) and hasattr(only, "model_fields"):
        return FieldType(kind=Kind.OBJECT, model=only)
    return FieldType(kind=Kind.OTHER)


def _alternatives(annotation: object) -> tuple[typing.Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


_PLAIN: dict[object, Kind] = {str: Kind.STRING, int: Kind.INTEGER, bool: Kind.BOOLEAN}
_LISTS = {Kind.STRING: Kind.STRINGS, Kind.OBJECT: Kind.OBJECTS}

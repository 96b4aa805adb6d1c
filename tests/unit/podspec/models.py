"""The Kubernetes client's models of a Pod: what tests compare with, and draw random pods from."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass

from kubernetes.aio.client.models.v1_pod import V1Pod
from pydantic import BaseModel

from stackd.podspec.fields import FieldKind

POD: type[BaseModel] = V1Pod


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelField:
    """A field's shape; ``model`` for objects and lists of objects."""

    kind: FieldKind
    model: type[BaseModel] | None = None


@functools.cache
def fields_of(model: type[BaseModel]) -> Mapping[str, ModelField]:
    """The model's fields by their JSON names."""
    hints = typing.get_type_hints(model)
    return {info.serialization_alias or name: _field_type(hints[name]) for name, info in model.model_fields.items()}


def _field_type(annotation: object) -> ModelField:
    inner = [part for part in _alternatives(annotation) if part is not type(None)]
    if len(inner) > 1:
        return ModelField(kind=FieldKind.INTEGER_OR_STRING if set(inner) == {int, str} else FieldKind.OTHER)
    (only,) = inner
    if only in _PLAIN:
        return ModelField(kind=_PLAIN[only])
    origin, arguments = typing.get_origin(only), typing.get_args(only)
    if origin is list:
        item = _field_type(arguments[0])
        return ModelField(kind=_LISTS.get(item.kind, FieldKind.OTHER), model=item.model)
    if origin is dict:
        return ModelField(kind=FieldKind.STRING_MAP if arguments[1] is str else FieldKind.OTHER)
    if isinstance(only, type) and hasattr(only, "model_fields"):
        return ModelField(kind=FieldKind.OBJECT, model=only)
    return ModelField(kind=FieldKind.OTHER)


def _alternatives(annotation: object) -> tuple[typing.Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


_PLAIN: dict[object, FieldKind] = {str: FieldKind.STRING, int: FieldKind.INTEGER, bool: FieldKind.BOOLEAN}
_LISTS = {FieldKind.STRING: FieldKind.STRINGS, FieldKind.OBJECT: FieldKind.OBJECTS}

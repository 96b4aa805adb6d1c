"""``struct``: the decorator of small classes that only hold values, and of which many are made for each request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def struct(cls: type[T]) -> type[T]:
    """A dataclass with slots and keyword-only fields that is never changed: mypy refuses that, the interpreter does not.

    The ``__init__`` of a dataclass that the interpreter keeps frozen takes three times as long (it calls a function for
    each field), and a create makes about a hundred of these objects.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)

"""A struct holds its values and nothing else; that nobody changes one is mypy's to check."""

from __future__ import annotations

from dataclasses import field, replace

import pytest

from stackd.structs import struct


@struct
class Point:
    x: int
    y: int = 0
    names: tuple[str, ...] = field(default_factory=tuple)


def test_structs_with_equal_values_are_equal_and_stand_for_each_other_in_a_set() -> None:
    assert Point(x=1) == Point(x=1, y=0, names=())
    assert len({Point(x=1), Point(x=1), Point(x=2)}) == 2


def test_a_changed_copy_leaves_the_struct_as_it_was() -> None:
    point = Point(x=1)
    assert replace(point, y=2) == Point(x=1, y=2)
    assert point == Point(x=1)


def test_a_struct_has_no_other_fields_and_takes_them_by_name() -> None:
    with pytest.raises(TypeError):
        Point(1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        Point(x=1).z  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(Point(x=1), "__dict__")

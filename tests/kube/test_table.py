from __future__ import annotations

from dataclasses import dataclass

from stackd.kube.mirror import ObjectTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    name: str
    uid: str = "1"
    value: int = 0


A1, A2, B1 = Thing(name="a", value=1), Thing(name="a", value=2), Thing(name="b", value=1)
NEW_A = Thing(name="a", uid="2", value=1)


def test_a_table_tells_what_each_update_changed() -> None:
    table: ObjectTable[Thing] = ObjectTable()
    assert table.put(A1) == [(None, A1)]
    assert table.put(A1) == []
    assert table.put(A2) == [(A1, A2)]
    assert table.drop(A1) == [(A2, None)]
    assert table.drop(A1) == []


def test_an_object_that_took_over_a_name_is_one_that_went_and_one_that_came() -> None:
    table: ObjectTable[Thing] = ObjectTable()
    table.put(A1)
    assert table.put(NEW_A) == [(A1, None), (None, NEW_A)]
    assert table.replace([A2]) == [(NEW_A, None), (None, A2)]


def test_a_late_farewell_to_the_old_object_does_not_remove_the_new_one() -> None:
    table: ObjectTable[Thing] = ObjectTable()
    table.put(NEW_A)
    assert table.drop(A1) == []
    assert table.current == {"a": NEW_A}


def test_a_complete_list_is_taken_over_with_its_differences() -> None:
    table: ObjectTable[Thing] = ObjectTable()
    view = table.current
    table.replace([A1, B1])
    assert table.replace([A2]) == [(B1, None), (A1, A2)]
    assert view == {"a": A2}

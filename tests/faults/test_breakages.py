"""The table of deliberate breakages fits the code: a breakage whose text has changed would break and prove nothing."""

from __future__ import annotations

import pytest

from tests.faults.breakages import BREAKAGES, Breakage
from tests.faults.processes import ROOT


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_what_a_breakage_replaces_is_in_the_code_once(breakage: Breakage) -> None:
    breakage.check(ROOT)

"""Everything that the page for developers of stackd names exists."""

from __future__ import annotations

import re

from stackd.lifecycle.crashpoints import POINTS
from tests.docs.markdown import ROOT

PAGE = (ROOT / "docs" / "inside.md").read_text()


def test_each_crash_point_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:create|delete|batch|stop|restart|release)\.\w+)`", PAGE))
    assert {"create.reserved", "delete.confirmed"} <= named <= set(POINTS)


def test_each_module_that_is_named_exists() -> None:
    named = re.findall(r"`((?:web|lifecycle|store|kube|podspec|jobs|config)/[\w/]*(?:\.py)?)(?::(\w+))?`", PAGE)
    assert len(named) > 15
    for path, function in named:
        file = ROOT / "stackd" / path
        assert file.exists(), path
        assert not function or f"def {function}(" in file.read_text(), (path, function)

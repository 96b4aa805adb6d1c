"""Generated values are found in a text however it quotes them, and nothing else is changed."""

from __future__ import annotations

import json

import pytest

from stackd.errors import ClusterError, ClusterUnavailable, InvalidPodSpec, Reason
from stackd.lifecycle.hiding import HIDDEN, hide, hide_in

FLAG = "flag{0123456789abcdef}"
ODD = 'a"$b$c-0123456789'
VALUES = {"FLAG": FLAG, "ODD": ODD, "SHORT": "ab"}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("", ""),
        ("about nothing", "about nothing"),
        (f"FLAG={FLAG} and {FLAG}", f"FLAG={HIDDEN} and {HIDDEN}"),
        (json.dumps({"env": ODD}), json.dumps({"env": HIDDEN})),
        (json.dumps({"env": ODD.replace("$", "$$")}), json.dumps({"env": HIDDEN})),
        (f"cut off: {FLAG[:-1]}", f"cut off: {HIDDEN}"),
        (f"cut off: {FLAG[:12]}…", f"cut off: {HIDDEN}…"),
        ("cut off: flag{", "cut off: flag{"),
    ],
)
def test_values_are_hidden(text: str, hidden: str) -> None:
    assert hide(text, VALUES) == hidden


def test_of_an_error_all_parts_and_all_reasons_are_cleared() -> None:
    error = InvalidPodSpec([Reason(path="spec.containers[0].env", text=f"{FLAG} is not allowed")])
    error.__cause__ = ClusterUnavailable("it cannot be created", detail=f"it has {FLAG}")
    error.__cause__.__cause__ = ClusterError(FLAG)
    hide_in(error, VALUES)
    assert str(error) == f"invalid pod spec: spec.containers[0].env: {HIDDEN} is not allowed"
    assert error.reasons == (Reason(path="spec.containers[0].env", text=f"{HIDDEN} is not allowed"),)
    assert str(error.__cause__) == f"it cannot be created: it has {HIDDEN}"
    assert str(error.__cause__.__cause__) == HIDDEN

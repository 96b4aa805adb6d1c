"""Generated values are found in a text however it quotes them, and nothing else is changed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

import pytest

from stackd.errors import ClusterError, ClusterUnavailable, InvalidPodSpec, Reason
from stackd.lifecycle.hiding import HIDDEN, hide, hide_in
from tests.store.building import new_stack
from tests.unit.lifecycle.situations import stack

CORE = "0123456789abcdef"
FLAG = f"flag{{{CORE}}}"
UUID = "550e8400-e29b-41d4-a716-446655440000"
ODD = 'a"$b$c-0123456789&x'
VALUES = {"FLAG": FLAG, "ODD": ODD, "SHORT": "abc", "BASE32": "KEY-AB2CDEFGHIJ", "UUID": UUID}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("", ""), ("about nothing", "about nothing"), (f"FLAG={FLAG} and {FLAG}", f"FLAG={HIDDEN} and {HIDDEN}"),
        (json.dumps({"env": ODD}), json.dumps({"env": HIDDEN})),
        (json.dumps({"env": ODD.replace("$", "$$")}), json.dumps({"env": HIDDEN})),
        (f"cut off: {FLAG[:-1]}", f"cut off: {HIDDEN}"), (f"cut off: {FLAG[:12]}…", f"cut off: {HIDDEN}…"),
        ("cut off: flag{", "cut off: flag{"),
    ],
)  # fmt: skip
def test_values_are_hidden(text: str, hidden: str) -> None:
    assert hide(text, VALUES) == hidden


@pytest.mark.parametrize(
    "quoted",
    [
        FLAG.upper(), quote(FLAG), quote(ODD).lower(), "".join(f"\\x{byte:02x}" for byte in FLAG.encode()),
        FLAG.encode().hex(), FLAG.encode().hex().upper(), CORE, CORE.encode().hex(), "AB2CDEFGHIJ", UUID.upper(),
        json.dumps(json.dumps(ODD))[3:-3], ODD.replace("&", "\\u0026"), FLAG[:9] + "\n  " + FLAG[9:],
        FLAG[:9] + "\\\n" + FLAG[9:], FLAG[:9] + "\\n" + FLAG[9:], FLAG[:9] + "\x1b[31m" + FLAG[9:], "abc",
    ],
)  # fmt: skip
def test_a_value_is_hidden_in_the_forms_in_which_programs_print_it(quoted: str) -> None:
    assert hide(f"see {quoted}, please", VALUES) == f"see {HIDDEN}, please"


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes])
def test_a_value_is_hidden_within_base64(encode: Callable[[bytes], bytes], before: int) -> None:
    hidden = hide(encode(b"." * before + f"id:{FLAG}".encode() * 3).decode(), VALUES)
    rest = "".join(hidden.replace(HIDDEN, "").split()).rstrip("=")
    assert hidden.count(HIDDEN) == 3
    assert len(rest) <= (before + 3 * len("id:")) * 4 / 3 + 3 * 3  # of a group of three bytes, a part may be known


def test_words_and_dates_of_a_pattern_and_short_values_within_words_stay() -> None:
    values = {"A": "CHALLENGE-20260101-0123456789abcdef", "B": "abc", "C": "x", "D": "\\n"}
    text = "challenge x of 20260101: abcde xabc \\n"
    assert hide(text, values) == text


def test_of_an_error_all_parts_and_all_reasons_are_cleared() -> None:
    error = InvalidPodSpec([Reason(path="spec.containers[0].env", text=f"{FLAG} is not allowed")])
    error.__cause__ = ClusterUnavailable("it cannot be created", detail=f"it has {FLAG}")
    error.__cause__.__cause__ = ClusterError(FLAG)
    hide_in(error, VALUES)
    assert str(error) == f"invalid pod spec: spec.containers[0].env: {HIDDEN} is not allowed"
    assert error.reasons == (Reason(path="spec.containers[0].env", text=f"{HIDDEN} is not allowed"),)
    assert str(error.__cause__) == f"it cannot be created: it has {HIDDEN}"
    assert str(error.__cause__.__cause__) == HIDDEN


# ---- What records show of themselves in a log or a traceback


SECRETS = {"FLAG": "flag{0123456789abcdef}"}


def test_a_stack_shows_nothing_of_its_values() -> None:
    """The values are secrets of the stack's creator."""
    new = replace(new_stack(0), values=SECRETS)
    for shown in (repr(new), str(new), repr(stack(values=SECRETS)), str(stack(values=SECRETS))):
        assert "stack_id=" in shown
        assert "flag" not in shown.lower()

"""Values that are generated for each stack."""

from __future__ import annotations

import re

import pytest

from stackd.templates.template import MOST_DIGITS, generate_values, mistakes_in_values


@pytest.mark.parametrize(
    ("pattern", "form"),
    [
        ("<hex:1>", r"[0-9a-f]"),
        (f"<hex:{MOST_DIGITS}>", r"[0-9a-f]{256}"),
        ("<base32:20>", r"[A-Z2-7]{20}"),
        ("<uuid>", r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
        ("flag{<hex:4>_<base32:4>}", r"flag\{[0-9a-f]{4}_[A-Z2-7]{4}\}"),
        ("a < b <hex:2> c > d", r"a < b [0-9a-f]{2} c > d"),
    ],
)
def test_a_pattern_makes_a_value_of_its_form(pattern: str, form: str) -> None:
    assert not mistakes_in_values({"A": pattern}, ())
    assert re.fullmatch(form, generate_values({"A": pattern})["A"])


def test_no_two_values_are_alike() -> None:
    made = [
        value
        for _ in range(100)
        for value in generate_values({"A": "<hex:32>", "B": "<base32:26>", "C": "<uuid>"}).values()
    ]
    assert len(set(made)) == 300
    assert generate_values({"A": "<hex:32><hex:32>"})["A"][:32] != generate_values({"A": "<hex:32><hex:32>"})["A"][32:]


def test_every_digit_occurs() -> None:
    made = generate_values({"A": "<hex:256>" * 8, "B": "<base32:256>" * 8})
    assert set(made["A"]) == set("0123456789abcdef")
    assert set(made["B"]) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("<hex>", "<hex> is not known; there are <hex:N>, <base32:N>, <uuid>"),
        ("<hex:0>", "<hex:0> is not known"),
        ("<hex:-1>", "<hex:-1> is not known"),
        ("<hex:٣>", "is not known"),
        ("<HEX:3>", "<HEX:3> is not known"),
        ("<uuid:4>", "<uuid:4> is not known"),
        ("<uuid><team>", "<team> is not known"),
        ("<hex:257>", "<hex:257> is too long; N is 256 at most"),
        ("flag", "it has no placeholder"),
        ("", "it has no placeholder"),
        ("<hex:3>" + "x" * 1024, "has 1031 characters; 1024 at most"),
        (7, 'must be a string such as "flag{<hex:32>}"'),
    ],
)
def test_anything_else_is_a_mistake_that_names_what_there_is(pattern: object, sentence: str) -> None:
    ((name, text),) = mistakes_in_values({"FLAG": pattern}, ())
    assert (name, sentence in text) == ("FLAG", True), text

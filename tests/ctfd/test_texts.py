"""What players read, in each language. None of this needs CTFd."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from stackd.codes import ErrorCode
from stackd.contract import ProblemKey
from tests.ctfd.conftest import PLUGIN

LOCALE = PLUGIN / "assets" / "locale"
ENGLISH: dict[str, str] = json.loads((LOCALE / "en.json").read_text())
OF_CTFD = {
    *("login", "team", "verify_email", "not_yet", "not_started", "event_over", "paused", "session", "crashed"),
    *(
        "no_challenge",
        "no_instances",
        "no_attempts",
        "no_more_extensions",
        "too_often",
        "limit",
        "cost",
        "shared",
        "gone",
    ),
    *("broken", "closed", "silent"),
}
OF_THE_PAGES = {"unreachable", "other"}
SHOWN_OTHERWISE = {ErrorCode.TEMPLATE_CLOSED, "pull"}
"""With the time at which it opens, and as what is being done."""


@pytest.mark.parametrize("path", sorted(LOCALE.glob("*.json")), ids=lambda path: path.stem)
def test_every_language_has_each_text_with_the_same_places_for_values(path: Path) -> None:
    texts = json.loads(path.read_text())
    assert list(texts) == list(ENGLISH)
    places = {key: set(re.findall(r"\{\w+\}", text)) for key, text in texts.items()}
    assert places == {key: set(re.findall(r"\{\w+\}", text)) for key, text in ENGLISH.items()}
    assert all(texts.values())


def test_there_is_a_translation_for_each_error_and_problem_of_the_api_and_for_nothing_else() -> None:
    translated = [name for key in ENGLISH if key.startswith("why.") for name in key.removeprefix("why.").split()]
    of_the_api = {*ErrorCode, *get_args(ProblemKey)} - SHOWN_OTHERWISE
    assert sorted(translated) == sorted(of_the_api | OF_CTFD | OF_THE_PAGES)


def test_a_text_only_ever_becomes_text() -> None:
    for path in (PLUGIN / "assets").glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", path.read_text()), path

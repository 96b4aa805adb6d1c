"""What players read, in each language. None of this needs CTFd."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from stackd.codes import ENDED, LATER, MOMENT, NEW_LINK, ROOM, ErrorCode
from stackd.contract import ProblemKey
from tests.ctfd.conftest import PLUGIN

LOCALE = PLUGIN / "assets" / "locale"
PLAY = Path(__file__).parents[2] / "stackd" / "web" / "static" / "play"
ENGLISH: dict[str, str] = json.loads((LOCALE / "en.json").read_text())


@pytest.mark.parametrize("path", sorted(LOCALE.glob("*.json")), ids=lambda path: path.stem)
def test_every_language_has_each_text_with_the_same_places_for_values(path: Path) -> None:
    texts = json.loads(path.read_text())
    assert list(texts) == list(ENGLISH)
    places = {key: set(re.findall(r"\{\w+\}", text)) for key, text in texts.items()}
    assert places == {key: set(re.findall(r"\{\w+\}", text)) for key, text in ENGLISH.items()}
    assert all(texts.values())


def test_each_reason_that_players_can_meet_has_a_text_in_their_language() -> None:
    known = {
        f"{kind}.{name}" for kind, names in (key.split(".") for key in ENGLISH if "." in key) for name in names.split()
    }
    sources = {path.name: path.read_text() for path in PLUGIN.glob("*.py")}
    reasons = set(re.findall(r'^    "(\w+)": "', sources["answers.py"].partition("LATER")[0], re.MULTILINE))
    for name in ("access.py", "instances.py", "routes.py"):
        reasons |= set(re.findall(r'Refused\(.*?, "(\w+)"', sources[name]))
    assert len(reasons) > 20
    reasons |= {code.value for code in ErrorCode if code.players in (NEW_LINK, ENDED, ROOM, LATER, MOMENT)} - {
        "not_ready"
    }
    reasons |= set(get_args(ProblemKey)) - {"pull"}
    assert [each for each in sorted(reasons) if not {f"why.{each}", f"ended.{each}"} & known] == []


def test_the_page_of_links_shows_the_same_box_in_the_same_languages() -> None:
    shared = [*(PLUGIN / "assets" / name for name in ("box.js", "box.css", "feed.js")), *LOCALE.iterdir()]
    assert {path.resolve() for path in PLAY.iterdir() if path.is_symlink()} == {path.resolve() for path in shared}


def test_a_text_only_ever_becomes_text() -> None:
    for path in [*(PLUGIN / "assets").glob("*.js"), *PLAY.glob("*.js")]:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", path.read_text()), path

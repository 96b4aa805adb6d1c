"""What players read, in each language. None of this needs CTFd."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.ctfd.conftest import PLUGIN

LOCALE = PLUGIN / "assets" / "locale"
ENGLISH: dict[str, str] = json.loads((LOCALE / "en.json").read_text())


@pytest.mark.parametrize("path", sorted(LOCALE.glob("*.json")), ids=lambda path: path.stem)
def test_every_language_has_each_text_with_the_same_places_for_values(path: Path) -> None:
    texts = json.loads(path.read_text())
    assert list(texts) == list(ENGLISH)
    places = {key: set(re.findall(r"\{\w+\}", text)) for key, text in texts.items()}
    assert places == {key: set(re.findall(r"\{\w+\}", text)) for key, text in ENGLISH.items()}
    assert all(texts.values())


def test_a_text_only_ever_becomes_text() -> None:
    for path in (PLUGIN / "assets").glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", path.read_text()), path

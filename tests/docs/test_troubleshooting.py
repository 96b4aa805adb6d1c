"""Each symptom on the page is printed by stackd, and the messages that stackd prints most are on the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.words import is_printed

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text()
SYMPTOMS = re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("symptom", [one for one in SYMPTOMS if one != "node_public_ip: null"])
def test_a_symptom_reads_as_it_is_printed(symptom: str) -> None:
    assert is_printed(symptom)


def test_words_that_nobody_prints_are_noticed() -> None:
    assert not is_printed("no node has space for the stack")
    assert is_printed("all … node ports in … are in use")


def test_each_symptom_has_a_remedy() -> None:
    for heading, text in re.findall(r"^### (.*)\n\n((?:(?!#).*\n)*)", PAGE, re.MULTILINE):
        assert len(text.split()) > 8, heading

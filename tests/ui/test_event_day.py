"""What the person on duty asks during an event is answered within a few interactions, on a screen and on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, ViewportSize, expect

from tests.ui.conftest import DESKTOP, PHONE, SECONDS
from tests.ui.event_day import QUESTIONS, answer, event, on_duty

pytestmark = pytest.mark.ui

MOST = 6
"""Interactions: two of them are the name of a helper, or what is looked for, and Enter."""


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_the_questions_of_an_event_have_answers(browser: Browser, tmp_path: Path, viewport: ViewportSize) -> None:
    expect.set_options(timeout=SECONDS)
    async with event(tmp_path, teams=4, nodes=4) as happening, on_duty(browser, happening, viewport) as duty:
        for question in QUESTIONS:
            count, _ = await answer(duty, question)
            assert count <= MOST, question.__name__

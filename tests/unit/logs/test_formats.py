"""Log lines as text and as JSON: no text of a tenant can forge one."""

from __future__ import annotations

import json
import logging
import re

import pytest

from stackd.config.sections import LogSection
from stackd.logs import setup
from stackd.logs.formats import INDENT, JsonFormatter, TextFormatter

FORGED = "2026-01-01T00:00:00.000Z ERROR   forged"
HOSTILE = [
    f"gone: Error\n{FORGED}",
    f"gone: Error\r{FORGED}",
    f"gone\u2028{FORGED}",
    f"gone\x85{FORGED}",
    "gone\x1b[2K\x1b[1A\x1b]0;title\x07",
    "gone\x9b2K",
    "gone\u202edenrut",
    "half a character: \udc80",
]
BEGINNING = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ ")


def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
    trace = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("stackd.test", logging.WARNING, "file.py", 1, "stack-1: %s", (message,), trace)


def raised(message: str) -> ValueError:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def quiet(text: str) -> bool:
    """Whether the text has no control characters for a terminal except newlines."""
    return all(c == "\n" or c.isprintable() for c in text)


@pytest.mark.parametrize("message", HOSTILE)
def test_a_text_record_is_one_line_whatever_it_says(message: str) -> None:
    text = TextFormatter().format(record(message))
    assert quiet(text)
    assert len(text.splitlines()) == 1
    assert BEGINNING.match(text)
    assert "stack-1: " in text
    text.encode()


@pytest.mark.parametrize("message", HOSTILE)
def test_no_line_of_a_trace_can_be_taken_for_a_record(message: str) -> None:
    text = TextFormatter().format(record("failed", raised(message)))
    first, *trace = text.splitlines()
    assert BEGINNING.match(first)
    assert all(line.startswith(INDENT) for line in trace)
    assert any("Traceback" in line for line in trace)
    assert any("ValueError: " in line for line in trace)
    assert quiet(text)


@pytest.mark.parametrize("message", HOSTILE)
def test_a_json_record_is_one_line_and_says_exactly_what_was_said(message: str) -> None:
    text = JsonFormatter().format(record(message, raised(message)))
    assert quiet(text)
    assert len(text.splitlines()) == 1
    said = json.loads(text)
    assert said["message"] == f"stack-1: {message}"
    assert said["exception"].endswith(f"ValueError: {message}")


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_is_set_up_is_safe_for_every_logger(capsys: pytest.CaptureFixture[str], form: str) -> None:
    setup(LogSection.model_validate({"format": form}))
    for name in ("stackd.lifecycle.observe", "asyncio", "py.warnings"):
        logging.getLogger(name).error("said: %s", HOSTILE[0], extra={"stack_id": HOSTILE[4]})
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert len(lines) == 3
    assert not any(line.startswith(FORGED) for line in lines)
    assert quiet(said)

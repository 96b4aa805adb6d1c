"""Log lines as text and as JSON: no text of a tenant can forge one."""

from __future__ import annotations

import json
import logging
import re

import pytest

from stackd.config.sections import LogSection
from stackd.logs import IN_FULL, WITHIN_SECONDS, Repeats, setup, stack_log
from stackd.logs.formats import INDENT, JsonFormatter, TextFormatter

FORGED = "2026-01-01T00:00:00.000Z ERROR   forged"
HOSTILE = [
    f"gone: Error\n{FORGED}", f"gone: Error\r{FORGED}", f"gone\u2028{FORGED}", f"gone\x85{FORGED}",
    "gone\x1b[2K\x1b[1A\x1b]0;title\x07", "gone\x9b2K", "gone\u202edenrut", "half a character: \udc80",
]  # fmt: skip
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
def test_no_line_of_a_text_record_or_its_trace_can_be_taken_for_a_record(message: str) -> None:
    text = TextFormatter().format(record(message, raised(message)))
    first, *trace = text.splitlines()
    assert BEGINNING.match(first)
    assert "stack-1: " in first
    assert all(line.startswith(INDENT) for line in trace)
    assert any("Traceback" in line for line in trace)
    assert any("ValueError: " in line for line in trace)
    assert quiet(text)
    text.encode()


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


# ---- Repeated messages are counted instead of logged, separately for each stack


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def repeated(
    message: str = "the cluster is away: %s", level: int = logging.WARNING, **fields: object
) -> logging.LogRecord:
    made = {"name": "x", "lineno": 1, "msg": message, "args": ("why",), "levelno": level, "levelname": "WARNING"}
    return logging.makeLogRecord({**made, **fields})


def test_the_same_is_said_a_few_times_and_then_counted() -> None:
    time = Time()
    repeats = Repeats(time)
    assert [repeats.filter(repeated()) for _ in range(IN_FULL + 57)] == [True] * IN_FULL + [False] * 57
    assert repeats.over() == []
    time.now = WITHIN_SECONDS
    assert [made.getMessage() for made in repeats.over()] == ["the cluster is away: why … repeated 57 times"]
    assert repeats.filter(repeated())
    time.now *= 2
    assert repeats.over() == [], "what was not held back is not counted"


def test_each_stack_has_a_story_of_its_own() -> None:
    repeats = Repeats(Time())
    assert all(repeats.filter(repeated(stack_id=f"stack-{n}")) for n in range(10 * IN_FULL))


def test_what_is_no_warning_passes_unless_it_is_marked_as_the_same() -> None:
    repeats = Repeats(Time())
    assert all(repeats.filter(repeated(level=logging.INFO)) for _ in range(10 * IN_FULL))
    marked = [repeats.filter(repeated(level=logging.INFO, same=("GET", 404))) for _ in range(10 * IN_FULL)]
    assert sum(marked) == IN_FULL


def test_what_is_said_about_a_stack_has_its_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        stack_log(logging.getLogger("x"), "stack-1", same="pull").info("%d %% of it", 7)
    (made,) = caplog.records
    assert (made.getMessage(), made.name, made.funcName) == (
        "stack-1: 7 % of it",
        "x",
        "test_what_is_said_about_a_stack_has_its_id",
    )
    assert (made.__dict__["stack_id"], made.__dict__["same"]) == ("stack-1", "pull")

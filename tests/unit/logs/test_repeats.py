"""Repeated messages are counted instead of logged, separately for each stack."""

from __future__ import annotations

import logging

import pytest

from stackd.logs import IN_FULL, WITHIN_SECONDS, Repeats, stack_log


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(
    message: str = "the cluster is away: %s", level: int = logging.WARNING, **fields: object
) -> logging.LogRecord:
    made = {"name": "x", "lineno": 1, "msg": message, "args": ("why",), "levelno": level, "levelname": "WARNING"}
    return logging.makeLogRecord({**made, **fields})


def test_the_same_is_said_a_few_times_and_then_counted() -> None:
    time = Time()
    repeats = Repeats(time)
    assert [repeats.filter(record()) for _ in range(IN_FULL + 57)] == [True] * IN_FULL + [False] * 57
    assert repeats.over() == []
    time.now = WITHIN_SECONDS
    assert [made.getMessage() for made in repeats.over()] == ["the cluster is away: why … repeated 57 times"]
    assert repeats.filter(record())


def test_what_was_not_held_back_is_not_counted_aloud() -> None:
    time = Time()
    repeats = Repeats(time)
    repeats.filter(record())
    time.now = WITHIN_SECONDS
    assert repeats.over() == []


def test_each_stack_has_a_story_of_its_own() -> None:
    repeats = Repeats(Time())
    assert all(repeats.filter(record(stack_id=f"stack-{n}")) for n in range(10 * IN_FULL))


def test_what_is_no_warning_passes_unless_it_is_marked_as_the_same() -> None:
    repeats = Repeats(Time())
    assert all(repeats.filter(record(level=logging.INFO)) for _ in range(10 * IN_FULL))
    marked = [repeats.filter(record(level=logging.INFO, same=("GET", 404))) for _ in range(10 * IN_FULL)]
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

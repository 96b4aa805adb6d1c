"""Log lines as text and as JSON: no text of a tenant can forge one."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackd.config.sections import LogSection
from stackd.logs import IN_FULL, REQUEST_ID, WITHIN_SECONDS, Repeats, collect_for, setup, stack_log
from stackd.logs.formats import INDENT, JournalHandler, JsonFormatter, TextFormatter, is_journal

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


# ---- the journal's native protocol, received by a socket in the place of journald


class Journal:
    """Receives records and parses their fields."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "journal")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(30)

    def received(self) -> dict[str, str]:
        return _fields(self._socket.recv(1 << 20))

    def close(self) -> None:
        self._socket.close()


def _fields(payload: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    while payload:
        line, _, payload = payload.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(payload[:8], "little")
            value, payload = payload[8 : 8 + size], payload[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path)
    yield made
    made.close()


@pytest.fixture
def log(journal: Journal) -> Iterator[logging.Logger]:
    handler = JournalHandler(journal.address)
    collect_for(handler)
    logger = logging.getLogger("test.journal")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)
    handler.close()


def test_a_record_has_message_priority_place_and_fields(journal: Journal, log: logging.Logger) -> None:
    token = REQUEST_ID.set("abc-1")
    log.warning("%s: gone", "stack-1", extra={"stack_id": "stack-1", "job_id": "", "status": 404})
    REQUEST_ID.reset(token)
    fields = journal.received()
    assert fields["MESSAGE"] == "stack-1: gone"
    assert (fields["PRIORITY"], fields["STACK_ID"], fields["STATUS"], fields["REQUEST_ID"]) == (
        "4",
        "stack-1",
        "404",
        "abc-1",
    )
    assert fields["CODE_FUNC"] == "test_a_record_has_message_priority_place_and_fields"
    assert "JOB_ID" not in fields


def test_lines_cannot_be_forged_by_what_is_logged(journal: Journal, log: logging.Logger) -> None:
    try:
        raise ValueError("the cause")
    except ValueError as error:
        log.info("from a client: %s", "x\nPRIORITY=0\nSTACK_ID=forged", exc_info=error)
    fields = journal.received()
    assert fields["MESSAGE"].startswith("from a client: x\nPRIORITY=0\nSTACK_ID=forged\n")
    assert "ValueError: the cause" in fields["MESSAGE"]
    assert fields["PRIORITY"] == "6"
    assert "STACK_ID" not in fields


def test_a_record_too_large_for_a_datagram_goes_to_standard_error(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    log.error("%s", "x" * (16 << 20))
    assert len(capsys.readouterr().err) == len("<3>\n") + (16 << 20)


def test_a_journal_that_is_away_is_replaced_by_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = JournalHandler(str(tmp_path / "nobody"))
    handler.handle(logging.LogRecord("x", logging.ERROR, "file.py", 1, "still said", (), None))
    handler.close()
    assert capsys.readouterr().err == "<3>still said\n"


def test_no_text_begins_a_line_with_a_priority_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = JournalHandler(str(tmp_path / "nobody"))
    try:
        raise ValueError("the cause\n<0>forged")
    except ValueError:
        trace = sys.exc_info()
    handler.handle(
        logging.LogRecord("x", logging.WARNING, "file.py", 1, "gone: %s", ("a\n<0>forged\x1b[2J\r<1>",), trace)
    )
    handler.close()
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == r"<4>gone: a\n<0>forged\x1b[2J\r<1>"
    assert rest
    assert all(line.startswith("<4>    ") for line in rest)
    assert rest[-1] == "<4>    <0>forged"


def test_the_journal_is_recognised_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        stat = os.fstat(stream.fileno())
        assert is_journal({"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}, stream)
        assert not is_journal({"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino + 1}"}, stream)
        assert not is_journal({}, stream)


def test_where_nobody_listens_at_all_nothing_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = (tmp_path / "closed").open("w")
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    handler = JournalHandler(str(tmp_path / "nobody"))
    handler.handle(logging.LogRecord("x", logging.ERROR, "file.py", 1, "not heard", (), None))
    handler.close()

"""The journal's native protocol, received by a socket in the place of journald."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackd.logs import REQUEST_ID, collect_for
from stackd.logs.formats import JournalHandler, is_journal


class Journal:
    """Receives records and parses their fields."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "journal")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(30)

    def received(self) -> dict[str, str]:
        payload, rights, _, _ = self._socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if rights:
            descriptor = int.from_bytes(rights[0][2][:4], sys.byteorder)
            payload = os.pread(descriptor, 64 << 20, 0)
            os.close(descriptor)
        return _fields(payload)

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


def test_a_record_too_large_for_a_datagram_arrives_whole(journal: Journal, log: logging.Logger) -> None:
    log.error("%s", "x" * (16 << 20))
    assert len(journal.received()["MESSAGE"]) == 16 << 20


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

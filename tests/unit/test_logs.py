"""Log lines as text, as JSON and for the journal: no text of a tenant can forge one."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stackd import logs
from stackd.config import LogSection
from stackd.kube.wire import KubeRequest, KubeResponse
from stackd.model import NO_OFFER, STACKD, EventKind, SanitizedSpec, StoredTemplate
from stackd.store.changes import Renewed, Start
from stackd.web.idempotency import StoredResponse
from tests.kube.samples import STACK

FORGED = "2026-01-01T00:00:00.000Z ERROR   forged"
HOSTILE = [
    f"gone: Error\n{FORGED}", f"gone: Error\r{FORGED}", f"gone\u2028{FORGED}", f"gone\x85{FORGED}",
    "gone\x1b[2K\x1b[1A\x1b]0;title\x07", "gone\x9b2K", "gone\u202edenrut", "half a character: \udc80",
]  # fmt: skip
BEGINNING = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ +stack-1: ")


def record(message: str, level: int = logging.WARNING) -> logging.LogRecord:
    try:
        raise ValueError(message)
    except ValueError:
        return logging.LogRecord("x", level, "file.py", 1, "stack-1: %s", (message,), sys.exc_info())


def quiet(text: str) -> bool:
    """Whether the text has no control characters for a terminal except newlines."""
    return all(c == "\n" or c.isprintable() for c in text)


@pytest.mark.parametrize("message", HOSTILE)
def test_no_text_can_be_taken_for_a_record(message: str) -> None:
    text = logs.TextFormatter().format(record(message))
    first, *trace = text.splitlines()
    assert BEGINNING.match(first)
    assert all(line.startswith(logs.INDENT) for line in trace)
    assert "ValueError: " in text
    text.encode()
    line = logs.JsonFormatter().format(record(message))
    assert (quiet(text), quiet(line), len(line.splitlines())) == (True, True, 1)
    fields = json.loads(line)
    assert fields["message"] == f"stack-1: {message}"
    assert fields["exception"].endswith(f"ValueError: {message}")


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_is_set_up_is_safe_for_every_logger(capsys: pytest.CaptureFixture[str], form: str) -> None:
    logs.setup(LogSection.model_validate({"format": form}))
    for name in ("stackd.lifecycle.observe", "asyncio", "py.warnings"):
        logging.getLogger(name).error("from a client: %s", HOSTILE[0], extra={"stack_id": HOSTILE[4]})
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 3
    assert f"\n{FORGED}" not in text
    assert quiet(text)


# ---- the journal's native protocol, received by a socket in the place of journald


class Journal:
    """Receives records and parses their fields."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "journal")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.settimeout(30)

    def received(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        payload = self.socket.recv(1 << 20)
        while payload:
            line, _, payload = payload.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                size = int.from_bytes(payload[:8], "little")
                value, payload = payload[8 : 8 + size], payload[8 + size + 1 :]
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path)
    yield made
    made.socket.close()


@pytest.fixture
def log(journal: Journal) -> Iterator[logging.Logger]:
    handler = logs.JournalHandler(journal.address)
    logs.collect_for(handler)
    logger = logging.getLogger("test.journal")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)
    handler.close()


def test_no_text_can_forge_the_fields_of_a_record(journal: Journal, log: logging.Logger) -> None:
    token = logs.REQUEST_ID.set("r-1")
    log.warning("%s: gone", "stack-1", extra={"stack_id": "stack-1", "job_id": "", "status": 404})
    logs.REQUEST_ID.reset(token)
    fields = journal.received()
    wanted = {"MESSAGE": "stack-1: gone", "PRIORITY": "4", "STACK_ID": "stack-1", "STATUS": "404", "REQUEST_ID": "r-1"}
    assert wanted.items() <= fields.items()
    assert fields["CODE_FUNC"] == "test_no_text_can_forge_the_fields_of_a_record"
    assert "JOB_ID" not in fields
    error = record("the cause").exc_info
    log.info("from a client: %s", "x\nPRIORITY=0\nSTACK_ID=forged", exc_info=error)
    fields = journal.received()
    assert fields["MESSAGE"].startswith("from a client: x\nPRIORITY=0\nSTACK_ID=forged\n")
    assert "ValueError: the cause" in fields["MESSAGE"]
    assert (fields["PRIORITY"], "STACK_ID" in fields) == ("6", False)


def test_what_holds_a_flag_does_not_show_it_in_a_log_line_or_a_trace() -> None:
    """A platform's flag is in a pod spec, a generated one in values; both are in what Kubernetes is sent and answers."""
    flag = "flag{1}"
    holders = [
        SanitizedSpec(text=flag, manifest={"spec": flag}, requested_cpu_milli=1, requested_memory_bytes=1),
        Renewed(offer=NO_OFFER, digest="1", values={"FLAG": flag}, requested_cpu_milli=1, requested_memory_bytes=1),
        Start(pod_spec=flag, kind=EventKind.STARTED, by=STACKD),
        StoredResponse(status=201, body=flag.encode()),
        StoredTemplate(name="a", text=flag, by=STACKD, tenant=False, at=0),
        KubeRequest(verb="create", resource="pods", body=flag.encode()),
        KubeResponse(status=200, body=flag.encode()),
        replace(STACK, pod_spec=flag, values={"FLAG": flag}),
    ]
    assert not [text for text in map(repr, holders) if flag in text]

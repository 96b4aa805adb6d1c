"""The parts of the CTFd plugin that need no CTFd."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from stackd.units import parse_duration
from tests.ctfd.conftest import PLUGIN
from tests.ctfd.misbehaving import BEHAVIOURS, Misbehaving


@pytest.fixture(scope="module")
def plugin() -> Iterator[Any]:
    """Imports one of the plugin's modules."""
    sys.path.insert(0, str(PLUGIN.parent))
    yield lambda name: importlib.import_module(f"{PLUGIN.name}.{name}")
    sys.path.remove(str(PLUGIN.parent))


FORM = {"stackd_template": "web-1", "stackd_flag_source": "stack", "stackd_extensions": 2, "stackd_extension": "10m"}


def test_only_the_own_answer_is_a_flag(plugin: Any) -> None:
    flags = plugin("flags")
    own = [flags.hashed("salt", "flag{one}"), flags.hashed("salt", "")]
    assert flags.is_one_of(" flag{one} ", own, "salt")
    for answer in ("", "  ", "flag{two}", "FLAG{ONE}", own[0]):
        assert not flags.is_one_of(answer, own, "salt"), answer
    assert flags.hashed("salt", "flag{one}") != flags.hashed("another challenge", "flag{one}")
    assert not flags.is_one_of("\udcff", own, "salt"), "what no text is does not raise"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"stackd_template": ""}, "Choose a template"),
        ({"stackd_flag_source": "other"}, "Flag:"),
        ({"stackd_ttl": "30"}, "such as 30m"),
        ({"stackd_ttl": "0m"}, "Time to live: it must be longer than nothing"),
        ({"stackd_extension": "soon"}, "such as 30m"),
        ({"stackd_extension": "0m"}, "longer than nothing"),
        ({"stackd_extensions": None}, "from 0 to 1000"),
        ({"stackd_connection": "80 a\n80 b"}, "two lines for port 80"),
        ({"stackd_connection": "{flag}"}, "{flag} is unknown"),
    ],
)
def test_a_form_that_cannot_work_is_refused(plugin: Any, changed: dict[str, object], sentence: str) -> None:
    recipe = plugin("recipe")
    recipe.check(FORM)
    with pytest.raises(ValueError, match=sentence.replace("{", r"\{")):
        recipe.check({**FORM, **changed})


def test_addresses_follow_the_connection_text_of_each_port(plugin: Any) -> None:
    recipe = plugin("recipe")
    ports = [
        {"container_port": 80, "node_port": 31000}, {"container_port": 22, "node_port": 31001},
        {"container_port": 443, "url": "https://web-7.example/"}, {"container_port": 9},
        {"container_port": 5432, "host": "db-7.example:443"},
    ]  # fmt: skip
    texts = recipe.texts("80 http://{host}:{port}\nnc {host} {port}")
    assert recipe.addresses(texts, "192.0.2.1", ports) == [
        {"text": "http://192.0.2.1:31000", "href": "http://192.0.2.1:31000", "port": 80},
        {"text": "nc 192.0.2.1 31001", "href": "", "port": 22},
        {"text": "https://web-7.example/", "href": "https://web-7.example/", "port": 443},
        {"text": "db-7.example:443", "href": "", "port": 5432},
    ]
    assert recipe.addresses({}, "192.0.2.1", ports[:1]) == [{"text": "192.0.2.1:31000", "href": "", "port": 80}]


def test_a_port_of_a_node_without_an_address_is_shown_only_by_a_text_that_names_the_host(plugin: Any) -> None:
    recipe = plugin("recipe")
    ports = [{"container_port": 80, "node_port": 31000}, {"container_port": 443, "url": "https://web-7.example/"}]
    for text in ("", "80 http://{host}:{port}", "80 {url}"):
        assert [shown["port"] for shown in recipe.addresses(recipe.texts(text), "", ports)] == [443]
    texts = recipe.texts("80 nc play.example {port}")
    assert [shown["text"] for shown in recipe.addresses(texts, "", ports[:1])] == ["nc play.example 31000"]


def test_an_ipv6_address_has_brackets_beside_its_port_and_none_alone(plugin: Any) -> None:
    recipe = plugin("recipe")
    ports = [{"container_port": number, "node_port": 31000 + number} for number in (80, 22, 9)]
    texts = recipe.texts("80 http://{host}:{port}/\n22 ssh -p {port} root@{host}\n{url}")
    shown = [address["text"] for address in recipe.addresses(texts, "2001:db8::7", ports)]
    assert shown == ["http://[2001:db8::7]:31080/", "ssh -p 31022 root@2001:db8::7", "[2001:db8::7]:31009"]
    assert recipe.addresses({}, "2001:db8::7", ports[:1])[0]["text"] == "[2001:db8::7]:31080"


def test_a_create_names_the_template(plugin: Any) -> None:
    body = plugin("recipe").body
    assert body({**FORM, "stackd_ttl": "1h"}, {"a": "b"}) == {"template": "web-1", "ttl": "1h", "labels": {"a": "b"}}


@pytest.mark.parametrize("text", ["30M", " 1H30m ", "90m", "2d"])
def test_a_length_of_time_that_the_form_takes_is_sent_as_stackd_reads_it(plugin: Any, text: str) -> None:
    recipe = plugin("recipe")
    form = {**FORM, "stackd_ttl": text, "stackd_extension": text}
    recipe.check(form)
    expected = recipe.seconds(text, "x")
    for sent in (recipe.body(form, {})["ttl"], recipe.length(text)):
        assert parse_duration(sent) == expected


@pytest.mark.parametrize("seconds", [1, 90, 5400, 90061])
def test_a_length_of_time_is_read_as_it_is_written(plugin: Any, seconds: int) -> None:
    recipe = plugin("recipe")
    assert recipe.seconds(recipe.duration(seconds), "x") == seconds


def test_no_sentence_for_players_names_a_key_or_a_status(plugin: Any) -> None:
    answers = plugin("answers")
    for action in ("create", "extend", "grant", "restart"):
        for status in (0, 400, 401, 403, 404, 409, 418, 422, 429, 500, 503):
            sentence = answers.verdict(action, status).sentence
            assert sentence.endswith(".")
            assert "limits." not in sentence
            assert str(status) not in sentence or status == 0
    later, never = (
        {0: "silent", 429: "busy", 500: "silent", 503: "no_room"},
        {400: "broken", 401: "closed", 403: "closed"},
    )
    for status, key in (later | never).items():
        assert answers.verdict("create", status) == answers.Verdict(key, retry=status in later)
    told = answers.verdict("create", 503, "no_room", "There is no room.")
    assert (told.key, told.sentence, told.retry) == ("no_room", "There is no room.", True), "stackd's own comes first"
    assert answers.verdict("create", 400, "labels_required", "").key == "broken", (
        "without one, the organisers have to act"
    )
    assert answers.diagnosis(400, "labels: x (limits.required_labels)").startswith("Request")
    assert answers.diagnosis(400, "anything", "labels_required") == "Limits: stackd requires other labels (anything)"
    assert answers.pause(9, 3600) == answers.LONGEST_PAUSE


@pytest.mark.parametrize(
    ("status", "reason", "problem", "phase"),
    [
        ("running", "", "", ""), ("running", "NotReady", "", ""), ("creating", "", "", "prepare"),
        ("creating", "ErrImagePull", "", "pull_again"), ("failed", "ImagePullBackOff", "image", ""),
        ("failed", "CreateContainerConfigError", "config", ""), ("failed", "OOMKilled", "memory", ""),
        ("failed", "CrashLoopBackOff", "crash", ""), ("failed", "SomethingNew", "failed", ""),
        ("stopped", "PodDeleted", "ended", ""), ("node_deleted", "NodeDeleted", "node", ""),
    ],
)  # fmt: skip
def test_a_stacks_reason_has_a_sentence(plugin: Any, status: str, reason: str, problem: str, phase: str) -> None:
    answers = plugin("answers")
    stack = {"status": status, "status_reason": reason, "node_id": "node-1"}
    assert (answers.failure(stack), answers.phase(stack)) == (problem, phase)
    if problem:
        assert answers.TEXTS[problem].endswith(".")
        assert ("Restart" in answers.TEXTS[problem]) == (problem not in answers.HOPELESS), "only where it may help"


@pytest.mark.parametrize("behaviour", sorted(BEHAVIOURS))
async def test_a_call_ends_within_five_seconds_whatever_answers(
    plugin: Any, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plugin("client").SECONDS == 5.0
    monkeypatch.setattr(plugin("client"), "SECONDS", 1.0)
    async with Misbehaving(behaviour) as server:
        stackd = plugin("client").Stackd(url=server.url, key="sk-x")
        began = time.monotonic()
        reply = await asyncio.to_thread(stackd.call, "POST", "/stacks", {"template": "web-1"}, once="x")
        assert time.monotonic() - began < 4.0
        assert not reply.ok
        assert reply.status == (int(behaviour) if behaviour.isdecimal() else 0)
        assert reply.detail


@pytest.mark.parametrize("url", ["", "stackd:8081", "http://", "http://127.0.0.1:1", "http://[", "http://x:y"])
def test_an_address_that_leads_nowhere_is_no_crash(plugin: Any, url: str) -> None:
    assert plugin("client").Stackd(url=url, key="").call("GET", "/templates").status == 0


def test_a_time_is_kept_in_utc_without_a_zone(plugin: Any) -> None:
    moment = plugin("recipe").moment
    for text in ("2026-02-10T09:00:00Z", "2026-02-10T11:00:00.000+02:00", "2026-02-10T09:00:00"):
        assert moment(text) == datetime(2026, 2, 10, 9)  # noqa: DTZ001 - as CTFd has it
    assert (moment(""), moment(None)) == (None, None)
    with pytest.raises(ValueError, match="Scheduled At: write a time such as"):
        moment("tomorrow")

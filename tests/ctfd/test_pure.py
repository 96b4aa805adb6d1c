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
        ({"stackd_pod_spec": "kind: Pod"}, "not both"),
        ({"stackd_template": "", "stackd_pod_spec": "kind: Pod"}, "needs the ports"),
        ({"stackd_template": "", "stackd_pod_spec": "kind: Pod", "stackd_ports": "80/sctp"}, "such as 80/tcp"),
        (
            {"stackd_template": "", "stackd_pod_spec": "kind: Pod", "stackd_ports": "80"},
            "generates values for templates",
        ),
        ({"stackd_flag_source": "other"}, "Flag:"),
        ({"stackd_ttl": "30"}, "such as 30m"),
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
        "http://192.0.2.1:31000", "nc 192.0.2.1 31001", "https://web-7.example/", "db-7.example:443",
    ]  # fmt: skip
    assert recipe.addresses({}, "192.0.2.1", ports[:1]) == ["192.0.2.1:31000"]


def test_a_create_names_the_template_or_the_pod_spec(plugin: Any) -> None:
    body = plugin("recipe").body
    assert body({**FORM, "stackd_ttl": "1h"}, {"a": "b"}) == {"template": "web-1", "ttl": "1h", "labels": {"a": "b"}}
    pod = {
        "stackd_template": "",
        "stackd_pod_spec": "kind: Pod",
        "stackd_ports": "80, 53/udp 443/https",
        "stackd_ttl": "",
    }
    ports = [{"container_port": 80, "protocol": "TCP"}, {"container_port": 53, "protocol": "UDP"}]
    ports.append({"container_port": 443, "protocol": "TCP", "route": "https"})
    assert body(pod, {}) == {"pod_spec": "kind: Pod", "target_port": ports, "labels": {}}


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
    later, never = {0: "SILENT", 429: "BUSY", 500: "SILENT", 503: "FULL"}, {400: "BROKEN", 401: "CLOSED", 403: "CLOSED"}
    for status, name in (later | never).items():
        assert answers.verdict("create", status) == answers.Verdict(getattr(answers, name), retry=status in later)
    told = answers.verdict("create", 503, "There is no room.")
    assert told == answers.Verdict("There is no room.", retry=True), "stackd's own message comes first"
    assert answers.verdict("create", 400, "").sentence == answers.BROKEN
    assert answers.diagnosis(400, "labels: x (limits.required_labels)").startswith("Template or pod spec")
    assert answers.diagnosis(400, "anything", "labels_required") == "Limits: stackd requires other labels (anything)"
    assert answers.pause(9, 3600) == answers.LONGEST_PAUSE


@pytest.mark.parametrize("behaviour", sorted(BEHAVIOURS))
async def test_a_call_ends_within_five_seconds_whatever_answers(plugin: Any, behaviour: str) -> None:
    async with Misbehaving(behaviour) as server:
        stackd = plugin("client").Stackd(url=server.url, key="sk-x")
        began = time.monotonic()
        reply = await asyncio.to_thread(stackd.call, "POST", "/stacks", {"template": "web-1"}, once="x")
        assert time.monotonic() - began < 6.5
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

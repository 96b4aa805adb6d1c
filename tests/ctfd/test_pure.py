"""The parts of the CTFd plugin that need no CTFd."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from stackd.codes import WAIT, ErrorCode
from stackd.contract import ProblemKey, Stack
from stackd.model import PortMapping, Route, RoutedPort, StackStatus
from stackd.units import parse_duration
from stackd.web.bodies import renderer
from tests.ctfd.conftest import PLUGIN
from tests.ctfd.misbehaving import BEHAVIOURS, Misbehaving
from tests.store.building import new_stack


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
        ({"stackd_extension": "0m"}, "longer than nothing"),
        ({"stackd_extensions": None}, "from 0 to 1000"),
        ({"stackd_connection": "80 a\n80 b"}, "two lines for port 80"),
        ({"stackd_connection": "{flag}"}, "{flag} is unknown"),
        ({"stackd_opens": "2026-02-10T09:00"}, "Opens: write a time with its zone"),
        ({"stackd_opens": "2026-02-10T09:00Z", "stackd_closes": "2026-02-10 10:00+01:00"}, "after Opens"),
    ],
)
def test_a_form_that_cannot_work_is_refused(plugin: Any, changed: dict[str, object], sentence: str) -> None:
    recipe = plugin("recipe")
    recipe.check(FORM)
    with pytest.raises(ValueError, match=sentence.replace("{", r"\{")):
        recipe.check({**FORM, **changed})


def reached(host: str, *ports: dict[str, Any]) -> dict[str, Any]:
    """A stack of stackd's with these ports, on a node with this address."""
    names = tuple(
        RoutedPort(container_port=one["container_port"], protocol="TCP", route=Route(one["route"]), host=one["host"])
        if "route" in one
        else PortMapping(protocol="TCP", **one)
        for one in ports
    )
    row = replace(new_stack(), ports=names, node_public_ip=host or None)
    return dict(renderer(Stack, ("ports", "addresses"))(row))


WEB, SSH = {"container_port": 80, "node_port": 31000}, {"container_port": 22, "node_port": 31001}
PAGE = {"container_port": 443, "route": "https", "host": "web-7.example"}
DATABASE = {"container_port": 5432, "route": "tls", "host": "db-7.example:443"}


def test_addresses_follow_the_connection_text_of_each_port(plugin: Any) -> None:
    recipe = plugin("recipe")
    texts = recipe.texts("80 http://{host}:{port}/x\nnc {host} {port}")
    assert recipe.addresses(texts, reached("192.0.2.1", WEB, SSH, PAGE, DATABASE)) == [
        {"text": "http://192.0.2.1:31000/x", "url": "http://192.0.2.1:31000/x", "port": 80},
        {"text": "nc 192.0.2.1 31001", "url": "", "port": 22},
        {"text": "https://web-7.example", "url": "https://web-7.example", "port": 443},
        {"text": "nc db-7.example 443", "url": "", "port": 5432},
    ]
    shown = {"text": "192.0.2.1:31000", "url": "http://192.0.2.1:31000", "port": 80}
    assert recipe.addresses({}, reached("192.0.2.1", WEB)) == [shown], "as stackd says it"


def test_a_port_of_a_node_without_an_address_is_shown_only_by_a_text_that_names_the_host(plugin: Any) -> None:
    recipe, stack = plugin("recipe"), reached("", WEB, PAGE)
    for text in ("", "80 http://{host}:{port}", "80 {url}"):
        assert [shown["port"] for shown in recipe.addresses(recipe.texts(text), stack)] == [443]
    texts = recipe.texts("80 nc play.example {port}")
    assert next(shown["text"] for shown in recipe.addresses(texts, stack)) == "nc play.example 31000"


def test_an_ipv6_address_has_brackets_beside_its_port_and_none_alone(plugin: Any) -> None:
    recipe, other = plugin("recipe"), {"container_port": 9, "node_port": 31009}
    texts = recipe.texts("80 http://{host}:{port}/\n22 ssh -p {port} root@{host}\n{url}")
    shown = [address["text"] for address in recipe.addresses(texts, reached("2001:db8::7", WEB, SSH, other))]
    assert shown == ["http://[2001:db8::7]:31000/", "ssh -p 31001 root@2001:db8::7", "[2001:db8::7]:31009"]
    assert recipe.addresses({}, reached("2001:db8::7", WEB))[0]["text"] == "[2001:db8::7]:31000"


@pytest.mark.parametrize("text", ["30M", " 1H30m ", "90m", "2d"])
def test_a_length_of_time_that_the_form_takes_is_sent_as_stackd_reads_it(plugin: Any, text: str) -> None:
    recipe = plugin("recipe")
    form = {**FORM, "stackd_ttl": text, "stackd_extension": text}
    recipe.check(form)
    expected = recipe.seconds(text, "x")
    for sent in (recipe.body(form, {})["ttl"], recipe.length(text)):
        assert parse_duration(sent) == expected


def test_a_refusal_is_told_as_stackd_tells_it_and_tried_again_where_that_may_help(plugin: Any) -> None:
    answers = plugin("answers")
    seen = {code: answers.verdict(code.status, code.value, code.players) for code in ErrorCode}
    for code, verdict in seen.items():
        closed = code.status in (401, 403)
        assert verdict.sentence == ("" if closed else code.players)
        assert verdict.key == ("closed" if closed else code)
    waits = {code for code, verdict in seen.items() if verdict.retry}
    assert {code for code in ErrorCode if code.repeat == WAIT} <= waits
    assert not [code for code in waits if code.status in (400, 401, 403, 404)]
    assert answers.verdict(0) == answers.Verdict("silent", retry=True)
    assert answers.verdict(418) == answers.BROKEN
    assert answers.pause(9, 3600) == answers.LONGEST_PAUSE


@pytest.mark.parametrize(
    ("status", "reason", "problem", "phase"),
    [
        ("running", "", None, ""), ("running", "NotReady", "not_ready", ""), ("creating", "", None, "prepare"),
        ("creating", "ErrImagePull", None, "pull_again"), ("failed", "ImagePullBackOff", "image", ""),
    ],
)  # fmt: skip
def test_a_stack_has_a_problem_or_a_phase(
    plugin: Any, status: str, reason: str, problem: str | None, phase: str
) -> None:
    answers = plugin("answers")
    row = replace(
        new_stack(), status=StackStatus(status), status_reason=reason, node_id="node-1", node_public_ip="192.0.2.1"
    )
    stack = renderer(Stack, ("status", "node_id", "problem"))(row)
    assert (answers.trouble(stack).get("key"), answers.phase(stack)) == (problem, phase)


@pytest.mark.parametrize("behaviour", sorted(BEHAVIOURS))
async def test_a_call_ends_whatever_answers(plugin: Any, behaviour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugin("client").SECONDS == 5.0
    monkeypatch.setattr(plugin("client"), "SECONDS", 1.0)
    async with Misbehaving(behaviour) as server:
        stackd = plugin("client").Stackd(url=server.url, key="sk-x")
        call = asyncio.to_thread(stackd.call, "POST", "/stacks", {"template": "web-1"}, once="x")
        reply = await asyncio.wait_for(call, 30)
        assert not reply.ok
        assert reply.status == (int(behaviour) if behaviour.isdecimal() else 0)
        assert reply.detail


@pytest.mark.parametrize("url", ["", "stackd:8081", "http://127.0.0.1:1", "http://[", "http://x:y"])
def test_an_address_that_leads_nowhere_is_no_crash(plugin: Any, url: str) -> None:
    assert plugin("client").Stackd(url=url, key="").call("GET", "/templates").status == 0


def test_a_time_is_kept_in_utc_without_a_zone(plugin: Any) -> None:
    moment = plugin("recipe").moment
    for text in ("2026-02-10T09:00:00Z", "2026-02-10T11:00:00.000+02:00", "2026-02-10T09:00:00"):
        assert moment(text) == datetime(2026, 2, 10, 9)  # noqa: DTZ001 - as CTFd has it
    assert (moment(""), moment(None)) == (None, None)
    with pytest.raises(ValueError, match="Scheduled At"):
        moment("tomorrow")


# ---- what players read, in each language


LOCALE = PLUGIN / "assets" / "locale"
ENGLISH: dict[str, str] = json.loads((LOCALE / "en.json").read_text())
SHOWN_OTHERWISE = {ErrorCode.TEMPLATE_CLOSED, "pull"}
"""With the time at which it opens, and as what is being done."""


@pytest.mark.parametrize("path", sorted(LOCALE.glob("*.json")), ids=lambda path: path.stem)
def test_every_language_has_each_text_with_the_same_places_for_values(path: Path) -> None:
    texts = json.loads(path.read_text())
    assert list(texts) == list(ENGLISH)
    places = {key: set(re.findall(r"\{\w+\}", text)) for key, text in texts.items()}
    assert places == {key: set(re.findall(r"\{\w+\}", text)) for key, text in ENGLISH.items()}
    assert all(texts.values())


def test_there_is_a_translation_for_each_error_and_problem_of_the_api() -> None:
    translated = {name for key in ENGLISH if key.startswith("why.") for name in key.removeprefix("why.").split()}
    assert {*ErrorCode, *get_args(ProblemKey)} - translated <= SHOWN_OTHERWISE

"""Every error has a code, and the codes are described where programs and people look for them."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from stackd.codes import ErrorCode, of_status
from tests.harness import Harness, eventually, harness, request_for, seed
from tests.templates import WEB, folder_with

ROOT = Path(__file__).parents[2]


def test_each_code_is_the_code_of_an_error_and_of_its_status() -> None:
    source = "".join(path.read_text() for path in (ROOT / "stackd").rglob("*.py") if path.name != "codes.py")
    general = {of_status(status) for status in (404, 408, 413)}
    for code in ErrorCode:
        assert f"ErrorCode.{code.name}" in source or f'"{code}"' in source or code in general, code
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
        assert 400 <= code.status < 600
        assert of_status(code.status).status == code.status


def test_what_players_may_read_names_no_key_field_or_object() -> None:
    for code in ErrorCode:
        assert not re.search(r"limits|stack|label|node|port|quota|Kubernetes|`", code.players.replace("stopp", "")), (
            code
        )


async def test_each_sentence_for_players_names_whom_they_ask(tmp_path: Path) -> None:
    (tmp_path / "school").mkdir()
    async with harness(tmp_path / "school", {"STACKD_PLAY__HOST_NAME": "your {teacher}"}) as at:
        assert not [code for code in ErrorCode if "organisers" in code.players]
        assert (await at.call("POST", "/stacks", b"{")).for_players.endswith("Please tell your {teacher}.")
        assert (await at.call("GET", "/nothing")).for_players.endswith("or ask your {teacher}.")
        name = (await at.create(request_for("registry.example/badname:1")))["stack_id"]
        problem = (await at.until_status(name, "failed"))["problem"]
        assert problem["player_message"] == "The image of your instance cannot be loaded. Please tell your {teacher}."
    async with harness(tmp_path) as at:
        assert (await at.call("GET", "/nothing")).for_players.endswith("or ask the organisers.")


async def test_after_a_reload_sentences_for_players_name_the_new_host(tmp_path: Path) -> None:
    async with harness(tmp_path, edited={"STACKD_PLAY__HOST_NAME": "your teacher"}) as at:
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: at.config.play.host_name == "your teacher")
        assert (await at.call("GET", "/nothing")).for_players.endswith("or ask your teacher.")


REFUSED = {
    "POST /stacks": ("invalid_request", b"{"),
    "POST /stacks?colour=red": ("unknown_parameter", {}),
    "POST /stacks/batch-delete": ("unknown_field", {"stack_id": "stack-1"}),
    "POST /stacks/batch": ("invalid_request", {"action": "remove", "stack_ids": ["stack-1"]}),
    "POST /stacks/stack-1/extend": ("stack_not_found", {"ttl": "1h"}),
    "GET /stacks/batch/job-1": ("job_not_found", None),
    "GET /nothing": ("not_found", None),
    "PUT /stacks": ("method_not_allowed", None),
    "POST /takeover": ("not_standby", None),
}


async def test_programs_tell_errors_apart_by_their_codes(tmp_path: Path) -> None:
    settings = {
        **folder_with(tmp_path, web_1=WEB),
        "STACKD_LIMITS__REQUIRED_LABELS": "team",
        "STACKD_LIMITS__STACKS_PER_LABEL": "team=1",
    }
    async with harness(tmp_path, settings) as at:
        for request, (code, body) in REFUSED.items():
            method, path = request.split(" ")
            assert (await at.call(method, path, body)).code == code, request
        assert (await at.call("GET", "/stacks", key="sk-wrong")).code == "unauthenticated"
        for code, more in (
            ("labels_required", {}),
            ("template_not_found", {"template": "web-9"}),
            ("invalid_pod_spec", {"labels": {"team": "7"}, "pod_spec": "kind: Job"}),
        ):
            body = more if "template" in more else seed() | more
            assert (await at.call("POST", "/stacks", body)).code == code
        stack_id = (await at.create(labels={"team": "7"}))["stack_id"]
        again = await at.call("POST", "/stacks", seed() | {"labels": {"team": "7"}})
        assert (again.code, again.json["stack_id"]) == ("label_limit_reached", stack_id)
        too_long = await at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "23h"})
        assert too_long.code == "too_long_a_life"


@pytest.mark.stackd(stacks__node_port_min="31001", stacks__node_port_max="31001")
async def test_the_code_of_a_full_range_is_the_outcome_in_the_metrics(at: Harness) -> None:
    await at.create()
    assert (await at.call("POST", "/stacks", seed())).code == "no_node_port"
    assert await at.metric("stackd_creates_total", outcome="no_node_port") == 1

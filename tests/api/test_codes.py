"""Every error has a code, and the codes are described where programs and people look for them."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from stackd.codes import ErrorCode
from tests.harness import Harness, eventually, harness, request_for, seed


def test_what_players_may_read_names_no_key_field_or_object() -> None:
    for code in ErrorCode:
        text = code.players.replace("stopp", "")
        assert not re.search(r"limits|stack|label|node|port|quota|Kubernetes|`", text), code


async def test_sentences_for_players_name_whom_they_ask_also_after_a_reload(tmp_path: Path) -> None:
    name = "STACKD_PLAY__HOST_NAME"
    async with harness(tmp_path, {name: "your {teacher}"}, edited={name: "the tutors"}) as at:
        assert (await at.call("GET", "/nothing")).for_players.endswith("ask your {teacher}.")
        failed = (await at.create(request_for("registry.example/badname:1")))["stack_id"]
        await at.until_status(failed, "failed")
        assert await whom_to_tell(at, failed) == ["your {teacher}."] * 2
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: at.config.play.host_name == "the tutors")
        assert (await at.call("GET", "/nothing")).for_players.endswith("ask the tutors.")
        assert await whom_to_tell(at, failed) == ["the tutors."] * 2


async def whom_to_tell(at: Harness, stack_id: str) -> list[str]:
    """As the stack itself and the list of all have it."""
    stacks = await at.get(f"/stacks/{stack_id}"), *(await at.get("/stacks"))["stacks"]
    return [stack["problem"]["player_message"].partition("tell ")[2] for stack in stacks]


@pytest.mark.stackd(limits__required_labels="team")
async def test_programs_tell_errors_apart_by_their_codes(at: Harness) -> None:
    for request, code, body in (
        ("POST /stacks", "invalid_request", b"{"),
        ("POST /stacks", "labels_required", seed()),
        ("POST /stacks", "invalid_pod_spec", seed() | {"labels": {"team": "7"}, "pod_spec": "kind: Job"}),
        ("POST /stacks/stack-1/extend", "stack_not_found", {"ttl": "1h"}),
        ("GET /stacks/batch/job-1", "job_not_found", None),
        ("GET /nothing", "not_found", None),
        ("PUT /stacks", "method_not_allowed", None),
        ("POST /takeover", "not_standby", None),
    ):
        method, path = request.split(" ")
        assert (await at.call(method, path, body)).code == code, request


@pytest.mark.stackd(stacks__node_port_min="31001", stacks__node_port_max="31001")
async def test_the_code_of_a_full_range_is_the_outcome_in_the_metrics(at: Harness) -> None:
    await at.create()
    assert (await at.call("POST", "/stacks", seed())).code == "no_node_port"
    assert await at.metric("stackd_creates_total", outcome="no_node_port") == 1

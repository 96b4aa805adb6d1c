"""Statuses, compared with what a real cluster recorded."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from stackd.clock import NANOSECONDS
from stackd.errors import ClusterError, ClusterUnavailable, InvalidPodSpec, Reason
from stackd.kube.objects import PodState, pod_state
from stackd.lifecycle.status import DerivedStatus, PodProgress, PodSnapshot, derive_status, pod_progress
from stackd.model import Stack, StackStatus
from stackd.templates.hiding import HIDDEN, hide, hide_in
from tests.unit.lifecycle.situations import NOW, STACK, pod

RECORDINGS = Path(__file__).parents[2] / "recordings"
GRACE = 60.0

CREATING = replace(STACK, status=StackStatus.CREATING, node_id="real-worker")


def recorded(name: str) -> PodState:
    body: dict[str, Any] = json.loads((RECORDINGS / f"{name}.json").read_text())["response"]["body"]
    return pod_state(body)


def seen(pod: PodState | None, **changes: Any) -> PodSnapshot:
    made = PodSnapshot(pod=pod, node_exists=True, node_public_ip="203.0.113.1", pull_failing_since=None, now=NOW)
    return replace(made, **changes)


def verdict(name: str, stack: Stack = CREATING, **changes: Any) -> DerivedStatus:
    return derive_status(stack, seen(recorded(name), **changes), GRACE)


@pytest.mark.parametrize(
    ("recording", "status", "reason", "words", "ended"),
    [
        ("pod-create-201", "creating", "", "", False), ("pod-get-ok", "running", "", "", False),
        ("pod-get-exit0", "stopped", "Completed", "", True), ("pod-get-exit1", "failed", "Error", "exit code 3", True),
        ("pod-get-oom", "failed", "OOMKilled", "ran out of memory", True),
        ("pod-get-nocmd", "failed", "StartError", "/does/not/exist", True),
        ("pod-get-invalidimage", "failed", "InvalidImageName", "'UPPER CASE::' is not a valid image name", False),
        ("pod-get-nosecret", "failed", "CreateContainerConfigError", 'secret "nope" not found', False),
    ],
)  # fmt: skip
def test_the_status_of_a_recorded_pod(recording: str, status: str, reason: str, words: str, ended: bool) -> None:
    found = verdict(recording)
    assert (found.status, found.reason, found.ended) == (status, reason, ended)
    assert words in found.message


def test_an_image_that_cannot_be_pulled_is_failed_only_after_the_grace() -> None:
    early = verdict("pod-get-badimage", pull_failing_since=NOW - 59 * NANOSECONDS)
    assert (early.status, early.reason) == (StackStatus.CREATING, "ImagePullBackOff")
    assert early.recheck_at == NOW + NANOSECONDS
    late = verdict("pod-get-badimage", pull_failing_since=NOW - 60 * NANOSECONDS)
    assert (late.status, late.reason, late.ended) == (StackStatus.FAILED, "ImagePullBackOff", False)
    assert late.message.startswith("image registry.invalid/none:1 cannot be pulled: ")
    assert "no such host" in late.message


@pytest.mark.parametrize("status", [StackStatus.CREATING, StackStatus.FAILED])
def test_a_failed_pull_stays_one_after_a_restart_and_while_it_is_tried_again(status: StackStatus) -> None:
    """Before, the stack was plainly creating again, until the grace had passed once more."""
    failed = replace(CREATING, status=status, status_reason="ErrImagePull", status_message="image x cannot be pulled")
    again = verdict("pod-get-badimage", failed, pull_failing_since=NOW)
    assert (again.status, again.reason) == (status, "ImagePullBackOff")
    waits = replace(recorded("pod-get-badimage").containers[0], reason="ContainerCreating", message="")
    trying = seen(pod(phase="Pending", ready=False, containers=(waits,)))
    found = derive_status(failed, trying, GRACE)
    assert (found.status, found.reason, found.message) == (status, "ErrImagePull", "image x cannot be pulled")
    runs = pod(containers=(replace(waits, state="running", reason="", ready=True),))
    assert derive_status(failed, seen(runs), GRACE).status is StackStatus.RUNNING
    assert derive_status(replace(failed, status_reason=""), trying, GRACE).status is StackStatus.CREATING


RUNNING = replace(CREATING, status=StackStatus.RUNNING)
AWAY = replace(CREATING, status=StackStatus.NODE_DELETED)
OVER = replace(CREATING, status=StackStatus.FAILED, status_reason="OOMKilled", status_message="why", ended=True)
OK = recorded("pod-get-ok")
UNREADY = replace(OK, ready=False)


@pytest.mark.parametrize(
    ("row", "its_pod", "node_exists", "status", "reason", "ended"),
    [
        (CREATING, UNREADY, True, "creating", "", False),
        (RUNNING, UNREADY, True, "running", "NotReady", False),  # readiness that is lost shows in the reason only
        (RUNNING, None, True, "stopped", "PodDeleted", True),
        (RUNNING, OK, False, "node_deleted", "NodeDeleted", False),  # until its pod is collected
        (AWAY, OK, True, "running", "", False),
        (AWAY, None, False, "node_deleted", "NodeDeleted", True), (OVER, None, True, "failed", "OOMKilled", True),
    ],
)  # fmt: skip
def test_a_stack_whose_pod_or_node_is_gone_or_not_ready(
    row: Stack, its_pod: PodState | None, node_exists: bool, status: str, reason: str, ended: bool
) -> None:
    result = derive_status(row, seen(its_pod, node_exists=node_exists), GRACE)
    assert (result.status, result.reason, result.ended) == (status, reason, ended)


def test_the_recorded_end_of_a_node_is_node_deleted() -> None:
    events = json.loads((RECORDINGS / "watch-pod-on-deleted-node.json").read_text())["events"]
    disrupted = [pod_state(e["object"]) for e in events if e["object"]["status"]["phase"] == "Failed"]
    assert disrupted
    for one in disrupted:
        found = derive_status(CREATING, seen(one, node_exists=False), GRACE)
        assert (found.status, found.ended) == (StackStatus.NODE_DELETED, True)


# ---- What a pod's containers did between two snapshots: each change is reported until it is written down


WAITED = PodProgress(uid="pod", started=False, restarts=(0,))
STARTED = PodProgress(uid="pod", started=True, restarts=(0,))


container = partial(replace, OK.containers[0])
RUNS = pod(containers=(container(),))
WAITS = pod(containers=(container(state="waiting"),))
AGAIN = pod(containers=(container(restart_count=1, last_exit_code=3, last_reason="Error"),))


@pytest.mark.parametrize(
    ("before", "its_pod", "lines"),
    [
        (None, WAITS, []), (None, RUNS, ["started"]), (WAITED, RUNS, ["started"]), (STARTED, RUNS, []),
        (STARTED, AGAIN, ["restarted"]), (WAITED, AGAIN, ["started", "restarted"]), (None, AGAIN, ["started"]),
        (replace(STARTED, restarts=(5,), uid="earlier"), AGAIN, ["started"]), (STARTED, None, []),
    ],
)  # fmt: skip
def test_what_is_reported_of_a_new_stack(
    before: PodProgress | None, its_pod: PodState | None, lines: list[str]
) -> None:
    assert [line.kind.value for line in pod_progress(before, CREATING, seen(its_pod))[1]] == lines


# ---- generated values are found in a text however it quotes them, and nothing else is changed


CORE = "0123456789abcdef"
FLAG = f"flag{{{CORE}}}"
UUID = "550e8400-e29b-41d4-a716-446655440000"
ODD = 'a"$b$c-0123456789&x'
VALUES = {"FLAG": FLAG, "ODD": ODD, "SHORT": "abc", "BASE32": "KEY-AB2CDEFGHIJ", "UUID": UUID}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("", ""), ("about nothing", "about nothing"), (f"FLAG={FLAG} and {FLAG}", f"FLAG={HIDDEN} and {HIDDEN}"),
        (json.dumps({"env": ODD}), json.dumps({"env": HIDDEN})),
        (json.dumps({"env": ODD.replace("$", "$$")}), json.dumps({"env": HIDDEN})),
        (f"cut off: {FLAG[:-1]}", f"cut off: {HIDDEN}"), (f"cut off: {FLAG[:12]}…", f"cut off: {HIDDEN}…"),
        ("cut off: flag{", "cut off: flag{"),
    ],
)  # fmt: skip
def test_values_are_hidden(text: str, hidden: str) -> None:
    assert hide(text, VALUES) == hidden


@pytest.mark.parametrize(
    "quoted",
    [
        FLAG.upper(), quote(FLAG), quote(ODD).lower(), "".join(f"\\x{byte:02x}" for byte in FLAG.encode()),
        FLAG.encode().hex(), FLAG.encode().hex().upper(), CORE, CORE.encode().hex(), "AB2CDEFGHIJ", UUID.upper(),
        json.dumps(json.dumps(ODD))[3:-3], ODD.replace("&", "\\u0026"), FLAG[:9] + "\n  " + FLAG[9:],
        FLAG[:9] + "\\\n" + FLAG[9:], FLAG[:9] + "\\n" + FLAG[9:], FLAG[:9] + "\x1b[31m" + FLAG[9:], "abc",
    ],
)  # fmt: skip
def test_a_value_is_hidden_in_the_forms_in_which_programs_print_it(quoted: str) -> None:
    assert hide(f"see {quoted}, please", VALUES) == f"see {HIDDEN}, please"


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes])
def test_a_value_is_hidden_within_base64(encode: Callable[[bytes], bytes], before: int) -> None:
    hidden = hide(encode(b"." * before + f"id:{FLAG}".encode() * 3).decode(), VALUES)
    rest = "".join(hidden.replace(HIDDEN, "").split()).rstrip("=")
    assert hidden.count(HIDDEN) == 3
    assert len(rest) <= (before + 3 * len("id:")) * 4 / 3 + 3 * 3  # of a group of three bytes, a part may be known


def test_words_and_dates_of_a_pattern_and_short_values_within_words_stay() -> None:
    values = {"A": "CHALLENGE-20260101-0123456789abcdef", "B": "abc", "C": "x", "D": "\\n"}
    text = "challenge x of 20260101: abcde xabc \\n"
    assert hide(text, values) == text


def test_of_an_error_all_parts_and_all_reasons_are_cleared() -> None:
    error = InvalidPodSpec([Reason(path="spec.containers[0].env", text=f"{FLAG} is not allowed")])
    error.__cause__ = ClusterUnavailable("it cannot be created", detail=f"it has {FLAG}")
    error.__cause__.__cause__ = ClusterError(FLAG)
    hide_in(error, VALUES)
    assert str(error) == f"invalid pod spec: spec.containers[0].env: {HIDDEN} is not allowed"
    assert error.reasons == (Reason(path="spec.containers[0].env", text=f"{HIDDEN} is not allowed"),)
    assert str(error.__cause__) == f"it cannot be created: it has {HIDDEN}"
    assert str(error.__cause__.__cause__) == HIDDEN

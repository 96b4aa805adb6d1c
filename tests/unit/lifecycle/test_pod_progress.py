"""What a pod's containers did between two snapshots: each change is reported until it is written down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stackd.kube.objects import ContainerState, PodState
from stackd.lifecycle.status import PodProgress, PodSnapshot, pod_progress
from stackd.model import StackStatus
from tests.unit.lifecycle.situations import NOW, STACK, pod

CREATING = replace(STACK, status=StackStatus.CREATING)
WAITED = PodProgress(uid="pod", started=False, restarts=(0,))
STARTED = PodProgress(uid="pod", started=True, restarts=(0,))


def container(**changes: Any) -> ContainerState:
    made = ContainerState(
        name="app",
        init=False,
        image="nginx",
        state="running",
        reason="",
        message="",
        exit_code=None,
        restart_count=0,
        ready=True,
        last_reason="",
        last_exit_code=None,
    )
    return replace(made, **changes)


def snapshot(of: PodState | None) -> PodSnapshot:
    return PodSnapshot(pod=of, node_exists=True, node_public_ip=None, pull_failing_since=None, now=NOW)


RUNS = pod(containers=(container(),))
WAITS = pod(containers=(container(state="waiting"),))
AGAIN = pod(containers=(container(restart_count=1, last_exit_code=3, last_reason="Error"),))


@pytest.mark.parametrize(
    ("before", "seen", "told"),
    [
        (None, WAITS, []), (None, RUNS, ["started"]), (WAITED, WAITS, []), (WAITED, RUNS, ["started"]),
        (STARTED, RUNS, []), (STARTED, AGAIN, ["restarted"]), (WAITED, AGAIN, ["started", "restarted"]),
        (None, AGAIN, ["started"]), (replace(STARTED, uid="earlier"), RUNS, ["started"]),
        (replace(STARTED, restarts=(5,), uid="earlier"), AGAIN, ["started"]), (STARTED, None, []),
    ],
)  # fmt: skip
def test_what_is_told_of_a_stack_that_is_being_created(
    before: PodProgress | None, seen: PodState | None, told: list[str]
) -> None:
    _, lines = pod_progress(before, CREATING, snapshot(seen))
    assert [line.kind.value for line in lines] == told


def test_what_is_seen_is_remembered_and_a_pod_that_is_gone_changes_nothing() -> None:
    assert pod_progress(None, STACK, snapshot(RUNS)) == (STARTED, ()), "it has started before"
    seen, _ = pod_progress(WAITED, CREATING, snapshot(RUNS))
    assert pod_progress(seen, CREATING, snapshot(RUNS)) == pod_progress(seen, STACK, snapshot(None)) == (STARTED, ())

"""The pods that templates own: which there should be, and what a pod's state means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackd.errors import ClusterUnavailable
from stackd.kube.objects import ContainerState, PodState, TemplatePod
from stackd.lifecycle import checks
from stackd.lifecycle.decide import State, Verb, WantedTemplatePod, without_row
from tests.unit.lifecycle.situations import pod

SEEN = TemplatePod(role="check", instance="default", pod=pod())
NEW = WantedTemplatePod(name="check-1", manifest={})


@pytest.mark.parametrize(
    ("missing", "unwanted", "removable", "expected"),
    [
        (None, [], None, []),
        (NEW, [], None, [Verb.CREATE]),
        (None, [SEEN], None, [Verb.REMOVE]),  # somebody has had it, or an earlier process has left it
        (None, [SEEN], {SEEN.uid}, [Verb.REMOVE]),
        (None, [SEEN], {"another"}, []),
    ],
)
def test_what_has_no_row(
    missing: WantedTemplatePod | None, unwanted: list[State], removable: set[str] | None, expected: list[Verb]
) -> None:
    assert [change.verb for change in without_row(missing, unwanted, removable).changes] == expected


def of(state: str, phase: str = "Pending", *, why: str = "", message: str = "", reason: str = "") -> PodState:
    container = ContainerState(
        name="check", init=False, image="", state=state, reason=why, message=message, exit_code=None, restart_count=0,
        ready=False, last_reason="", last_exit_code=None,
    )  # fmt: skip
    return replace(pod(), phase=phase, reason=reason, containers=(container,))


@pytest.mark.parametrize(
    ("seen", "begun", "ended"),
    [
        (of("waiting", why="ContainerCreating"), False, False),
        (of("waiting", why="ErrImagePull"), False, False),  # the kubelet tries again
        (
            of("waiting", why="CreateContainerConfigError", message="no secret"),
            "could not be started: no secret",
            False,
        ),
        (of("running", "Running"), True, False),
        (of("terminated", "Succeeded", why="Completed"), True, True),
        (of("terminated", "Failed", why="Error"), True, True),
        (of("terminated", "Failed", why="OOMKilled"), True, "could not be run: OOMKilled"),
        (of("terminated", "Failed", reason="Evicted"), True, "could not be run: Evicted"),
        (of("running", "Failed", reason="DeadlineExceeded"), "could not be run: DeadlineExceeded", False),
    ],
)
def test_what_the_pod_of_a_check_says(seen: PodState, begun: bool | str, ended: bool | str) -> None:
    for read, expected in ((checks.has_begun, begun), (checks.has_ended, ended)):
        if isinstance(expected, str):
            with pytest.raises(ClusterUnavailable, match=expected):
                read(seen)
        else:
            assert (read(seen) is seen) is expected

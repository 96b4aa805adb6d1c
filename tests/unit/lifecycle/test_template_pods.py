"""The pods that templates own: which there should be, and what a pod's state means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackd.errors import ClusterUnavailable
from stackd.kube.objects import ContainerState, PodState
from stackd.lifecycle import checks
from tests.unit.lifecycle.situations import pod


def of(state: str, phase: str = "Pending", *, why: str = "", message: str = "", reason: str = "") -> PodState:
    container = ContainerState(
        name="check", init=False, image="", state=state, reason=why, message=message, exit_code=None, restart_count=0,
        ready=False, last_reason="", last_exit_code=None,
    )  # fmt: skip
    return replace(pod(), phase=phase, reason=reason, containers=(container,))


@pytest.mark.parametrize(
    ("seen", "begun", "ended"),
    [
        (of("waiting", why="ErrImagePull"), False, False),  # the kubelet tries again
        (of("waiting", why="CreateContainerConfigError", message="no secret"), "could not be started: no secret", False),
        (of("running", "Running"), True, False), (of("terminated", "Failed", why="Error"), True, True),
        (of("terminated", "Failed", reason="Evicted"), True, "could not be run: Evicted"),
        (of("running", "Failed", reason="DeadlineExceeded"), "could not be run: DeadlineExceeded", False),
    ],
)  # fmt: skip
def test_what_the_pod_of_a_check_says(seen: PodState, begun: bool | str, ended: bool | str) -> None:
    for read, expected in ((checks.has_begun, begun), (checks.has_ended, ended)):
        if isinstance(expected, str):
            with pytest.raises(ClusterUnavailable, match=expected):
                read(seen)
        else:
            assert (read(seen) is seen) is expected

"""What a template says about its shared stack, the node ports and names that its target ports keep; and about its check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final, get_args

from msgspec import Meta, json

from stackd.clock import DAY_SECONDS
from stackd.contract import Duration, PortNumber, Request, TargetPort, TargetPorts, expects
from stackd.names import LABEL, LABEL_FORM
from stackd.podspec import Policy, sanitize
from stackd.podspec.decoding import decode
from stackd.templates.readers import seconds
from stackd.templates.template import Check


class PlacedPort(TargetPort, frozen=True, kw_only=True):
    """A target port; one of a shared stack may keep its node port or its name."""

    node_port: Annotated[PortNumber | None, "Its node port."] = None
    hostname: Annotated[
        Annotated[str, expects(f"the first part of a name below routes.domain: {LABEL_FORM}", pattern=LABEL)] | None,
        "The first part of its name.",
    ] = None


PlacedPorts = Annotated[tuple[PlacedPort, ...], *get_args(TargetPorts)[1:]]


def mistakes(ports: Sequence[PlacedPort], *, shared: bool, pool: int) -> Iterator[tuple[str, str]]:
    """What is wrong with what concerns a shared stack, each with its path."""
    if shared and pool:
        yield "pool", "a shared template has one stack, and no pool"
    taken: set[object] = set()
    for index, port in enumerate(ports):
        for key, value in (("node_port", port.node_port), ("hostname", port.hostname)):
            if value is None:
                continue
            path = f"target_port[{index}].{key}"
            if (key == "hostname") is (port.route is None):
                yield path, "a port with a route has a name, and any other one a node port"
            elif not shared:
                yield path, "only a shared template (shared: true) has one"
            elif value in taken:
                yield path, f"another target port has {value} already"
            taken.add(value)


# ---- the check

CHECK: Final = "check"
"""The egress and the role of its pods, and the name of its container."""

SHORTEST_EVERY: Final = 10.0
LONGEST_TIMEOUT: Final = 600.0
MOST_FAILURES: Final = 100
_RESOURCES: Final = {"cpu": "250m", "memory": "256Mi"}


class CheckText(Request, frozen=True, kw_only=True):
    """What ``check`` says."""

    image: Annotated[
        Annotated[str, expects("the image of the program that checks", min_length=1)], "The program that checks."
    ]
    command: Annotated[tuple[str, ...], "Its command."] = ()
    every: Annotated[Duration, "How often."] = "5m"
    timeout: Annotated[Duration, "How long it may take."] = "60s"
    failures: Annotated[Annotated[int, Meta(ge=1, le=MOST_FAILURES)], "After how many a shared stack is replaced."] = 3


def check(value: object, policy: Policy) -> Check:
    """Read ``check``; its pod is one within the template's ``policy``. Raises ValueError, InvalidRequest, InvalidPodSpec."""
    given: CheckText = decode(CheckText, value, "check")
    own = policy.model_copy(update={"egress": CHECK, "host_names": (), "restart_policy": "Never"})
    command = {"command": given.command} if given.command else {}
    container = {"name": CHECK, "image": given.image, "resources": {"limits": dict(_RESOURCES)}, **command}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": CHECK}, "spec": {"containers": [container]}}
    return Check(
        image=given.image,
        command=given.command,
        every=_between("every", given.every, SHORTEST_EVERY, DAY_SECONDS),
        timeout=_between("timeout", given.timeout, 1.0, LONGEST_TIMEOUT),
        failures=given.failures,
        spec=sanitize(json.encode(pod).decode(), (), own),
        policy=own,
    )


def _between(name: str, text: str, least: float, most: float) -> float:
    if not least <= (length := seconds(text)) <= most:
        raise ValueError(f"{name}: a duration from {least:g} s to {most:g} s is expected")
    return length

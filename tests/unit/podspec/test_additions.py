"""Generated values and readiness probes in a pod."""

from __future__ import annotations

import copy
from typing import Any

from stackd.model import TargetPort
from stackd.podspec.additions import values_in, with_readiness, with_values

TCP_80, UDP_53, TCP_9 = (
    TargetPort(container_port=port, protocol=protocol) for port, protocol in ((80, "TCP"), (53, "UDP"), (9, "TCP"))
)
PROBE = {"tcpSocket": {"port": 80}, "periodSeconds": 1}


def pod(*containers: dict[str, Any], init: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"kind": "Pod", "spec": {"containers": list(containers), **({"initContainers": list(init)} if init else {})}}


def container(name: str = "app", *ports: tuple[int, str], **more: Any) -> dict[str, Any]:
    declared = [{"containerPort": port, "protocol": protocol} for port, protocol in ports]
    return {"name": name, **({"ports": declared} if ports else {}), **more}


def test_values_stand_before_the_others_in_every_container_and_come_back() -> None:
    before = pod(container(env=[{"name": "A", "value": "$(FLAG)"}]), container("b"), init=(container("c"),))
    kept = copy.deepcopy(before)
    values = {"FLAG": "a$b$$c$(A)", "B": ""}
    after = with_values(before, values)
    written = [{"name": "FLAG", "value": "a$$b$$$$c$$(A)"}, {"name": "B", "value": ""}]
    assert [one["env"] for one in after["spec"]["containers"]] == [
        [*written, {"name": "A", "value": "$(FLAG)"}],
        written,
    ]
    assert after["spec"]["initContainers"][0]["env"] == written
    assert values_in(after, values) == values
    assert before == kept


def test_a_container_gets_a_probe_of_the_first_published_port_that_it_has() -> None:
    after = with_readiness(pod(container("a", (9, "TCP"), (80, "TCP"))), (UDP_53, TCP_80, TCP_9))
    assert after["spec"]["containers"][0]["readinessProbe"] == PROBE
    plain = {"name": "a", "ports": [{"containerPort": 80}]}
    assert with_readiness(pod(plain), (TCP_80,))["spec"]["containers"][0]["readinessProbe"] == PROBE


def test_a_sidecar_gets_one_and_a_container_that_ends_gets_none() -> None:
    sidecar = container("a", (80, "TCP"), restartPolicy="Always")
    after = with_readiness(pod(container("c"), init=(sidecar, container("b", (80, "TCP")))), (TCP_80,))
    assert after["spec"]["initContainers"] == [sidecar | {"readinessProbe": PROBE}, container("b", (80, "TCP"))]
    assert after["spec"]["containers"] == [container("c")]


def test_who_has_a_readiness_probe_keeps_it_and_who_publishes_nothing_over_tcp_gets_none() -> None:
    own = container("a", (80, "TCP"), readinessProbe={"httpGet": {"port": 80}})
    udp, other = container("b", (53, "UDP")), container("c", (81, "TCP"))
    before = pod(own, udp, other)
    assert with_readiness(before, (TCP_80, UDP_53)) == before

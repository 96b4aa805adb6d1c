"""The request's target_port."""

from __future__ import annotations

from typing import Any

import pytest

from stackd.errors import InvalidPodSpec, InvalidRequest
from stackd.model import TargetPort
from stackd.podspec import parse_target_ports
from tests.unit.podspec.specs import HTTP, container, reasons, with_init

WEB = {"container_port": 80, "protocol": "TCP"}


def test_ports_keep_their_order_and_protocols_are_in_upper_case() -> None:
    assert parse_target_ports(
        [{"container_port": 443, "protocol": "tcp"}, {"protocol": "Udp", "container_port": 53}]
    ) == (
        TargetPort(container_port=443, protocol="TCP"),
        TargetPort(container_port=53, protocol="UDP"),
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "target_port: is required"),
        (WEB, 'target_port: must be a list of objects, such as [{"container_port": 80, "protocol": "TCP"}]'),
        ("80", "target_port: must be a list of objects with container_port and protocol"),
        ([], "target_port: must have 1 to 24 entries, not 0"),
        ([WEB] * 25, "target_port: must have 1 to 24 entries, not 25"),
        ([80], "target_port[0]: must be an object with container_port and protocol"),
        ([{"protocol": "TCP"}], "target_port[0].container_port: is required"),
        ([{**WEB, "container_port": 0}], "target_port[0].container_port: must be an integer from 1 to 65535"),
        ([{**WEB, "container_port": "80"}], "target_port[0].container_port: must be an integer from 1 to 65535"),
        ([{"container_port": 80}], "target_port[0].protocol: is required: TCP or UDP"),
        ([WEB, {**WEB, "protocol": "SCTP"}], 'target_port[1].protocol: must be TCP or UDP, not "SCTP"'),
        ([WEB, {**WEB, "protocol": "tcp"}], "target_port[1]: 80/TCP is already target_port[0]"),
        (
            [{**WEB, "containerPort": 80}],
            'target_port[0].containerPort: unknown field (did you mean "container_port"?)',
        ),
        ([{**WEB, "container_port": 65536}], "target_port[0].container_port: must be an integer from 1 to 65535"),
        ([{**WEB, "container_port": True}], "target_port[0].container_port: must be an integer from 1 to 65535"),
    ],
)
def test_a_wrong_target_port_is_refused_by_path(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_target_ports(value)
    assert str(refused.value) == message
    assert not isinstance(refused.value, InvalidPodSpec)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_target_ports([{"container_port": 0}, 1])
    assert str(refused.value).count("target_port[") == 3


@pytest.mark.parametrize(
    ("ports", "found"),
    [
        ([{"containerPort": 80}], True), ([{"containerPort": 80, "protocol": "TCP"}], True),
        ([{"containerPort": 80, "protocol": "UDP"}], False), ([{"containerPort": 81}], False), ([], False),
    ],
)  # fmt: skip
def test_a_target_port_must_be_a_container_port_of_the_same_protocol(ports: list[Any], found: bool) -> None:
    expected = [] if found else ["target_port[0]: no container of the pod spec has the port 80/TCP"]
    assert reasons(container(ports=ports)) == expected


@pytest.mark.parametrize(("restart", "found"), [({"restartPolicy": "Always"}, True), ({}, False)])
def test_a_sidecar_can_hold_the_target_port_and_an_init_container_that_ends_cannot(
    restart: dict[str, str], found: bool
) -> None:
    pod = with_init({"ports": [{"containerPort": 8080}], **restart})
    refused = reasons(pod, ports=(*HTTP, TargetPort(container_port=8080, protocol="TCP")))
    assert bool(refused) is not found


def test_a_broken_port_is_not_reported_as_a_missing_one_as_well() -> None:
    assert reasons(container(ports=[{"containerPort": "80"}])) == [
        "spec.containers[0].ports[0].containerPort: must be an integer, not a string"
    ]

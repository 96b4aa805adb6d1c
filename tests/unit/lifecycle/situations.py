"""Rows and objects for tables of situations: a living stack with its pod and Service, and changes to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stackd.clock import NANOSECONDS
from stackd.kube.objects import PodState, ServiceState
from stackd.kube.records import RUNNING
from stackd.model import Desired, PortMapping, Stack, StackStatus

NOW = 1_800_000_000 * NANOSECONDS
NAME = "stack-0123456789abcdef"
SERVICE = f"svc-{NAME}"
OTHER = "stack-00000000000000aa"

STACK = Stack(
    stack_id=NAME, namespace="stacks", pod_spec="",
    ports=(PortMapping(container_port=80, protocol="TCP", node_port=31001),), status=StackStatus.RUNNING,
    created_at=NOW - 3600 * NANOSECONDS, updated_at=NOW - 3600 * NANOSECONDS, ttl_expires_at=NOW + 3600 * NANOSECONDS,
    requested_cpu_milli=100, requested_memory_bytes=1, node_id="worker", accepted=True, pod_uid="pod",
    service_uid="service",
)  # fmt: skip
STOPPED = replace(STACK, desired=Desired.STOPPED, status=StackStatus.STOPPED, pod_uid=None)


def stack(**changes: Any) -> Stack:
    return replace(STACK, **changes)


def pod(name: str = NAME, **changes: Any) -> PodState:
    made = PodState(
        name=name, uid="pod", resource_version="1", instance="default", stack_id=name, node_name="worker",
        phase="Running", reason="", message="", ready=True, scheduled=True, unschedulable_message="", deleting=False,
        disruption="", created_at=NOW - 3600 * NANOSECONDS, containers=(),
    )  # fmt: skip
    return replace(made, **changes)


def service(name: str = SERVICE, **changes: Any) -> ServiceState:
    made = ServiceState(
        name=name, uid="service", instance="default", stack_id=name.removeprefix("svc-"), node_ports=(31001,),
        deleting=False, created_at=NOW - 3600 * NANOSECONDS, selects=name.removeprefix("svc-"),
        expires_at=STACK.ttl_expires_at, desired=RUNNING,
    )  # fmt: skip
    return replace(made, **changes)

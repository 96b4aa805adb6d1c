"""The shared cases of the contract, as data: what a pod spec may request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stackd.errors import InvalidRequest
from stackd.podspec import parse_target_ports, sanitize
from tests.unit.podspec.specs import DEFAULT_POLICY

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("cases.json").read_text())
ACCEPTED = [case for case in CASES if case["expect"] == "accept"]
REJECTED = [case for case in CASES if case["expect"] == "reject"]


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: str(case["name"]))
def test_an_acceptable_spec_comes_back_sanitized_byte_for_byte(case: dict[str, Any]) -> None:
    spec = sanitize(case["pod_spec"], parse_target_ports(case["target_port"]), DEFAULT_POLICY)
    assert spec.text == case["sanitized"]
    assert spec.requested_cpu_milli == case["requested_cpu_milli"]
    assert spec.requested_memory_bytes == case["requested_memory_bytes"]


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: str(case["name"]))
def test_a_sanitized_spec_sanitizes_to_itself(case: dict[str, Any]) -> None:
    ports = parse_target_ports(case["target_port"])
    spec = sanitize(case["pod_spec"], ports, DEFAULT_POLICY)
    assert sanitize(spec.text, ports, DEFAULT_POLICY) == spec


@pytest.mark.parametrize("case", REJECTED, ids=lambda case: str(case["name"]))
def test_an_unacceptable_spec_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        sanitize(case["pod_spec"], parse_target_ports(case["target_port"]), DEFAULT_POLICY)


def test_every_case_says_what_to_expect() -> None:
    assert len(ACCEPTED) + len(REJECTED) == len(CASES) == 52

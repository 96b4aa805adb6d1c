"""CPU, memory and storage: for each container, and for the pod as a whole."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.podspec.specs import admit, container, manifest, reasons, with_init

ALWAYS = {"restartPolicy": "Always"}


def limits(cpu: str, memory: str = "1Mi") -> dict[str, Any]:
    return {"resources": {"limits": {"cpu": cpu, "memory": memory}}}


def settled(**resources: Any) -> dict[str, Any]:
    pod = manifest(container(resources=resources))
    found = pod["spec"]["containers"][0]["resources"]
    assert found["limits"] == found["requests"]
    assert found["limits"] is not found["requests"]
    return dict(found["limits"])


@pytest.mark.parametrize(
    ("requests", "given_limits", "both"),
    [
        ({"cpu": "50m", "memory": "64Mi"}, {"cpu": "200m", "memory": "32Mi"}, {"cpu": "200m", "memory": "64Mi"}),
        ({"cpu": 1, "memory": 1e9}, {}, {"cpu": "1", "memory": "1G"}),
        ({"cpu": 0.1}, {"memory": 134217728}, {"cpu": "100m", "memory": "134217728"}),
        ({"cpu": "0.0001", "memory": "100m"}, {}, {"cpu": "1m", "memory": "1"}),
        ({"cpu": "1", "memory": "1Gi"}, {"ephemeral-storage": "1.5Gi"}, {"ephemeral-storage": "1536Mi"}),
        ({"cpu": "1.0005", "memory": "1.5Gi"}, {}, {"cpu": "1001m", "memory": "1536Mi"}),
    ],
)
def test_the_larger_of_request_and_limit_becomes_both(
    requests: dict[str, Any], given_limits: dict[str, Any], both: dict[str, str]
) -> None:
    assert settled(requests=requests, limits=given_limits).items() >= both.items()


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (None, ["resources.cpu: is required", "resources.memory: is required"]),
        ({"limits": {"cpu": "1"}}, ["resources.memory: is required"]),
        ({"limits": {"cpu": "1", "memory": "0"}}, ["resources.limits.memory: must be more than zero"]),
        ({"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "-1"}}, ["resources.requests.cpu: must be more"]),
        ({"limits": {"cpu": "2M", "memory": "1"}}, ["resources.limits.cpu: is more CPU than any node has"]),
        ({"limits": {"cpu": "1", "memory": "1Ei"}}, ["resources.limits.memory: is more than any node has"]),
        ({"limits": {"cpu": "1", "memory": "1e100"}}, ["resources.limits.memory: too large"]),
        ({"limits": {"cpu": "x", "memory": None}}, ["limits.cpu: not a quantity", "limits.memory: must be a quantity"]),
        (
            {"limits": {"cpu": "1", "memory": "1", "nvidia.com/gpu": 1}},
            ['resources.limits["nvidia.com/gpu"]: not accepted, unless policy.extended_resources allows it'],
        ),
        (
            {"limits": {"cpu": "1", "memory": "1", "hugepages-2Mi": "2Mi"}},
            ['resources.limits["hugepages-2Mi"]: not accepted'],
        ),
        (
            {"limits": {"cpu": "1", "memory": "1"}, "claims": []},
            ["resources.claims: device claims are not available"],
        ),
    ],
)
def test_what_is_wrong_with_resources_is_named(resources: Any, expected: list[str]) -> None:
    found = reasons(container(resources=resources))
    assert len(found) == len(expected)
    assert all(part in reason for part, reason in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("init", "milli"),
    [
        ([], 100),
        ([limits("50m")], 100),
        ([limits("300m")], 300),
        ([limits("300m"), limits("200m")], 300),
        ([{**limits("50m"), **ALWAYS}], 150),
        ([{**limits("50m"), **ALWAYS}, limits("200m")], 250),
        ([limits("200m"), {**limits("50m"), **ALWAYS}], 200),
        ([{**limits("50m"), **ALWAYS}, {**limits("60m"), **ALWAYS}, limits("10m")], 210),
        ([{**limits("50m"), **ALWAYS}, limits("100m"), {**limits("60m"), **ALWAYS}], 210),
    ],
)
def test_sidecars_count_into_the_sum_and_other_init_containers_by_the_peak(init: list[Any], milli: int) -> None:
    admitted = admit(with_init(*init))
    assert admitted.requested_cpu_milli == milli


def test_all_containers_count() -> None:
    pod = container()
    pod["spec"]["containers"].append({"name": "b", "image": "b:1", **limits("2", "1Gi")})
    admitted = admit(pod)
    assert (admitted.requested_cpu_milli, admitted.requested_memory_bytes) == (2100, 2**27 + 2**30)

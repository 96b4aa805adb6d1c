"""A pod's totals and its defaults: leaving an amount out does not get a pod past a maximum."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from stackd.errors import InvalidPodSpec
from stackd.podspec import Policy
from stackd.quantity import parse
from tests.unit.podspec.specs import admit, container, manifest, reasons, seed, with_init

STORAGE = "ephemeral-storage"
DISK = Policy(max_ephemeral_storage="8Gi")
MEMORY = Policy(max_memory="1Gi", empty_dir_memory=True)
AMOUNTS = {"cpu": "100m", "memory": "128Mi"}


def pod(*storage: str | None, dirs: tuple[dict[str, Any], ...] = (), init: tuple[dict[str, Any], ...] = ()) -> Any:
    """A pod with a container for each amount of disk (None: no amount) and an emptyDir for each of ``dirs``."""
    made, own = seed(), {"image": "a:1", "ports": [{"containerPort": 80}]}
    made["spec"] = {
        "containers": [
            own | {"name": f"c{at}", "resources": {"limits": limits(one)}} for at, one in enumerate(storage)
        ],
        "initContainers": [
            {"name": f"i{at}", "image": "a:1", "resources": {"limits": AMOUNTS}, **more} for at, more in enumerate(init)
        ],
        "volumes": [{"name": f"v{at}", "emptyDir": one} for at, one in enumerate(dirs)],
    }
    return made


def limits(storage: str | None) -> dict[str, str]:
    return AMOUNTS if storage is None else {**AMOUNTS, STORAGE: storage}


def disk(spec: dict[str, Any]) -> list[str | None]:
    assert all(one["resources"]["limits"] == one["resources"]["requests"] for one in spec["containers"])
    return [one["resources"]["limits"].get(STORAGE) for one in spec["containers"]]


IN_MEMORY: dict[str, Any] = {"medium": "Memory"}


@pytest.mark.parametrize(
    ("policy", "storage", "dirs", "given_disk", "given_sizes"),
    [
        (DISK, (None, None, None), (), ["2730Mi", "2730Mi", "2730Mi"], []), (DISK, ("1Gi", None), (), ["1Gi", "7Gi"], []),
        (DISK, ("8Gi",), (), ["8Gi"], []), (DISK, (None,), ({},), ["7Gi"], ["1Gi"]),
        (DISK, (None,), ({"sizeLimit": "512Mi"}, {}), ["6656Mi"], ["512Mi", "1Gi"]),
        (DISK, ("7680Mi",), ({},), ["7680Mi"], ["512Mi"]), (DISK, ("7680Mi", None), ({},), ["7680Mi", "256Mi"], ["256Mi"]),
        (DISK, ("7Gi",), ({"sizeLimit": "1Gi"},), ["7Gi"], ["1Gi"]),
        (MEMORY, (None,), (IN_MEMORY,), [None], ["896Mi"]), (MEMORY, (None,), ({},), [None], ["1Gi"]),
        (MEMORY, (None,), (IN_MEMORY, {**IN_MEMORY, "sizeLimit": "512Mi"}), [None], ["384Mi", "512Mi"]),
        (MEMORY, (None,), ({**IN_MEMORY, "sizeLimit": "896Mi"}, {}), [None], ["896Mi", "1Gi"]),
    ],
)  # fmt: skip
def test_the_largest_amount_is_what_a_pod_has_that_names_none(
    policy: Policy, storage: tuple[str | None, ...], dirs: tuple[Any, ...], given_disk: Any, given_sizes: list[str]
) -> None:
    spec = manifest(pod(*storage, dirs=dirs), policy)["spec"]
    assert disk(spec) == given_disk
    assert [one["emptyDir"].get("sizeLimit") for one in spec.get("volumes", ())] == given_sizes


ONE_GI: dict[str, Any] = {"sizeLimit": "1Gi"}
NO_SIZE = "has no size, and less than 1Mi of 8Gi (policy.max_ephemeral_storage) is left for it"
IN_ALL = "the pod asks for more than 8Gi in containers and emptyDirs (policy.max_ephemeral_storage)"
FULL = "the pod asks for more than 1Gi in containers and emptyDirs (policy.max_memory)"


@pytest.mark.parametrize(
    ("policy", "storage", "dirs", "reason"),
    [
        (DISK, ("9Gi",), (), f"spec ({STORAGE}): the pod asks for more than 8Gi (policy.max_ephemeral_storage)"),
        (DISK, ("7680Mi",), (ONE_GI,), f"spec ({STORAGE}): {IN_ALL}"),
        (DISK, (None,), (ONE_GI,) * 9, f"spec ({STORAGE}): {IN_ALL}"),
        (DISK, ("8Gi", None), (), f"spec.containers[1]: {NO_SIZE}"),
        (DISK, ("8Gi",), ({},), f"spec.volumes[0].emptyDir: {NO_SIZE}"),
        (DISK, (None,), (ONE_GI,) * 8, f"spec.containers[0]: {NO_SIZE}"),
        (MEMORY, (None,), (IN_MEMORY | ONE_GI,), f"spec (memory): {FULL}"),
    ],
)  # fmt: skip
def test_more_than_the_maximum_is_refused_wherever_it_is_asked_for(
    policy: Policy, storage: tuple[str | None, ...], dirs: tuple[dict[str, Any], ...], reason: str
) -> None:
    (only,) = reasons(pod(*storage, dirs=dirs), policy)
    assert only.startswith(reason)


SIZES = st.sampled_from([None, "1", "100Mi", "0.5Gi", "1Gi", "3G"])
DIRS = st.tuples(SIZES, st.booleans()).map(
    lambda pair: ({"sizeLimit": pair[0]} if pair[0] else {}) | ({"medium": "Memory"} if pair[1] else {})
)
POLICIES = st.builds(
    Policy, max_ephemeral_storage=st.sampled_from(["", "10Mi", "1Gi", "4Gi", "5G"]), empty_dir_memory=st.just(True),
    max_memory=st.sampled_from(["", "512Mi", "4Gi"]), empty_dir_size=st.sampled_from(["", "256Mi", "4Gi"]),
)  # fmt: skip


INIT = st.sampled_from([{}, {"restartPolicy": "Always"}])


@settings(deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=4), st.lists(DIRS, max_size=5), st.lists(INIT, max_size=3), POLICIES)
def test_no_pod_has_more_than_the_policy_says(
    storage: list[str | None], dirs: list[dict[str, Any]], init: list[dict[str, Any]], policy: Policy
) -> None:
    try:
        admitted = admit(pod(*storage, dirs=tuple(dirs), init=tuple(init)), policy)
    except InvalidPodSpec:
        event("refused")
        return
    event("admitted")
    assert admit(admitted.text, policy) == admitted
    spec: Any = admitted.manifest["spec"]
    whole = {"Memory": parse("128Mi").value * len(storage), None: 0}
    for volume in spec.get("volumes", ()):
        source = volume["emptyDir"]
        if policy.empty_dir_size or (policy.max_memory and policy.max_ephemeral_storage):
            assert source["sizeLimit"]
        whole[source.get("medium")] += parse(source.get("sizeLimit", "0")).value
    if policy.max_memory:
        assert whole["Memory"] <= parse(policy.max_memory).value
    if policy.max_ephemeral_storage:
        amounts = [one["resources"]["limits"][STORAGE] for one in spec["containers"]]
        assert whole[None] + sum(parse(amount).value for amount in amounts) <= parse(policy.max_ephemeral_storage).value


# ---- CPU, memory and storage: for each container, and for the pod as a whole


@pytest.mark.parametrize(
    ("requests", "given_limits", "both"),
    [
        ({"cpu": "50m", "memory": "64Mi"}, {"cpu": "200m", "memory": "32Mi"}, {"cpu": "200m", "memory": "64Mi"}),
        ({"cpu": 0.1}, {"memory": 134217728}, {"cpu": "100m", "memory": "134217728"}),
        ({"cpu": "0.0001", "memory": "100m"}, {}, {"cpu": "1m", "memory": "1"}),
        ({"cpu": "1", "memory": "1Gi"}, {"ephemeral-storage": "1.5Gi"}, {"ephemeral-storage": "1536Mi"}),
        ({"cpu": "1.0005", "memory": "1.5Gi"}, {}, {"cpu": "1001m", "memory": "1536Mi"}),
    ],
)
def test_the_larger_amount_becomes_both(
    requests: dict[str, Any], given_limits: dict[str, Any], both: dict[str, str]
) -> None:
    pod = manifest(container(resources={"requests": requests, "limits": given_limits}))
    found = pod["spec"]["containers"][0]["resources"]
    assert found["limits"] == found["requests"]
    assert found["limits"].items() >= both.items()


def limits_of(cpu: str, restart: str = "") -> dict[str, Any]:
    return {"resources": {"limits": {"cpu": cpu, "memory": "1Mi"}}} | ({"restartPolicy": restart} if restart else {})


END50, END100, END200, END300 = map(limits_of, ("50m", "100m", "200m", "300m"))
SIDE50, SIDE60 = limits_of("50m", "Always"), limits_of("60m", "Always")


@pytest.mark.parametrize(
    ("init", "milli"),
    [
        ([], 100), ([END50], 100), ([END300, END200], 300), ([SIDE50], 150), ([SIDE50, END200], 250),
        ([END200, SIDE50], 200), ([SIDE50, SIDE60, END50], 210), ([SIDE50, END100, SIDE60], 210),
    ],
)  # fmt: skip
def test_sidecars_count_into_the_sum_and_other_init_containers_by_the_peak(init: list[Any], milli: int) -> None:
    assert admit(with_init(*init)).requested_cpu_milli == milli

"""The nodes of an embedded cluster report the same as the kubelets of real machines."""

from __future__ import annotations

import pytest

from stackd.embedded import NodeSpec
from stackd.embedded.nodes import new_node
from stackd.quantity import parse
from tests.embedded.wire import Json, fast, running

RESOURCES = {"cpu", "ephemeral-storage", "hugepages-1Gi", "hugepages-2Mi", "memory", "pods"}


async def test_memory_is_in_kibibytes_disk_in_bytes_and_the_cpu_odd() -> None:
    async with running(fast()) as wire:
        nodes = (await wire.get("/api/v1/nodes")).body["items"]
    for node in nodes:
        allocatable: Json = node["status"]["allocatable"]
        assert allocatable.keys() == node["status"]["capacity"].keys() == RESOURCES
        assert allocatable["memory"].endswith("Ki")
        assert allocatable["ephemeral-storage"].isdigit()
        assert allocatable["cpu"].endswith("m")
        assert node["spec"]["podCIDRs"] == [node["spec"]["podCIDR"]]


@pytest.mark.parametrize("memory", ["1Gi", "512Mi", "1000Gi", "1000000", "24581684Ki"])
def test_no_machine_has_a_round_number_of_mebibytes(memory: str) -> None:
    reported = new_node(NodeSpec(name="n", memory=memory), 0)["status"]["allocatable"]["memory"]
    assert not reported.endswith("i") or reported.endswith("Ki")
    assert 0 <= parse(reported).whole - parse(memory).whole <= 4096


def test_a_machine_has_more_than_pods_may_use() -> None:
    status = new_node(NodeSpec(name="n", cpu="1930m", memory="3465816Ki", ephemeral_storage="18242267924"), 0)["status"]
    assert status["capacity"]["cpu"] == "2"
    assert status["capacity"]["memory"] == "3568216Ki"
    assert status["capacity"]["ephemeral-storage"].endswith("Ki")
    assert (
        parse(status["capacity"]["ephemeral-storage"]).whole > parse(status["allocatable"]["ephemeral-storage"]).whole
    )


async def test_amounts_are_kept_in_canonical_form_to_the_thousandth() -> None:
    given = {"cpu": "0.1u", "memory": "131072Ki", "ephemeral-storage": "1e3"}
    async with running(fast()) as wire:
        body = await wire.make_pod(resources={"limits": given})
    assert body["spec"]["containers"][0]["resources"]["limits"] == {
        "cpu": "1m",
        "ephemeral-storage": "1e3",
        "memory": "128Mi",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1x", "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
        ("", "quantities must match the regular expression"),
        ("1mi", "unable to parse quantity's suffix"),
    ],
)
async def test_what_is_no_quantity_is_refused_in_the_servers_words(text: str, said: str) -> None:
    body = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": text}}}]}}
    async with running(fast()) as wire:
        answer = await wire.post("/api/v1/namespaces/rec/pods", body)
    assert (answer.status, said in answer.message) == (400, True)

"""The Lease: how it is read and written; of two changes of the same version one is refused."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from stackd.errors import ClusterUnavailable
from stackd.kube.client import Cluster
from stackd.kube.labels import lease_name
from stackd.kube.lease import Lease, Leases, is_older, lease_manifest, read_lease
from tests.kube.following import then
from tests.kube.recorded import recording
from tests.kube.wire import NAMESPACE, Wire, items, page, says

MINE = Lease(
    holder="vm1/f1",
    duration=30,
    acquired_at=1_770_688_946_535_664_123,
    renewed_at=1_770_688_947_000_000_999,
    transitions=2,
    file_id="f1",
    lock_id="l1",
    epoch=7,
    sequence=1234,
)
PATH = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/stackd-default"


def test_each_instance_has_a_name_of_its_own_that_kubernetes_takes() -> None:
    assert lease_name("default") == "stackd-default"
    assert lease_name("a.b-c") == "stackd-a.b-c"
    odd = ["Red_Team", "red_team", "red-team", "red.team", "RED_TEAM", "a..b", "X" * 63, "_"]
    names = {lease_name(instance) for instance in odd}
    assert len(names) == len(odd)
    assert all(re.fullmatch(r"stackd(-[a-z0-9.]+)+", name) and len(name) < 100 for name in names)


def test_what_is_written_is_what_is_read() -> None:
    sent = lease_manifest(MINE, namespace="stacks", instance="default")
    stored = sent | {"metadata": sent["metadata"] | {"resourceVersion": "5", "uid": "u"}}
    found = read_lease(stored)
    rounded = {"acquired_at": 1_770_688_946_535_664_000, "renewed_at": 1_770_688_947_000_000_000}
    assert found == replace(MINE, version="5", uid="u", **rounded)  # type: ignore[arg-type]
    assert sent == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": "stackd-default",
            "namespace": "stacks",
            "labels": {"app.kubernetes.io/managed-by": "stackd", "stackd.io/instance": "default"},
            "annotations": {
                "stackd.io/file-id": "f1",
                "stackd.io/lock-id": "l1",
                "stackd.io/epoch": "7",
                "stackd.io/sequence": "1234",
            },
        },
        "spec": {
            "holderIdentity": "vm1/f1",
            "leaseTransitions": 2,
            "leaseDurationSeconds": 30,
            "acquireTime": "2026-02-10T02:02:26.535664Z",
            "renewTime": "2026-02-10T02:02:27.000000Z",
        },
    }


def test_a_change_is_one_of_that_very_version_and_keeps_what_others_have_written() -> None:
    raw = recording("lease-patch-200")["response"]["body"]
    raw["metadata"]["labels"]["team"] = "blue"
    raw["spec"]["strategy"] = "OldestEmulationVersion"
    found = read_lease(raw)
    assert (found.takeover, found.file_id) == ("vm2", "f-1")
    sent = lease_manifest(replace(found, takeover="", sequence=3), namespace="rec", instance="default")
    metadata = sent["metadata"]
    assert (metadata["resourceVersion"], metadata["uid"]) == (found.version, raw["metadata"]["uid"])
    assert metadata["labels"]["team"] == "blue"
    assert metadata["annotations"] == {"stackd.io/file-id": "f-1", "stackd.io/sequence": "3"}
    assert sent["spec"]["strategy"] == "OldestEmulationVersion"


@pytest.mark.parametrize("text", ["", "-1", "1.5", "a", "\u0661", "9" * 30])
def test_what_somebody_has_made_of_the_annotations_is_not_known(text: str) -> None:
    raw = recording("lease-get-200")["response"]["body"]
    raw["metadata"]["annotations"] = {"stackd.io/epoch": text, "stackd.io/sequence": text}
    found = read_lease(raw)
    assert (found.epoch, found.sequence, found.file_id, found.lock_id) == (None, None, "", "")
    assert found.holder == "vm1/f-1"


def test_a_lease_that_says_nothing_is_nobodys() -> None:
    found = read_lease(recording("lease-create-201-empty")["response"]["body"])
    assert (found.holder, found.duration, found.renewed_at, found.transitions) == ("", 0, None, 0)


def test_versions_are_compared_where_they_are_of_one_object() -> None:
    one = Lease(holder="", uid="u", version="9")
    assert is_older(one, replace(one, version="10"))
    assert not is_older(replace(one, version="10"), one)
    assert not is_older(one, one)
    assert not is_older(one, replace(one, version="10", uid="another"))
    assert not is_older(replace(one, version="x"), replace(one, version="y"))


def stored(lease: Lease, version: int, instance: str = "default") -> dict[str, Any]:
    """The Lease as the API server would return it."""
    raw = lease_manifest(lease, namespace=NAMESPACE, instance=instance)
    raw["metadata"] |= {"uid": f"uid-of-{instance}", "resourceVersion": str(version)}
    return raw


async def test_it_is_followed_through_its_end_and_another_one_is_not(cluster: Cluster, wire: Wire) -> None:
    """The field selector is in the query string, which a proxy may drop."""
    other, mine = stored(MINE, 7, "green"), stored(MINE, 8)
    wire.on("GET", PATH.rpartition("/")[0], says(items(other)))
    wire.watch("leases", then(("MODIFIED", other), ("ADDED", mine), ("DELETED", stored(MINE, 9))))
    async with asyncio.timeout(30), aclosing(Leases(cluster).follow()) as followed:
        assert [await anext(followed) for _ in range(3)] == [None, read_lease(mine), None]


def without(path: str) -> dict[str, Any]:
    """A Lease without one of its parts."""
    lease = stored(MINE, 5)
    *parents, last = path.split(".")
    part = lease
    for parent in parents:
        part = part[parent]
    del part[last]
    return lease


@pytest.mark.parametrize(
    "answer",
    [
        page("<html>Sign in</html>"),
        page("not found", 404),
        says({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
        *(
            says(without(part))
            for part in ("kind", "apiVersion", "metadata.name", "metadata.uid", "metadata.namespace")
        ),
        says(without("metadata.resourceVersion")),
        says(without("kind") | {"kind": "ConfigMap"}),
        says(without("spec") | {"spec": {"holderIdentity": 7}}),
        says(without("spec") | {"spec": {"leaseDurationSeconds": "30"}}),
        says(without("spec") | {"spec": {"renewTime": "yesterday"}}),
    ],
)
async def test_what_is_no_lease_is_nobodys_word_on_who_owns_the_stacks(
    cluster: Cluster, wire: Wire, answer: Any
) -> None:
    wire.on("GET", PATH, *[answer] * 20)
    with pytest.raises(ClusterUnavailable):
        await Leases(cluster).find(timeout=0.2)

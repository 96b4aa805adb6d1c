"""The Lease: how it is read and written; of two changes of the same version one is refused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster, EmbeddedOptions
from stackd.errors import ClusterUnavailable, ObjectExists, PreconditionFailed
from stackd.kube.client import Cluster
from stackd.kube.labels import lease_name
from stackd.kube.lease import Lease, Leases, is_older, lease_manifest, read_lease
from stackd.kube.wire import LEASES
from tests.kube.recorded import recording
from tests.kube.wire import NAMESPACE, Wire, page, says
from tests.target import target_at

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


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedCluster]:
    async with EmbeddedCluster(EmbeddedOptions(serve_node_ports=False, bookmark_interval=0.1)) as running:
        yield running


@pytest.fixture
async def real(embedded: EmbeddedCluster) -> AsyncIterator[Cluster]:
    """A client of the embedded cluster; the namespace exists."""
    target = target_at(embedded.url, namespace="stacks", timeout=30, attempt_timeout=2.0)
    connected = await Cluster.connect(target)
    await connected.ensure_namespace()
    yield connected
    await connected.close()


@pytest.fixture
def leases(real: Cluster) -> Leases:
    return Leases(real)


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


async def test_of_two_who_take_it_at_once_one_gets_it(leases: Leases) -> None:
    assert await leases.find() is None
    made = await leases.create(MINE)
    assert await leases.find() == made
    with pytest.raises(ObjectExists):
        await leases.create(replace(MINE, holder="vm2/f2"))
    taken = await asyncio.gather(
        *(leases.update(replace(made, holder=f"vm{number}/f")) for number in (2, 3, 4)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in taken) == ["Lease", "PreconditionFailed", "PreconditionFailed"]
    (holder,) = [one.holder for one in taken if isinstance(one, Lease)]
    now = await leases.find()
    assert now is not None
    assert now.holder == holder


@pytest.mark.parametrize("action", ["lost_reply", "cut", "hang"])
async def test_a_change_whose_answer_was_lost_is_refused_and_found_to_be_done(
    embedded: EmbeddedCluster, leases: Leases, action: str
) -> None:
    made = await leases.create(MINE)
    embedded.faults.add_fault(action=action, verb="update", resource="leases", count=1)
    try:
        changed = await leases.update(replace(made, sequence=2000))
    except PreconditionFailed:
        assert action == "lost_reply"
        found = await leases.find()
        assert found is not None
        changed = found
    assert changed.sequence == 2000


async def test_a_lease_that_is_gone_is_not_made_by_a_change_of_it(real: Cluster, leases: Leases) -> None:
    made = await leases.create(MINE)
    await real.answer(real.on("delete", LEASES, leases.name, body=b"{}"))
    with pytest.raises(PreconditionFailed):
        await leases.update(replace(made, sequence=2000))
    assert await leases.find() is None


async def test_a_lease_of_another_instance_is_another_one(real: Cluster, leases: Leases) -> None:
    other = await Cluster.connect(replace(real.target, instance="green"))
    try:
        await leases.create(MINE)
        assert await Leases(other).find() is None
        await Leases(other).create(replace(MINE, holder="vm9"))
    finally:
        await other.close()
    found = await leases.find()
    assert found is not None
    assert found.holder == "vm1/f1"


async def test_the_lease_of_another_instance_is_not_followed_if_the_query_string_is_dropped(
    embedded: EmbeddedCluster, real: Cluster, leases: Leases
) -> None:
    other = await Cluster.connect(target_at(embedded.url, namespace="stacks", instance="a"))
    try:
        await Leases(other).create(MINE)
    finally:
        await other.close()
    embedded.faults.add_fault(action="no_query", verb="list", resource="leases.*")
    async with asyncio.timeout(30), aclosing(leases.follow()) as followed:
        assert await anext(followed) is None


async def test_it_is_followed_through_changes_its_end_and_a_new_one(real: Cluster, leases: Leases) -> None:
    async with asyncio.timeout(30), aclosing(leases.follow()) as followed:
        assert await anext(followed) is None
        made = await leases.create(MINE)
        assert await anext(followed) == made
        changed = await leases.update(replace(made, sequence=2000))
        assert await anext(followed) == changed
        await real.answer(real.on("delete", LEASES, leases.name, body=b"{}"))
        assert await anext(followed) is None
        again = await leases.create(MINE)
        assert await anext(followed) == again
    assert leases.health.last_error == ""


async def test_without_its_namespace_there_is_none_and_none_can_be_made(real: Cluster) -> None:
    other = await Cluster.connect(replace(real.target, namespace="nowhere"))
    try:
        assert await Leases(other).find() is None
        with pytest.raises(ClusterUnavailable, match="the namespace nowhere does not exist"):
            await Leases(other).create(MINE)
    finally:
        await other.close()


def without(path: str) -> dict[str, Any]:
    """A Lease without one of its parts."""
    lease = lease_manifest(MINE, namespace=NAMESPACE, instance="default")
    lease["metadata"] |= {"uid": "u", "resourceVersion": "5"}
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

"""The faults and rights without which the tests that use them would pass: each does what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from stackd.embedded import Rule, User, everything
from tests.embedded.wire import Wire, fast, pod, running
from tests.harness import until

LEASES = "/apis/coordination.k8s.io/v1/namespaces/rec/leases"
PODS = "/api/v1/namespaces/rec/pods"
MAPS = "/api/v1/namespaces/rec/configmaps"


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with running(fast()) as cluster:
        yield cluster


@pytest.mark.parametrize(("action", "there"), [("lost_reply", 200), ("cut", 404), ("late", 404)])
async def test_a_connection_is_cut_before_after_or_long_before_the_work(wire: Wire, action: str, there: int) -> None:
    wire.cluster.faults.add_fault(action=action, verb="create", name="one", count=1, seconds=1.0)
    await wire.make_pod("other")
    with pytest.raises(aiohttp.ClientConnectionError):
        await wire.post(PODS, pod("one"))
    assert (await wire.get(f"{PODS}/one")).status == there
    assert wire.cluster.counts.requests["create", "pods", 0] == 1
    if action == "late":
        await until(lambda: wire.get(f"{PODS}/one"), lambda answer: answer.status == 200)


@pytest.mark.parametrize("mute", [True, False], ids=["mute", "frozen"])
async def test_a_half_open_watch_says_nothing_until_the_faults_are_cleared(*, mute: bool) -> None:
    async with running(fast(bookmark_interval=0.01)) as wire:
        if mute:
            wire.cluster.faults.add_fault(action="mute", verb="watch")
        async with wire.watching(f"{MAPS}?watch=true&allowWatchBookmarks=true") as watched:
            if not mute:
                wire.cluster.faults.freeze_watches()
            await wire.post(MAPS, {"metadata": {"name": "m"}})
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    while True:
                        await watched.answer.content.readline()
            wire.cluster.faults.clear()
            assert (await watched.next())["type"] in {"ADDED", "BOOKMARK"}


async def test_a_stale_list_is_that_of_the_moment_that_was_remembered(wire: Wire) -> None:
    await wire.post(MAPS, {"metadata": {"name": "one"}})
    wire.cluster.faults.remember()
    then = (await wire.get(MAPS)).body
    await wire.post(MAPS, {"metadata": {"name": "two"}})
    await wire.delete(f"{MAPS}/one")
    wire.cluster.faults.add_fault(action="stale", resource="configmaps", count=2)
    assert (await wire.get(MAPS)).body == then
    assert (await wire.get(f"{MAPS}/two")).status == 200, "only lists are stale"
    assert [item["metadata"]["name"] for item in (await wire.get(MAPS)).body["items"]] == ["two"]


async def test_a_rule_for_a_named_object_covers_only_that_name() -> None:
    """Kubernetes does so: it takes the name from ``fieldSelector=metadata.name=…``."""
    verbs, group, ours = frozenset({"get", "list", "watch"}), frozenset({"coordination.k8s.io"}), frozenset({"ours"})
    named = Rule(verbs=verbs, resources=frozenset({"leases"}), groups=group, names=ours)
    users = (User(token="admin", name="admin", rules=(everything(),)), User(token="t", name="reader", rules=(named,)))
    async with running(fast(users=users)) as admin:
        wire = admin.as_user("t")
        assert (await wire.get(f"{LEASES}?fieldSelector=metadata.name%3Dours")).status == 200
        async with wire.watching(f"{LEASES}?watch=1&fieldSelector=metadata.name%3Dours") as watched:
            assert watched.answer.status == 200
        theirs, not_ours = "?fieldSelector=metadata.name%3Dtheirs", "?fieldSelector=metadata.name%21%3Dours"
        for query in ("", "/theirs", theirs, not_ours, "?watch=1"):
            assert (await wire.get(LEASES + query)).status == 403
        assert (await admin.as_user("other").post("/__faults__", {"do": "clear"})).status == 401


async def test_only_its_owner_reads_a_kubeconfig(wire: Wire, tmp_path: Path) -> None:
    """It has a token, and any local user reaches the port."""
    wire.cluster.write_kubeconfig(tmp_path / "kubeconfig", token="secret")
    assert (tmp_path / "kubeconfig").stat().st_mode & 0o077 == 0

from __future__ import annotations

from stackd.embedded import ManualClock
from tests.embedded.wire import Wire, fast, running

SERVICES = "/api/v1/namespaces/rec/services"
PODS = "/api/v1/namespaces/rec/pods"


async def test_services_go_with_the_pod_that_owns_them(wire: Wire) -> None:
    owner = await wire.make_pod("owner")
    await wire.make_service("svc-a", owner=owner)
    await wire.make_service("svc-b", owner=owner)
    await wire.make_service("svc-free")
    await wire.delete(f"{PODS}/owner?gracePeriodSeconds=0")
    await wire.until_gone(f"{SERVICES}/svc-a")
    await wire.until_gone(f"{SERVICES}/svc-b")
    assert (await wire.get(f"{SERVICES}/svc-free")).status == 200


async def test_a_service_whose_owner_never_was_is_collected(wire: Wire) -> None:
    owner = {"metadata": {"name": "ghost", "uid": "00000000-0000-0000-0000-000000000001"}}
    await wire.make_service("svc-a", owner=owner)
    await wire.until_gone(f"{SERVICES}/svc-a")


async def test_an_owner_of_the_same_name_is_another_owner(wire: Wire) -> None:
    owner = await wire.make_pod("owner")
    await wire.delete(f"{PODS}/owner?gracePeriodSeconds=0")
    await wire.make_pod("owner")
    await wire.make_service("svc-a", owner=owner)
    await wire.until_gone(f"{SERVICES}/svc-a")


async def test_a_deletion_that_would_leave_orphans_is_refused(wire: Wire) -> None:
    await wire.make_pod("owner")
    answer = await wire.delete(f"{PODS}/owner", {"gracePeriodSeconds": 0, "propagationPolicy": "Orphan"})
    assert answer.status == 400
    assert (await wire.get(f"{PODS}/owner")).status == 200


async def test_one_owner_left_is_enough() -> None:
    clock = ManualClock()
    async with running(fast(clock=clock)) as wire:
        first, second = await wire.make_pod("first"), await wire.make_pod("second")
        await wire.make_service("svc-a", owner=first)
        references = [
            {"apiVersion": "v1", "kind": "Pod", "name": one["metadata"]["name"], "uid": one["metadata"]["uid"]}
            for one in (first, second)
        ]
        await wire.patch(f"{SERVICES}/svc-a", {"metadata": {"ownerReferences": references}})
        await wire.delete(f"{PODS}/first?gracePeriodSeconds=0")
        clock.advance(60)
        assert (await wire.get(f"{SERVICES}/svc-a")).status == 200
        await wire.delete(f"{PODS}/second?gracePeriodSeconds=0")
        clock.advance(60)
        assert (await wire.get(f"{SERVICES}/svc-a")).status == 404

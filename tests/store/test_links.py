"""The links that a file knows, and which of them were revoked."""

from __future__ import annotations

import asyncio
import threading

import pytest

from stackd.errors import Conflict
from stackd.store import Store
from stackd.store.links import KeptLink
from stackd.store.transaction import Transaction
from tests.store.building import ALICE, HOUR, START, TestClock, busy


def link(number: int) -> KeptLink:
    name = f"link-{number:016x}"
    return KeptLink(
        link_id=name, name="x", labels={}, templates=(), stacks=1, total=0, expires_at=START + HOUR, by=ALICE
    )


async def test_a_revocation_is_in_force_once_it_is_committed_whoever_waits(store: Store) -> None:
    one = link(1)
    await store.links.add(one)
    reached, go_on = threading.Event(), threading.Event()

    def hold(_: Transaction) -> None:
        reached.set()
        assert go_on.wait(30)

    async with busy(store):  # both are one commit
        revoking = asyncio.ensure_future(store.links.revoke_one(one.link_id, START + HOUR, None, 0))
        await asyncio.sleep(0)
        holding = asyncio.ensure_future(store._writer.submit(hold))
    await asyncio.to_thread(reached.wait, 30)
    revoking.cancel()
    go_on.set()
    await holding
    assert await store.links.find(one.link_id) is not None
    assert one.link_id in store.links.revoked
    assert one.link_id.removeprefix("link-") in store.links.revocations


async def test_an_expired_revocation_makes_room(
    store: Store, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackd.store.links.MOST_REVOKED", 2)
    for number in (1, 2):
        await store.links.revoke_one(link(number).link_id, START + HOUR, None, 0)
    with pytest.raises(Conflict, match="replace the secret"):
        await store.links.revoke_one(link(3).link_id, START + 2 * HOUR, None, 0)
    clock.advance(3600)
    await store.links.revoke_one(link(3).link_id, START + 2 * HOUR, None, 0)
    assert store.links.revoked.keys() == {link(3).link_id}
    clock.advance(3600)
    await store.purge(clock.now(), keep_jobs_ns=HOUR)
    assert (store.links.revoked, store.links.revocations) == ({}, "")

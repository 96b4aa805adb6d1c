"""A machine is lost with its disk: what has left it before brings everything back on another one."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import PODS
from tests.api.scenes import three
from tests.daemons import daemon, on
from tests.harness import fast_cluster
from tests.players import browser, make_link, settings
from tests.templates import PLAIN

WRITTEN = "from-the-api"


async def test_a_backup_that_left_the_lost_machine_brings_everything_back_on_another(tmp_path: Path) -> None:
    elsewhere, lost, new = (tmp_path / name for name in ("elsewhere", "lost", "new"))
    for folder in (elsewhere, lost, new):
        folder.mkdir()
    async with EmbeddedCluster(fast_cluster()) as cluster:
        copied = {"STACKD_CLUSTER__LEASE_DURATION": "4s", "STACKD_BACKUP__COMMAND": f'cp "$1" {elsewhere}/'}
        async with daemon(lost, on(cluster, lost) | settings(lost) | copied) as process, browser(process.real) as seat:
            at = process.real
            assert (await at.call("PUT", f"/templates/{WRITTEN}", PLAIN.encode())).status == 201
            link = await make_link(at)
            await seat.enter(link)
            played = (await seat.start())["name"]
            await seat.until("running")
            await at.running(three())
            from_template, stopped, deleted = [await at.running(body) for body in ({"template": WRITTEN}, None, None)]
            await at.do("stop", stopped)
            await at.post("/messages", {"text": "The exam ends at noon."}, 201)
            began = time.time()
            code, output = await process.run("backup", str(lost / "09.db"))
            assert code == 0, output
            assert await at.metric("stackd_backup_left_timestamp_seconds") >= began - 1
            timeline = await at.timeline(played)
            await at.delete(deleted)
            await at.do("extend", from_template, ttl="3h")
            await at.running()
            stacks, uids = await at.answers(), pods(cluster)
        await asyncio.to_thread(shutil.rmtree, lost)
        shutil.copy(elsewhere / "09.db", new / "stackd.db")
        async with daemon(new, on(cluster, new) | settings(new) | copied) as process, browser(process.real) as seat:
            at = process.real
            assert await at.answers() == stacks, "also what has happened since the backup"
            assert pods(cluster) == uids
            assert (await at.timeline(played))[: len(timeline)] == timeline
            assert [one["link_id"] for one in (await at.get("/links"))["links"]] == [link["link_id"]]
            assert [one["text"] for one in (await at.get("/messages"))["messages"]] == ["The exam ends at noon."]
            await at.running({"template": WRITTEN})
            await seat.enter(link)
            assert (await seat.until("running"))["name"] == played
            assert await at.metric("stackd_backup_left_timestamp_seconds") == 0, "nothing has left this machine yet"


def pods(cluster: EmbeddedCluster) -> dict[str, str]:
    found = [record.obj["metadata"] for record in cluster.store.of(PODS).in_namespace("stacks")]
    return {metadata["name"]: metadata["uid"] for metadata in found}

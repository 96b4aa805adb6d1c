"""The daemon as a process: signals, exit codes, an embedded cluster, and a file that belongs to another one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.lifecycle.loop import CREATES_AT_ONCE
from stackd.model import RANGE_PREFIX
from tests.daemons import daemon, on, until_leaving
from tests.harness import KEY, Harness, Machine, Reply, eventually, fast_cluster, seed, until
from tests.templates import PLAIN, folder_with

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("signals", [1, 2])
async def test_only_the_first_sigterm_finishes_creates(tmp_path: Path, signals: int) -> None:
    async with (
        EmbeddedCluster(fast_cluster()) as cluster,
        daemon(tmp_path, on(cluster, tmp_path) | {"STACKD_SERVER__SHUTDOWN_TIMEOUT": "60s"}) as process,
    ):
        cluster.faults.add_fault(action="latency", verb="create", resource="pods", seconds=60)
        create = asyncio.create_task(process.real.create())
        await process.real.until_metric("stackd_creates_in_flight", 1)
        process.send(signal.SIGTERM)
        await until_leaving(process.real)
        if signals == 1:
            cluster.faults.end("latency")
            await create
        else:
            process.send(signal.SIGTERM)
        assert await process.ended() == signals - 1
        await asyncio.gather(create, return_exceptions=True)
        assert signals == 2 or not list(tmp_path.glob("stackd.db-wal"))


DEFECT = """
from stackd.cli import main
from stackd.lifecycle import refill

async def create_for_template(*_: object) -> None:
    raise KeyError("uid")

refill.create_for_template = create_for_template
main(["serve"])
"""


async def test_a_defect_in_a_background_task_ends_the_process_with_its_trace_in_the_log(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        env = {**os.environ, **on(cluster, tmp_path), **folder_with(tmp_path, web_1=PLAIN + "pool: 1\n")}
        env |= {"STACKD_LOG__FORMAT": "text", "PYTHONPATH": str(ROOT)}
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", DEFECT, stderr=PIPE, env=env)
        asyncio.get_running_loop().call_later(60, process.send_signal, signal.SIGKILL)
        _, output = await process.communicate()
    assert process.returncode == 1
    assert all(words in output for words in (b"pool web-1 ended unexpectedly", b"Traceback", b"KeyError: 'uid'"))


async def test_the_stacks_of_an_embedded_cluster_outlive_a_restart(tmp_path: Path) -> None:
    """Also without a network policy, and where there is a proxy for HTTP."""
    config = tmp_path / "config.toml"
    config.write_text('[cluster]\nmode = "embedded"\n[stacks]\nrequire_ingress_network_policy = true\n')
    env = {"STACKD_AUTH__KEY": KEY, "STACKD_STATE__PATH": str(tmp_path / "stackd.db"), "STACKD_CONFIG": str(config)}
    env |= {"http_proxy": "http://127.0.0.1:9"}
    async with daemon(tmp_path, env) as process:
        kubeconfig = json.loads((tmp_path / "stackd.db.kubeconfig").read_text())
        pods = kubeconfig["clusters"][0]["cluster"]["server"] + "/api/v1/namespaces/stacks/pods"
        token = kubeconfig["users"][0]["user"]["token"]
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {token}"}, 200)):
            async with process.real.session.get(pods, headers=headers) as answer:
                assert answer.status == status
        process.send(signal.SIGHUP)
        await eventually(lambda: "reloaded" in process.log)
        assert "waits for a restart" not in process.log
        stack_id = await process.real.running()
        process.send(signal.SIGTERM)
        assert await process.ended() == 0
        await process.start()
        await process.real.until_status(stack_id, "running")


@pytest.mark.stackd(edited={"STACKD_STACKS__NAMESPACE": "other", "STACKD_LIMITS__MAX_STACKS": "7"})
async def test_a_reload_for_others_is_refused(at: Harness, caplog: pytest.LogCaptureFixture) -> None:
    await at.create()
    os.kill(os.getpid(), signal.SIGHUP)
    await at.until_metric("stackd_config_reload_successful", 0)
    assert 'stacks.namespace is "stacks", not "other"' in caplog.text
    assert (await at.get("/capacity"))["stacks"] is None, "no other setting of it is in force"


@asynccontextmanager
async def before_the_first_look(vm: Machine, count: int) -> AsyncIterator[tuple[Harness, list[asyncio.Task[Reply]]]]:
    """A stackd that is about to look at its stacks for the first time, and so many creates that have been accepted already."""
    await vm.start()  # then the file is complete
    vm.cluster.faults.add_fault(action="hang", verb="create", resource="services", name=f"{RANGE_PREFIX}.*")
    at = await vm.start(wait=False)
    creating = [asyncio.create_task(at.call("POST", "/stacks", seed())) for _ in range(count)]
    await eventually(lambda: at.rows("SELECT count(*) FROM stacks") == [(count,)])
    yield at, creating
    await asyncio.gather(*creating, return_exceptions=True)


async def test_creates_that_came_before_the_first_look_wait_their_turn(vm: Machine) -> None:
    async with before_the_first_look(vm, 2 * CREATES_AT_ONCE) as (at, creating):
        at.faults.add_fault(action="latency", verb="create", resource="pods", seconds=60)
        at.faults.end("hang")
        await until(lambda: at.objects("services"), lambda seen: len(seen) >= CREATES_AT_ONCE)
        await at.passes(2)
        assert len(await at.objects("services")) == CREATES_AT_ONCE
        at.faults.end("latency")
        await until(at.listed, lambda seen: len(seen) == 2 * CREATES_AT_ONCE)
        assert {(await one).status for one in creating} == {201}


async def test_a_client_that_leaves_while_stackd_asks_whose_cluster_it_is_ends_no_process(vm: Machine) -> None:
    async with before_the_first_look(vm, 1) as (at, (creating,)):
        at.faults.add_fault(action="latency", verb="get", resource="namespaces", seconds=60)
        at.verify_again()
        at.faults.end("hang")
        await at.daemon.ready.wait()
        creating.cancel()
        await eventually(lambda: all(one.abandoned for one in at.daemon.context.creates.values()))
        at.faults.end("latency")
        await at.until_listed(0)
        assert at.counts.total("create", "pods") == 0, "what was decided before the wait is not done"
        assert not await at.pods_and_services()
        assert not at.daemon.context.tasks.failure.done()

"""The daemon as a process: signals, exit codes, and its last log line."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import LEASES
from tests.api.test_templates import PLAIN, folder_with
from tests.harness import KEY, eventually, fast_cluster, seed

SCRIPT = Path(__file__).parents[2] / "stackd.py"


def environment(folder: Path, cluster: EmbeddedCluster | None, **more: str) -> dict[str, str]:
    settings = {
        "STACKD_AUTH__KEY": KEY,
        "STACKD_SERVER__PORT": "0",
        "STACKD_STATE__PATH": str(folder / "stackd.db"),
        "STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "false",
    }
    if cluster is not None:
        cluster.write_kubeconfig(folder / "kubeconfig")
        settings["STACKD_CLUSTER__KUBECONFIG"] = str(folder / "kubeconfig")
    return {**os.environ, **settings, **more}


@asynccontextmanager
async def daemon(env: dict[str, str]) -> AsyncIterator[tuple[Process, str]]:
    """The process and its address, once it is ready."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), "serve", stderr=PIPE, env=env)
    assert process.stderr is not None
    try:
        url = ""
        async with asyncio.timeout(60):
            async for line in process.stderr:
                if found := re.search(r"listening on (127\.0\.0\.1:\d+)", line.decode()):
                    url = f"http://{found[1]}"
                if '"message":"ready' in line.decode():
                    break
        yield process, url
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def post(session: aiohttp.ClientSession, url: str) -> int:
    async with session.post(f"{url}/stacks", json=seed(), headers={"X-API-KEY": KEY}) as answer:
        await answer.read()
        return answer.status


async def test_sigterm_finishes_the_create_in_flight_and_exits_with_zero(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster(fast_cluster()) as cluster,
        daemon(environment(tmp_path, cluster)) as (process, url),
        aiohttp.ClientSession() as session,
    ):
        cluster.faults.pause()
        create = asyncio.create_task(post(session, url))
        await eventually(lambda: cluster.counts.in_flight > 0, lambda: f"nothing is asked of the cluster: {create}")
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: refuses(url))
        cluster.faults.resume()
        assert await create == 201
        async with asyncio.timeout(30):
            assert await process.wait() == 0
        assert not list(tmp_path.glob("stackd.db-wal"))


async def refuses(url: str) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    except OSError:
        return True
    writer.close()
    return False


async def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    async with (
        EmbeddedCluster(fast_cluster()) as cluster,
        daemon(environment(tmp_path, cluster, STACKD_SERVER__SHUTDOWN_TIMEOUT="60s")) as (process, url),
        aiohttp.ClientSession() as session,
    ):
        cluster.faults.pause()
        create = asyncio.create_task(post(session, url))
        await eventually(lambda: cluster.counts.in_flight > 0, lambda: f"nothing is asked of the cluster: {create}")
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: refuses(url))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await process.wait() == 1
        await asyncio.gather(create, return_exceptions=True)
        cluster.faults.resume()


async def run(env: dict[str, str], *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), *arguments, stderr=PIPE, stdout=PIPE, env=env
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode() + err.decode()


def replace_owner(cluster: EmbeddedCluster) -> None:
    """Let vm9 take the Lease, which it never renews."""
    lease = cluster.store.of(LEASES).get("stacks", "stackd-default")
    spec = lease.obj["spec"] | {"holderIdentity": "vm9/0123456789abcdef"}
    cluster.store.update(lease, metadata=lease.obj["metadata"] | {"annotations": {}}, spec=spec)


async def test_an_owner_that_was_replaced_stands_by_in_the_same_process_and_at_the_same_address(tmp_path: Path) -> None:
    """Before, it ended with 1, and only a service manager started it again."""
    async with (
        EmbeddedCluster(fast_cluster()) as cluster,
        daemon(environment(tmp_path, cluster, STACKD_CLUSTER__LEASE_DURATION="1s")) as (process, url),
        aiohttp.ClientSession(headers={"X-API-KEY": KEY}) as session,
    ):
        replace_owner(cluster)

        async def role() -> str:
            async with session.get(f"{url}/owner") as answer:
                return str((await answer.json())["role"])

        async def is_standby() -> bool:
            return await role() == "standby"

        async def owns_again() -> bool:
            return await role() == "owner"

        await eventually(is_standby)
        await eventually(owns_again)  # vm9 does not renew the Lease
        assert await post(session, url) == 201
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await process.wait() == 0


DEFECT = """
from stackd.cli import main
from stackd.lifecycle import refill

async def make_unassigned(*_: object) -> None:
    raise KeyError("uid")

refill.make_unassigned = make_unassigned
main(["serve"])
"""


async def test_a_defect_in_a_background_task_ends_the_process_with_its_trace_in_the_log(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        env = environment(tmp_path, cluster, STACKD_LOG__FORMAT="text", PYTHONPATH=str(SCRIPT.parent))
        env |= folder_with(tmp_path, web_1=PLAIN + "pool: 1\n")
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", DEFECT, stdout=PIPE, stderr=PIPE, env=env)
        async with asyncio.timeout(60):
            _, said = await process.communicate()
        assert process.returncode == 1
        assert "pool web-1 ended unexpectedly" in said.decode()
        assert "Traceback" in said.decode()
        assert "KeyError: 'uid'" in said.decode()


async def test_without_a_key_it_refuses_to_start_and_says_how_to_set_one(tmp_path: Path) -> None:
    env = environment(tmp_path, None)
    del env["STACKD_AUTH__KEY"]
    code, said = await run(env, "serve")
    assert code == 2
    assert "STACKD_AUTH__KEY" in said
    assert "key new" in said


async def test_a_second_daemon_on_the_same_file_says_who_holds_it(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        env = environment(tmp_path, cluster)
        async with daemon(env) as (process, _):
            code, said = await run(env, "serve")
            assert code == 1
            assert str(process.pid) in said


async def test_an_address_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster, daemon(environment(tmp_path, cluster)) as (process, url):
        other = tmp_path / "other"
        other.mkdir()
        env = environment(other, cluster, STACKD_SERVER__PORT=url.rpartition(":")[2])
        code, said = await run(env, "serve")
        assert code == 1
        assert f"address already in use by process {process.pid}" in said
        assert "choose another port with server.port or STACKD_SERVER__PORT" in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    "content", [b"", b"no database, but long enough to be looked at", b"SQLite format 3\0" + b"\0" * 84]
)
async def test_a_file_that_is_not_a_good_one_is_never_replaced_by_a_new_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stackd.db").write_bytes(content)
    code, said = await run(environment(tmp_path, None, STACKD_CLUSTER__MODE="embedded"), "serve")
    assert code == 1
    assert "rebuild" in said
    assert "backup" in said
    assert "Traceback" not in said
    assert (tmp_path / "stackd.db").read_bytes() == content

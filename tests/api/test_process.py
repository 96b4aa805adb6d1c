"""The daemon as a process: signals, exit codes, an embedded cluster, and a file that belongs to another one."""

from __future__ import annotations

import asyncio
import json
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
from stackd.errors import ConfigError
from tests.api.test_templates import PLAIN, folder_with
from tests.harness import KEY, eventually, fast_cluster, harness, seed

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


@pytest.mark.parametrize("signals", [1, 2])
async def test_sigterm_finishes_the_create_in_flight_and_a_second_one_stops_at_once(
    tmp_path: Path, signals: int
) -> None:
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
        if signals == 1:
            cluster.faults.resume()
            assert await create == 201
        else:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await process.wait() == signals - 1
        await asyncio.gather(create, return_exceptions=True)
        cluster.faults.resume()
        assert signals == 2 or not list(tmp_path.glob("stackd.db-wal"))


async def refuses(url: str) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    except OSError:
        return True
    writer.close()
    return False


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


# ---- cluster.mode = "embedded": the command line starts a cluster beside the state


async def stacks_of(session: aiohttp.ClientSession, url: str) -> list[tuple[str, str]]:
    async with session.get(f"{url}/stacks", headers={"X-API-KEY": KEY}) as answer:
        return [(stack["stack_id"], stack["status"]) for stack in (await answer.json())["stacks"]]


async def test_its_stacks_are_there_after_a_restart_also_without_a_network_policy(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[cluster]\nmode = "embedded"\n[stacks]\nrequire_ingress_network_policy = true\n')
    env = environment(tmp_path, None, STACKD_CONFIG=str(config), http_proxy="http://127.0.0.1:9")
    del env["STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY"]
    async with aiohttp.ClientSession() as session:
        async with daemon(env) as (process, url):
            assert await post(session, url) == 201
            before = await stacks_of(session, url)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        async with daemon(env) as (_, url):
            await eventually(lambda: runs_one(session, url), lambda: "the stack does not run again")
            assert [stack_id for stack_id, _ in await stacks_of(session, url)] == [stack_id for stack_id, _ in before]


async def test_its_cluster_answers_whoever_has_the_kubeconfig_and_a_reload_changes_nothing(tmp_path: Path) -> None:
    env = environment(tmp_path, None, STACKD_CLUSTER__MODE="embedded")
    async with aiohttp.ClientSession() as session, daemon(env) as (process, _):
        config = json.loads((tmp_path / "stackd.db.kubeconfig").read_text())
        url, token = config["clusters"][0]["cluster"]["server"], config["users"][0]["user"]["token"]
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {token}"}, 200)):
            async with session.get(f"{url}/api/v1/namespaces/stacks/pods", headers=headers) as answer:
                assert answer.status == status
        assert process.stderr is not None
        process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(60):
            while b"reloaded" not in (line := await process.stderr.readline()):
                assert b"waits for a restart" not in line
        assert b"reloaded: nothing has changed" in line


async def runs_one(session: aiohttp.ClientSession, url: str) -> bool:
    return [status for _, status in await stacks_of(session, url)] == ["running"]


async def test_a_second_process_leaves_the_cluster_of_the_first_alone(tmp_path: Path) -> None:
    env = environment(tmp_path, None, STACKD_CLUSTER__MODE="embedded")
    async with aiohttp.ClientSession() as session, daemon(env) as (process, url):
        code, said = await run(env, "serve")
        assert code == 1
        assert "is held by" in said
        assert f"process {process.pid}" in said
        assert await post(session, url) == 201


# ---- a file with stacks stays with its namespace and instance


ELSEWHERE = [
    ({"STACKD_STACKS__NAMESPACE": "other"}, 'stacks.namespace is "stacks", not "other"'),
    ({"STACKD_CLUSTER__INSTANCE": "other"}, 'cluster.instance is "default", not "other"'),
]


@pytest.mark.parametrize(("settings", "said"), ELSEWHERE)
async def test_a_start_for_others_is_refused_and_ends_nothing(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, cluster=cluster) as at:
            stack_id = (await at.create())["stack_id"]
            before = await at.until_status(stack_id, "running")
        with pytest.raises(ConfigError) as refused:
            async with harness(tmp_path, settings, cluster=cluster):
                pass
        (mistake,) = refused.value.mistakes
        assert f"{tmp_path}/stackd.db holds 1 stacks for which {said}: restore that setting" in mistake
        async with harness(tmp_path, cluster=cluster) as at:
            assert await at.stack(stack_id) == before


async def test_check_refuses_it_while_the_daemon_runs_and_afterwards(tmp_path: Path) -> None:
    elsewhere, said = ELSEWHERE[0]
    async with harness(tmp_path) as at:
        env = environment(tmp_path, at.cluster, **elsewhere)
        assert await run(env, "check") == (0, "the configuration is valid\n"), "a file without stacks may be for others"
        await at.create()
        status, told = await run(env, "check")
        assert (status, said in told, len(told.splitlines())) == (2, True, 1)
        assert (await run(env, "check", "--for-reload"))[0] == 2
    assert await run(env, "check") == (2, told)


async def test_a_reload_refuses_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    edited = {"STACKD_STACKS__NAMESPACE": "other", "STACKD_LIMITS__MAX_STACKS": "7"}
    async with harness(tmp_path, edited=edited) as at:
        await at.create()
        os.kill(os.getpid(), signal.SIGHUP)
        await at.until_metric("stackd_config_reload_successful", 0)
        assert 'stacks.namespace is "stacks", not "other"' in caplog.text
        assert (await at.call("GET", "/capacity")).json["stacks"] is None, "no other setting of it is in force"

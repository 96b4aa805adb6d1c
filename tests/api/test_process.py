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
from click.testing import CliRunner

from stackd.cli import stackd
from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import LEASES
from stackd.errors import ConfigError
from tests.api.test_templates import PLAIN, folder_with
from tests.harness import KEY, Harness, Machine, eventually, fast_cluster, seed, until

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


async def ended(env: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Exit code and output of a process that ends by itself."""
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=PIPE, stdout=PIPE, env=env)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode() + err.decode()


async def post(session: aiohttp.ClientSession, url: str) -> int:
    async with session.post(f"{url}/stacks", json=seed(), headers={"X-API-KEY": KEY}) as answer:
        await answer.read()
        return answer.status


def replace_owner(cluster: EmbeddedCluster) -> None:
    """Let vm9 take the Lease, which it never renews."""
    lease = cluster.store.of(LEASES).get("stacks", "stackd-default")
    spec = lease.obj["spec"] | {"holderIdentity": "vm9/0123456789abcdef"}
    cluster.store.update(lease, metadata=lease.obj["metadata"] | {"annotations": {}}, spec=spec)


async def refuses(url: str) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    except OSError:
        return True
    writer.close()
    return False


@pytest.mark.parametrize("signals", [1, 2])
async def test_sigterm_finishes_creates_and_a_second_one_does_not(tmp_path: Path, signals: int) -> None:
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
        code, output = await ended(env | folder_with(tmp_path, web_1=PLAIN + "pool: 1\n"), "-c", DEFECT)
    assert code == 1
    for words in ("pool web-1 ended unexpectedly", "Traceback", "KeyError: 'uid'"):
        assert words in output


async def test_a_file_that_is_not_a_good_one_is_never_replaced_by_a_new_one(tmp_path: Path) -> None:
    content = b"no database, but long enough to be looked at"
    (tmp_path / "stackd.db").write_bytes(content)
    code, output = await ended(environment(tmp_path, None, STACKD_CLUSTER__MODE="embedded"), str(SCRIPT), "serve")
    assert (code, "rebuild" in output, "backup" in output, "Traceback" in output) == (1, True, True, False)
    assert (tmp_path / "stackd.db").read_bytes() == content


async def test_an_embedded_cluster_is_beside_the_state_and_its_stacks_are_there_after_a_restart(tmp_path: Path) -> None:
    """Also without a network policy, and where there is a proxy for HTTP."""
    config = tmp_path / "config.toml"
    config.write_text('[cluster]\nmode = "embedded"\n[stacks]\nrequire_ingress_network_policy = true\n')
    env = environment(tmp_path, None, STACKD_CONFIG=str(config), http_proxy="http://127.0.0.1:9")
    del env["STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY"]
    async with aiohttp.ClientSession() as session:

        async def stacks(url: str) -> dict[str, str]:
            async with session.get(f"{url}/stacks", headers={"X-API-KEY": KEY}) as answer:
                return {stack["stack_id"]: stack["status"] for stack in (await answer.json())["stacks"]}

        async with daemon(env) as (process, url):
            kubeconfig = json.loads((tmp_path / "stackd.db.kubeconfig").read_text())
            pods = kubeconfig["clusters"][0]["cluster"]["server"] + "/api/v1/namespaces/stacks/pods"
            token = kubeconfig["users"][0]["user"]["token"]
            for headers, status in (({}, 401), ({"Authorization": f"Bearer {token}"}, 200)):
                async with session.get(pods, headers=headers) as answer:
                    assert answer.status == status
            assert process.stderr is not None
            process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(60):
                while b"reloaded" not in (line := await process.stderr.readline()):
                    assert b"waits for a restart" not in line
            assert b"reloaded: nothing has changed" in line
            code, output = await ended(env, str(SCRIPT), "serve")
            assert (code, "is held by" in output, f"process {process.pid}" in output) == (1, True, True)
            assert await post(session, url) == 201
            before = await stacks(url)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        async with daemon(env) as (_, url):
            await until(lambda: stacks(url), lambda seen: seen == dict.fromkeys(before, "running"))


# ---- a file with stacks stays with its namespace and instance


ELSEWHERE = {
    'stacks.namespace is "stacks", not "other"': {"stacks__namespace": "other"},
    'cluster.instance is "default", not "other"': {"cluster__instance": "other"},
}


async def test_a_start_or_a_check_for_others_is_refused_and_ends_nothing(vm: Machine) -> None:
    async def check(*arguments: str) -> list[str]:
        """The mistakes that it finds, or what it prints."""
        env = environment(vm.folder, vm.cluster, STACKD_STACKS__NAMESPACE="other")
        result = await asyncio.to_thread(CliRunner().invoke, stackd, ["check", *arguments], env=env)
        error = result.exception
        return list(error.mistakes) if isinstance(error, ConfigError) else [result.output]

    at = await vm.start()
    assert await check() == ["the configuration is valid\n"], "a file without stacks may be for others"
    stack_id = await at.running()
    before, words = await at.stack(stack_id), next(iter(ELSEWHERE))
    for running in (True, False):
        assert [words in mistake for mistake in await check()] == [True]
        assert "is valid" not in "".join(await check("--for-reload"))
        if running:
            await vm.stop()
    for words, settings in ELSEWHERE.items():
        with pytest.raises(ConfigError) as refused:
            await vm.start(**settings)
        (mistake,) = refused.value.mistakes
        file = vm.folder / "stackd.db"
        assert f"{file} holds 1 stack for which {words}: restore that setting" in mistake
    at = await vm.start()
    assert await at.stack(stack_id) == before


@pytest.mark.stackd(edited={"STACKD_STACKS__NAMESPACE": "other", "STACKD_LIMITS__MAX_STACKS": "7"})
async def test_a_reload_for_others_is_refused(at: Harness, caplog: pytest.LogCaptureFixture) -> None:
    await at.create()
    os.kill(os.getpid(), signal.SIGHUP)
    await at.until_metric("stackd_config_reload_successful", 0)
    assert 'stacks.namespace is "stacks", not "other"' in caplog.text
    assert (await at.get("/capacity"))["stacks"] is None, "no other setting of it is in force"

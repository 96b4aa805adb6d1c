"""``cluster.mode = "embedded"``: the command line starts a cluster beside the state, and the daemon gets a kubeconfig."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import aiohttp

from tests.api.test_process import daemon, environment, post, run
from tests.harness import KEY, eventually


async def listed(session: aiohttp.ClientSession, url: str) -> list[tuple[str, str]]:
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
            before = await listed(session, url)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        async with daemon(env) as (_, url):
            await eventually(lambda: running(session, url), lambda: "the stack does not run again")
            assert [stack_id for stack_id, _ in await listed(session, url)] == [stack_id for stack_id, _ in before]


async def test_its_cluster_answers_whoever_has_the_kubeconfig(tmp_path: Path) -> None:
    env = environment(tmp_path, None, STACKD_CLUSTER__MODE="embedded")
    async with aiohttp.ClientSession() as session, daemon(env):
        config = json.loads((tmp_path / "stackd.db.kubeconfig").read_text())
        url, token = config["clusters"][0]["cluster"]["server"], config["users"][0]["user"]["token"]
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {token}"}, 200)):
            async with session.get(f"{url}/api/v1/namespaces/stacks/pods", headers=headers) as answer:
                assert answer.status == status


async def running(session: aiohttp.ClientSession, url: str) -> bool:
    return [status for _, status in await listed(session, url)] == ["running"]


async def test_a_reload_that_changes_nothing_says_so(tmp_path: Path) -> None:
    env = environment(tmp_path, None, STACKD_CLUSTER__MODE="embedded")
    async with daemon(env) as (process, _):
        assert process.stderr is not None
        process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(60):
            lines = []
            async for line in process.stderr:
                lines.append(line.decode())
                if "reloaded" in lines[-1]:
                    break
        assert "reloaded: nothing has changed" in lines[-1]
        assert not any("waits for a restart" in line for line in lines)


async def test_a_second_process_leaves_the_cluster_of_the_first_alone(tmp_path: Path) -> None:
    env = environment(tmp_path, None, STACKD_CLUSTER__MODE="embedded")
    async with aiohttp.ClientSession() as session, daemon(env) as (process, url):
        code, said = await run(env, "serve")
        assert code == 1
        assert "is held by" in said
        assert f"process {process.pid}" in said
        assert await post(session, url) == 201

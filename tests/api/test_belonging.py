"""A file with stacks stays with its namespace and instance: a configuration with another one is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.errors import ConfigError
from tests.harness import KEY, fast_cluster, harness

SCRIPT = Path(__file__).parents[2] / "stackd.py"
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


@pytest.mark.parametrize(("settings", "said"), ELSEWHERE)
async def test_check_refuses_it_while_the_daemon_runs_and_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], said: str
) -> None:
    async with harness(tmp_path) as at:
        monkeypatch.setenv("STACKD_AUTH__KEY", KEY)
        monkeypatch.setenv("STACKD_STATE__PATH", str(tmp_path / "stackd.db"))
        monkeypatch.setenv("STACKD_CLUSTER__KUBECONFIG", str(tmp_path / "kubeconfig"))
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        assert await check() == (0, ""), "a file without stacks may be given to others"
        await at.create()
        status, told = await check()
        assert (status, said in told, len(told.splitlines())) == (2, True, 1)
        assert (await check("--for-reload"))[0] == 2
    assert await check() == (2, told)


async def check(*options: str) -> tuple[int, str]:
    """The exit code and the errors of ``stackd check``."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), "check", *options, stdout=PIPE, stderr=PIPE
    )
    _, told = await process.communicate()
    return process.returncode or 0, told.decode()


async def test_a_reload_refuses_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    edited = {"STACKD_STACKS__NAMESPACE": "other", "STACKD_LIMITS__MAX_STACKS": "7"}
    async with harness(tmp_path, edited=edited) as at:
        await at.create()
        os.kill(os.getpid(), signal.SIGHUP)
        await at.until_metric("stackd_config_reload_successful", 0)
        assert 'stacks.namespace is "stacks", not "other"' in caplog.text
        assert (await at.call("GET", "/capacity")).json["stacks"] is None, "no other setting of it is in force"

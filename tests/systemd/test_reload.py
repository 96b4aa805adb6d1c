"""``systemctl reload`` applies a change completely or not at all."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from stackd.embedded import User, everything
from stackd.keys import new_key
from tests.harness import seed, until
from tests.systemd.service import COMMAND, UNIT, Service, doctor

pytestmark = pytest.mark.systemd


async def lives(service: Service) -> float:
    """The hours that a new stack lives."""
    stack = await service.create()
    begins, ends = (datetime.fromisoformat(stack[name][:19]) for name in ("created_at", "ttl_expires_at"))
    return round((ends - begins).total_seconds() / 3600, 2)


async def not_in_force(service: Service) -> str:
    """What the doctor says of a change that is not in force."""
    (found,) = [line for line in (await doctor(service))[1] if "not in force" in line]
    return found


async def status_of(service: Service, key: str) -> int:
    """The answer to a request with this key."""
    return (await service.call("GET", "/stats", key=key)).status


async def test_a_reload_puts_live_keys_in_force_and_names_those_that_wait_for_a_restart(service: Service) -> None:
    plaintext, sha256 = new_key()
    keys = f'[[auth.keys]]\nname = "second"\nsha256 = "{sha256}"\nscope = "read"\n'
    pid = (await service.state())["MainPID"]
    await asyncio.sleep(1.5)  # the doctor compares the times of files to the second
    await service.configure(keys, stacks='ttl = "90m"\nnamespace = "others"', log='level = "debug"')
    edited = await not_in_force(service)
    assert ("config.toml was changed at " in edited, edited.endswith("→ stackd reload")) == (True, True)
    await service.run("systemctl", "reload", UNIT)
    waits = await not_in_force(service)
    assert ("stacks.namespace" in waits, waits.endswith("→ systemctl restart stackd")) == (True, True)
    await service.until(lambda state: state["StatusText"].endswith("; waits for a restart: stacks.namespace"))
    assert await status_of(service, plaintext) == 200
    assert await lives(service) == 1.5
    await service.configure()
    assert "reloaded: stacks.ttl" in await service.run(COMMAND, "reload")
    await service.until(lambda state: state["StatusText"] == "ready: 1 stack, 2 nodes")
    assert await status_of(service, plaintext) == 401
    await service.run("mv", "/etc/stackd/api-key", "/etc/stackd/removed")
    ran = await asyncio.to_thread(service.machine.run, COMMAND, "reload")
    assert (ran.code, "[auth] keys: no API key is configured" in ran.out) == (1, True), ran
    assert await status_of(service, service.key) == 200, "the keys in force stay"
    await service.configure(keys)
    await service.run(COMMAND, "reload")
    assert (await status_of(service, service.key), await status_of(service, plaintext)) == (401, 200)
    assert (await service.state())["MainPID"] == pid


async def test_a_reload_with_mistakes_is_refused_completely_with_a_line_for_each_and_fails(service: Service) -> None:
    await service.configure(stacks='ttl = "1h"\nttll = "3h"', log='level = "loud"')
    assert await service.try_to("systemctl", "reload", UNIT) != 0
    lines = [line for line in await service.messages() if line.startswith("reload refused: /etc/stackd/config.toml:")]
    assert [word for word in ("ttll", "loud") if not [line for line in lines if word in line]] == []
    assert "the last reload was refused" in (await service.state())["StatusText"]
    await service.configure(stacks='ttl = "90m"')
    await service.run("rm", "/etc/stackd/kubeconfig")
    ran = await asyncio.to_thread(service.machine.run, COMMAND, "reload")
    assert (ran.code, ran.out.startswith("reload refused: [cluster] kubeconfig: ")) == (1, True), ran
    assert await lives(service) == 2.0
    await service.credentials()
    await service.run("systemctl", "reload", UNIT)
    await service.until(lambda state: "refused" not in state["StatusText"])
    assert await lives(service) == 1.5


async def test_a_changed_kubeconfig_and_key_are_taken_at_a_reload_and_forgotten_at_a_restart(bare: Service) -> None:
    users = tuple(User(token=name, name=name, rules=(everything(),)) for name in ("old", "new"))
    await bare.credentials(token="old")
    cluster = await bare.start_cluster(users=users)
    await bare.start()
    pid = (await bare.state())["MainPID"]
    cluster.faults.expire_token("old")
    assert (await bare.call("POST", "/stacks", seed())).status == 503
    old, bare.key = bare.key, new_key()[0]
    await bare.credentials(token="new")
    said = await bare.run(COMMAND, "reload")
    assert ("the credentials for the cluster" in said, "auth.keys" in said) == (True, True), said
    assert not [key for key in (old, bare.key) if key in said]
    assert (await status_of(bare, bare.key), await status_of(bare, old)) == (200, 401)
    await until(lambda: bare.call("POST", "/stacks", seed()), lambda seen: seen.status == 201)
    assert (await bare.state())["MainPID"] == pid
    assert (await bare.run(COMMAND, "reload")).splitlines() == ["reloaded: nothing has changed"]
    modes = await bare.run("bash", "-c", "stat --format='%a %U %G' /run/stackd/* /run/stackd/*/*")
    assert modes.splitlines() == ["750 root stackd"] + ["440 root stackd"] * 4
    assert await bare.try_to("runuser", "-u", "nobody", "--", "bash", "-c", "cat /run/stackd/*/*") != 0
    bare.key = new_key()[0]
    await bare.credentials(token="new")
    await bare.run("systemctl", "restart", UNIT)
    assert await status_of(bare, bare.key) == 200
    await bare.run(COMMAND, "reload")
    await bare.run("systemctl", "stop", UNIT)
    assert await bare.try_to("test", "-e", "/run/stackd") != 0

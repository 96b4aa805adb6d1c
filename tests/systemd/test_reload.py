"""``systemctl reload`` applies a change completely or not at all."""

from __future__ import annotations

import asyncio

import pytest

from stackd.embedded import User, everything
from stackd.keys import new_key
from tests.harness import eventually, seed
from tests.systemd.service import COMMAND, LOOK_SECONDS, UNIT, Service

pytestmark = pytest.mark.systemd


async def test_a_reload_puts_live_keys_in_force_and_names_those_that_wait_for_a_restart(service: Service) -> None:
    plaintext, sha256 = new_key()
    keys = f'[[auth.keys]]\nname = "second"\nsha256 = "{sha256}"\nscope = "read"\n'
    pid = (await service.state())["MainPID"]
    await service.configure(keys, stacks='ttl = "90m"\nnamespace = "others"', log='level = "debug"')
    await service.do("systemctl", "reload", UNIT)
    said = await service.said()
    assert 'reloaded: stacks.ttl: "2h" → "1h30m"' in said
    assert 'waits for a restart: stacks.namespace: "stacks" → "others"' in said
    assert (await service.state())["MainPID"] == pid
    assert (await service.call("GET", "/stats", headers={"X-API-KEY": plaintext})).status == 200
    stack = await service.create()
    assert stack["namespace"] == "stacks"
    assert (_hours(stack["created_at"]), _hours(stack["ttl_expires_at"])) != (0, 0)
    assert _hours(stack["ttl_expires_at"]) - _hours(stack["created_at"]) == pytest.approx(1.5, abs=0.001)


async def test_a_reload_with_mistakes_is_refused_whole_with_a_line_for_each_and_fails(service: Service) -> None:
    await service.configure(stacks='ttl = "1h"\nttll = "3h"', log='level = "loud"')
    assert await service.try_to("systemctl", "reload", UNIT) != 0
    said = await service.said()
    refused = [line for line in said if line.startswith("reload refused: /etc/stackd/config.toml:")]
    assert len(refused) == 2
    assert any('did you mean "ttl"' in line for line in refused)
    stack = await service.create()
    assert _hours(stack["ttl_expires_at"]) - _hours(stack["created_at"]) == pytest.approx(2.0, abs=0.001)
    assert "the last reload was refused" in (await service.state())["StatusText"]
    await service.configure()
    await service.do("systemctl", "reload", UNIT)
    await service.until(lambda state: "refused" not in state["StatusText"])


async def test_an_api_key_that_is_taken_out_is_refused_after_the_reload(service: Service) -> None:
    plaintext, sha256 = new_key()
    await service.configure(f'[[auth.keys]]\nname = "second"\nsha256 = "{sha256}"\n')
    await service.do("systemctl", "reload", UNIT)
    assert (await service.call("GET", "/stats", headers={"X-API-KEY": plaintext})).status == 200
    await service.configure()
    await service.do("systemctl", "reload", UNIT)
    assert (await service.call("GET", "/stats", headers={"X-API-KEY": plaintext})).status == 401


async def test_a_certificate_is_read_again_when_its_files_change(bare: Service) -> None:
    await _certificate(bare, "first.example")
    await bare.configure(server='tls_cert = "/etc/stackd/tls.crt"\ntls_key = "/etc/stackd/tls.key"')
    await bare.credentials()
    await bare.start_cluster()
    await bare.start()
    assert "first.example" in await _subject(bare)
    await _certificate(bare, "second.example")

    async def renewed() -> bool:
        return "second.example" in await _subject(bare)

    await eventually(renewed, lambda: "the certificate is still the first", 15.0, pause=LOOK_SECONDS)
    await asyncio.to_thread(bare.machine.write, "/etc/stackd/tls.key", "no key\n", "0644")
    await bare.do("systemctl", "reload", UNIT)
    assert any("the old one stays" in line for line in await bare.said())
    assert "second.example" in await _subject(bare)


async def _certificate(service: Service, name: str) -> None:
    made = "openssl req -x509 -newkey ed25519 -nodes -days 2 -keyout /etc/stackd/tls.key -out /etc/stackd/tls.crt"
    await service.do(
        "bash", "-c", f"{made} -subj /CN={name} && chgrp stackd /etc/stackd/tls.* && chmod 640 /etc/stackd/tls.*"
    )


async def _subject(service: Service) -> str:
    look = f"openssl s_client -connect 127.0.0.1:{service.api_port} </dev/null 2>/dev/null | grep subject"
    return await service.do("bash", "-c", look)


def _hours(time: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(time[:26].rstrip("Z") + "+00:00").timestamp() / 3600


async def test_a_changed_kubeconfig_and_key_are_taken_at_a_reload(bare: Service) -> None:
    users = tuple(User(token=name, name=name, rules=(everything(),)) for name in ("old", "new"))
    await bare.credentials(token="old")
    cluster = await bare.start_cluster(users=users)
    await bare.start()
    pid = (await bare.state())["MainPID"]
    cluster.faults.expire_token("old")
    assert (await bare.call("POST", "/stacks", seed())).status == 503
    old, bare.key = bare.key, new_key()[0]
    await bare.credentials(token="new")
    said = await bare.do(COMMAND, "reload")
    assert said.splitlines() == ["reloaded: the credentials for the cluster", "reloaded: auth.keys"]
    assert (await bare.call("GET", "/healthz")).status == 200
    assert (await bare.call("GET", "/healthz", headers={"X-API-KEY": old})).status == 401

    async def creates() -> bool:
        return (await bare.call("POST", "/stacks", seed())).status == 201

    await eventually(creates)
    assert (await bare.state())["MainPID"] == pid
    assert (await bare.do(COMMAND, "reload")).splitlines() == ["reloaded: nothing has changed"]
    seen = await bare.do("bash", "-c", "stat --format='%a %U %G' /run/stackd/* /run/stackd/*/*")
    assert seen.splitlines() == ["750 root stackd"] + ["440 root stackd"] * 3
    assert await bare.try_to("runuser", "-u", "nobody", "--", "bash", "-c", "cat /run/stackd/*/*") != 0


async def test_a_restart_forgets_what_was_handed_over(service: Service) -> None:
    await service.do(COMMAND, "reload")
    service.key = new_key()[0]
    await service.credentials()
    await service.do("systemctl", "restart", UNIT)
    assert (await service.call("GET", "/healthz")).status == 200
    await service.do(COMMAND, "reload")
    await service.do("systemctl", "stop", UNIT)
    assert await service.try_to("test", "-e", "/run/stackd") != 0


async def test_a_kubeconfig_that_cannot_be_used_is_refused_with_the_whole_reload(service: Service) -> None:
    await asyncio.to_thread(service.machine.write, "/etc/stackd/kubeconfig", "a: [\n", "0600")
    await service.configure(stacks='ttl = "90m"')
    ran = await asyncio.to_thread(service.machine.run, COMMAND, "reload")
    assert ran.code == 1
    (first, second) = ran.out.splitlines()
    assert first.startswith("reload refused: [cluster] kubeconfig: ")
    assert second.startswith("reload refused, the configuration in force stays")
    stack = await service.create()
    assert _hours(stack["ttl_expires_at"]) - _hours(stack["created_at"]) == pytest.approx(2.0, abs=0.001)


async def test_what_waits_for_a_restart_is_said_by_the_reload_and_stays_in_the_status(service: Service) -> None:
    await service.configure(stacks='namespace = "others"')
    said = await service.do(COMMAND, "reload")
    assert said.splitlines() == ['waits for a restart: stacks.namespace: "stacks" → "others"']
    await service.until(lambda state: state["StatusText"].endswith("; waits for a restart: stacks.namespace"))
    await service.configure()
    await service.do(COMMAND, "reload")
    await service.until(lambda state: state["StatusText"] == "ready: 0 stacks, 2 nodes")


async def test_a_removed_key_file_ends_its_keys_at_a_reload_which_is_refused_if_there_are_no_others(
    service: Service,
) -> None:
    await service.do("mv", "/etc/stackd/api-key", "/etc/stackd/removed")
    ran = await asyncio.to_thread(service.machine.run, COMMAND, "reload")
    assert (ran.code, "[auth] keys: no API key is configured" in ran.out) == (1, True), ran
    assert (await service.call("GET", "/healthz")).status == 200, "the keys in force stay"
    secret, sha256 = new_key()
    await service.configure(auth=f'keys = [{{name = "other", sha256 = "{sha256}", scope = "admin"}}]')
    assert 'name = "credential", scope = "admin" }] → [{ name = "other"' in await service.do(COMMAND, "reload")
    assert (await service.call("GET", "/healthz")).status == 401
    assert (await service.call("GET", "/healthz", headers={"X-API-KEY": secret})).status == 200

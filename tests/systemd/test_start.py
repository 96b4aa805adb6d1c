"""From ``systemctl start`` to READY, or to one line that says what is missing."""

from __future__ import annotations

import pytest

from tests.systemd.service import UNIT, Service

pytestmark = pytest.mark.systemd


async def test_it_is_ready_when_it_serves_and_says_so_in_its_status(service: Service) -> None:
    state = await service.state()
    assert (state["ActiveState"], state["StatusText"]) == ("active", "ready: 0 stacks, 2 nodes")
    assert (await service.call("GET", "/readyz")).status == 200
    await service.create()
    await service.until(lambda state: state["StatusText"] == "ready: 1 stacks, 2 nodes")


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [("api-key", "no API key is configured"), ("kubeconfig", "no cluster is configured")],
)
async def test_a_start_without_credential_fails_once_and_says_in_one_line_how_to_set_it(
    bare: Service, missing: str, sentence: str
) -> None:
    await bare.credentials()
    await bare.do("rm", f"/etc/stackd/{missing}")
    before = len(await bare.said())
    assert await bare.try_to("systemctl", "start", UNIT) != 0
    said = [line for line in (await bare.said())[before:] if sentence in line]
    assert len(said) == 1
    assert f"/etc/stackd/{missing}" in said[0]
    state = await bare.state()
    assert (state["ActiveState"], state["NRestarts"], state["ExecMainStatus"]) == ("failed", "0", "2")


async def test_a_configuration_with_wrong_modes_is_named(bare: Service) -> None:
    await bare.credentials()
    await bare.do("chmod", "600", "/etc/stackd/config.toml")
    await bare.do("chown", "root:root", "/etc/stackd/config.toml")
    assert await bare.try_to("systemctl", "start", UNIT) != 0
    assert "/etc/stackd/config.toml: cannot be read: Permission denied (user stackd)" in await bare.said()


async def test_a_start_without_the_cluster_waits_says_for_what_and_serves_reads(bare: Service) -> None:
    await bare.credentials()
    await bare.do("systemctl", "start", "--no-block", UNIT)
    state = await bare.until(lambda state: "cannot be reached" in state["StatusText"])
    assert state["ActiveState"] == "activating"
    assert state["StatusText"].startswith("waiting for Kubernetes: ")
    assert await bare.stacks() == []
    await bare.start_cluster()
    state = await bare.until(lambda state: state["ActiveState"] == "active")
    assert state["NRestarts"] == "0"


async def test_the_units_are_verified_without_a_word_and_exposed_to_little(service: Service) -> None:
    ran = service.machine.run("systemd-analyze", "verify", UNIT, "stackd.socket")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    last = (await service.do("systemd-analyze", "security", "--no-pager", UNIT)).splitlines()[-1]
    exposure = float(last.split("service:")[1].split()[0])
    assert exposure <= 1.5, last


async def test_a_key_given_as_credential_works_and_is_nowhere_else_to_be_found(service: Service) -> None:
    assert (await service.call("GET", "/healthz")).status == 200
    refused = await service.call("GET", "/healthz", headers={"X-API-KEY": "sk-wrong-0123456789abcdef"})
    assert refused.status == 401
    await service.call("GET", f"/stats?api_key={service.key}", headers={"X-API-KEY": ""})
    pid = (await service.state())["MainPID"]
    seen = await service.do("bash", "-c", f"tr '\\0' '\\n' < /proc/{pid}/environ; tr '\\0' ' ' < /proc/{pid}/cmdline")
    shown = await service.do("systemctl", "show", UNIT)
    assert service.key not in seen + shown + "\n".join(await service.said())

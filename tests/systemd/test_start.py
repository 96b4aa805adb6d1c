"""From ``systemctl start`` to READY, or to one line that says what is missing."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

from stackd.embedded import Rule, User, everything
from tests.certificates import BARE, HAVE_OPENSSL, authority, issued, tls_in_front
from tests.systemd.service import UNIT, Service

pytestmark = pytest.mark.systemd
SOON = 15.0
"""Seconds; the daemon spends 5 of them on trying to reach the cluster."""


async def test_it_is_ready_when_it_serves_and_says_so_in_its_status(service: Service) -> None:
    state = await service.state()
    assert (state["ActiveState"], state["StatusText"]) == ("active", "ready: 0 stacks, 2 nodes")
    assert (await service.call("GET", "/readyz")).status == 200
    await service.create()
    await service.until(lambda state: state["StatusText"] == "ready: 1 stack, 2 nodes")


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


async def started_without_the_cluster(bare: Service, why: str) -> None:
    """Start the service without a cluster: the start returns, and status, API and log say what stackd waits for.

    Until then a list is refused, since a new file may lack stacks.
    """
    before = len(await bare.said())
    began = time.monotonic()
    await bare.do("systemctl", "start", UNIT)
    assert time.monotonic() - began < SOON
    state = await bare.until(lambda state: why in state["StatusText"])
    assert (state["ActiveState"], state["NRestarts"]) == ("active", "0")
    assert state["StatusText"].startswith("waiting for the cluster: ")
    assert (await bare.call("GET", "/readyz")).json["reasons"] == [state["StatusText"]]
    reply = await bare.call("GET", "/stacks")
    assert (reply.status, why in reply.json["detail"]) == (503, True), reply.text
    said = (await bare.said())[before:]
    assert len([line for line in said if line.startswith("waiting for the cluster: ")]) == 1


async def test_a_start_without_the_cluster_returns_and_says_what_it_waits_for(bare: Service) -> None:
    await bare.credentials()
    await started_without_the_cluster(bare, "cannot be reached")
    await bare.start_cluster()
    state = await bare.until(lambda state: state["StatusText"] == "ready: 0 stacks, 2 nodes")
    assert state["NRestarts"] == "0"


async def test_a_start_with_refused_credentials_returns_and_says_so(bare: Service) -> None:
    await bare.credentials()
    await bare.start_cluster(users=(User(token="other", name="other", rules=(everything(),)),))
    await started_without_the_cluster(bare, "its credentials are not accepted (401)")


async def test_a_start_without_a_right_returns_and_names_it(bare: Service) -> None:
    await bare.credentials(token="some")
    rights = Rule(verbs=frozenset({"*"}), resources=frozenset({"pods", "services", "nodes"}))
    await bare.start_cluster(users=(User(token="some", name="stackd", rules=(rights,)),))
    await started_without_the_cluster(bare, "no right to get namespaces")


@pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")
async def test_an_authority_without_extensions_is_accepted_and_another_one_is_not(
    bare: Service, tmp_path: Path
) -> None:
    root = authority(tmp_path, extensions=BARE)
    await bare.start_cluster()
    async with tls_in_front(bare.cluster_port, issued(tmp_path, root, plain=True)) as front:
        server = f"https://127.0.0.1:{front.port}"
        other = authority(tmp_path, "other")
        for trusted in (other, root):
            data = base64.b64encode(trusted.cert.read_bytes()).decode()
            await bare.credentials(server=server, **{"certificate-authority-data": data})
            if trusted is other:
                await started_without_the_cluster(bare, "certificate is not accepted: ")
            else:
                await bare.do("systemctl", "restart", UNIT)
        await bare.until(lambda state: state["StatusText"] == "ready: 0 stacks, 2 nodes")
        await bare.do("systemctl", "stop", UNIT)


async def test_the_units_are_verified_without_a_word_and_exposed_to_little(service: Service) -> None:
    ran = service.machine.run("systemd-analyze", "verify", UNIT)
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

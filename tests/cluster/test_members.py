"""Stacks of several pods, on a cluster whose nodes run pods and whose network enforces NetworkPolicies."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.cluster.conftest import VARIABLE, environment_of, process_on
from tests.cluster.real import Kubectl, Process
from tests.harness import until
from tests.provisioning import printed

BUSYBOX = os.environ.get("STACKD_TEST_BUSYBOX", "")
pytestmark = [
    pytest.mark.skipif(
        not BUSYBOX or VARIABLE not in os.environ,
        reason=f"needs {VARIABLE}, and as STACKD_TEST_BUSYBOX a busybox image for its nodes",
    ),
    pytest.mark.timeout(300),
]
# A server that says its name, and passes a request on for whoever asks it to.
SERVER = r"""mkdir -p /tmp/w/cgi-bin && hostname > /tmp/w/index.html
printf '#!/bin/sh\necho\nwget -T 3 -qO- "$QUERY_STRING" || echo refused\n' > /tmp/w/cgi-bin/get
chmod +x /tmp/w/cgi-bin/get && exec httpd -f -p 80 -h /tmp/w"""
MEMBERS = ("db", "mail")


def pod(*, late: bool = False) -> dict[str, Any]:
    """A pod with that server; a late one starts seconds after the others."""
    limits = {"limits": {"cpu": "50m", "memory": "32Mi"}}
    about = {"image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "resources": limits}
    app = {**about, "name": "app", "command": ["sh", "-c", SERVER], "ports": [{"containerPort": 80}]}
    wait = [{**about, "name": "wait", "command": ["sleep", "4"]}] if late else []
    spec = {"terminationGracePeriodSeconds": 1, "initContainers": wait, "containers": [app]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app"}, "spec": spec}


def trio(late: str = "") -> dict[str, Any]:
    members = {name: {"pod_spec": json.dumps(pod(late=name == late))} for name in MEMBERS}
    ports = [{"container_port": 80, "protocol": "TCP"}]
    return {"pod_spec": json.dumps(pod(late=late == "first")), "target_port": ports, "members": members}


@dataclass(slots=True, kw_only=True)
class Site:
    """Two daemons whose stacks are in a namespace with the policies of ``stackd manifests``, and what players see."""

    owner: Process
    standby: Process
    kubectl: Kubectl
    session: aiohttp.ClientSession

    async def running(self, **stack: Any) -> str:
        """The id of a new stack once it runs."""
        stack_id: str = (await self.owner.real.create(trio(**stack)))["stack_id"]
        await self.until_whole(self.owner, stack_id)
        return stack_id

    async def until_whole(self, process: Process, stack_id: str) -> None:
        """Return once the stack runs, and its pods reach each other by their names."""
        await process.real.until_status(stack_id, "running")
        for name in MEMBERS:
            await until(lambda name=name: self.asked(stack_id, f"http://{name}/"), f"{stack_id}-{name}".__eq__)  # type: ignore[misc]
        await until(lambda: self.asked(stack_id, "http://db/cgi-bin/get?http://mail/"), f"{stack_id}-mail".__eq__)

    async def asked(self, stack_id: str, url: str) -> str:
        """What the first pod gets from there."""
        ports = (await self.objects("services"))[f"svc-{stack_id}"]["spec"]["ports"]
        node = (await self.kubectl.call("GET", "/api/v1/nodes"))[1]["items"][0]["status"]["addresses"][0]["address"]
        try:
            async with self.session.get(f"http://{node}:{ports[0]['nodePort']}/cgi-bin/get?{url}") as answer:
                return (await answer.text()).strip()
        except aiohttp.ClientError as error:
            return str(error)

    async def objects(self, kind: str, group: str = "api/v1") -> dict[str, dict[str, Any]]:
        path = f"/{group}/namespaces/{self.kubectl.namespace}/{kind}"
        return {raw["metadata"]["name"]: raw for raw in (await self.kubectl.call("GET", path))[1]["items"]}

    async def left(self) -> list[str]:
        """The objects of stacks."""
        policies = await self.objects("networkpolicies", "apis/networking.k8s.io/v1")
        names = [*await self.objects("pods"), *await self.objects("services"), *policies]
        return [name for name in names if "stack-" in name]


@pytest.fixture
async def site(kubectl: Kubectl, tmp_path: Path) -> AsyncIterator[Site]:
    kubeconfig, namespace = os.environ[VARIABLE], kubectl.namespace
    settings = environment_of(kubeconfig, tmp_path) | {
        "STACKD_STACKS__NAMESPACE": namespace,
        "STACKD_STACKS__REQUIRE_INGRESS_NETWORK_POLICY": "true",
    }
    options = ("--members", str(len(MEMBERS)), "--no-ephemeral-storage", "--no-admission-policy")
    await kubectl.apply(printed(*options, env={"STACKD_STACKS__NAMESPACE": namespace}))
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)))
        both = [
            await stack.enter_async_context(process_on(kubeconfig, tmp_path / name, settings))
            for name in ("owner", "standby")
        ]
        await both[0].start()
        yield Site(owner=both[0], standby=both[1], kubectl=kubectl, session=session)


async def test_nobody_but_the_pods_of_a_stack_reaches_its_members(site: Site) -> None:
    one, other = await site.running(), await site.running()
    pods, services = await site.objects("pods"), await site.objects("services")
    addresses = [pods[name]["status"]["podIP"] for name in (f"{other}-db", other)]
    addresses += [services[name]["spec"]["clusterIP"] for name in (f"{other}-db", f"svc-{other}")]
    for address in addresses:
        for way in ("", "http://db/cgi-bin/get?"):
            assert await site.asked(one, f"{way}http://{address}/") == "refused"


@pytest.mark.parametrize("late", ["first", "db"])
async def test_names_hold_whichever_pod_starts_first_and_after_each_restart(site: Site, late: str) -> None:
    stack_id, real = await site.running(late=late), site.owner.real
    for path in ("restart?member=db", "restart", "stop", "start"):
        await real.post(f"/stacks/{stack_id}/{path}")
        if path == "stop":
            await until(lambda: site.objects("pods"), lambda pods: not pods)
        else:
            await site.until_whole(site.owner, stack_id)


async def test_a_stack_of_several_pods_outlives_its_daemon_and_its_file_and_leaves_nothing(site: Site) -> None:
    stacks = [await site.running() for _ in range(2)]
    site.owner.kill()
    await site.standby.start()
    for stack_id in stacks:
        await site.until_whole(site.standby, stack_id)
    site.standby.kill()
    site.standby.lose_file()
    await site.standby.start()
    for stack_id in stacks:
        await site.until_whole(site.standby, stack_id)
    await site.kubectl.remove(f"{stacks[0]}-db", "killed")
    ended = await site.standby.real.until_status(stacks[0], "stopped")
    assert ended["status_message"].startswith("member db: ")
    await until(lambda: site.objects("pods"), lambda pods: stacks[0] not in pods)
    await site.standby.real.do("restart", stacks[0])
    await site.until_whole(site.standby, stacks[0])
    for stack_id in stacks:
        await site.standby.real.delete(stack_id)
    await until(site.left, lambda names: not names)

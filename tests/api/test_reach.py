"""Who reaches which pod of a stack, by all NetworkPolicies that there are: those of `stackd manifests`, and stackd's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import NETWORK_POLICIES, PODS
from tests.api.scenes import three
from tests.doctor.prepared import Prepared, prepared
from tests.harness import Harness, harness
from tests.provisioning import OURS, ask, printed
from tests.reach import Peer, may_reach
from tests.templates import PLAIN, folder_with

MEMBERS = f"""{PLAIN}members:
  db:
{"".join(f"    {line}{chr(10)}" for line in PLAIN[PLAIN.index("pod:") :].splitlines())}"""
TEMPLATES = {
    "open": f"{MEMBERS}network: {{egress: internet}}\n",
    "closed": f"{MEMBERS}network: {{egress: none}}\n",
    "checked": f"{PLAIN}check: {{image: registry.example/solve:1, command: [sh]}}\n",
}
OUTSIDE, NODE, INTERNET = Peer(ip="203.0.113.9"), Peer(ip="192.0.2.10"), Peer(ip="8.8.8.8")
METADATA, API, LAN = Peer(ip="169.254.169.254"), Peer(ip="10.96.0.1"), Peer(ip="192.168.1.1")
DNS = Peer(ip="10.244.9.53", namespace="kube-system", labels={"k8s-app": "kube-dns"})
FOREIGN = Peer(
    ip="10.244.9.1", namespace="shop", labels={"app.kubernetes.io/managed-by": "stackd", "stackd.io/stack": "x"}
)
GATEWAY = Peer(ip="10.244.9.2", namespace="gateway", labels={"app": "envoy"})
CHECK = Peer(ip="10.244.9.3", namespace="stacks", labels={"stackd.io/role": "check", "stackd.io/instance": "default"})
HELPER = Peer(ip="10.244.9.4", namespace="stacks", labels={"app": "helper"})


class Network:
    """The pods of some stacks, and what lies around them."""

    def __init__(self, at: Harness, stacks: dict[str, str]) -> None:
        self.policies = policies_of(at.cluster)
        pods = {record.key[1]: record.obj for record in at.cluster.store.of(PODS).in_namespace("stacks")}
        self.of = {
            f"{stack}{'.' if name != stack_id else ''}{name.removeprefix(stack_id).removeprefix('-')}": Peer(
                ip=f"10.244.0.{number}", namespace="stacks", labels=pod["metadata"]["labels"]
            )
            for stack, stack_id in stacks.items()
            for number, (name, pod) in enumerate(pods.items(), 1)
            if name.startswith(stack_id)
        }

    def reaches(self, source: Peer | str, target: Peer | str, port: int, protocol: str = "TCP") -> bool:
        ends = [self.of[one] if isinstance(one, str) else one for one in (source, target)]
        return may_reach(self.policies, ends[0], ends[1], port, protocol)


def policies_of(cluster: EmbeddedCluster) -> list[dict[str, Any]]:
    return [record.obj for record in cluster.store.of(NETWORK_POLICIES).in_namespace("stacks")]


@asynccontextmanager
async def network(folder: Path, *options: str) -> AsyncIterator[tuple[Network, Prepared]]:
    """Stacks ``a`` and ``b`` of three pods, ``plain`` of one, and ``open`` and ``closed`` of templates with their own egress."""
    settings = folder_with(folder, **TEMPLATES)
    documents = printed("--members", "2", *options, env=settings)
    async with (
        prepared(folder, documents) as made,
        harness(
            folder, settings, cluster=made.cluster, token=OURS, stacks__require_ingress_network_policy="true"
        ) as at,
    ):
        bodies: dict[str, dict[str, Any] | None] = {"a": three(), "b": three(), "plain": None}
        bodies |= {name: {"template": name} for name in ("open", "closed")}
        yield Network(at, {name: await at.running(body) for name, body in bodies.items()}), made


Pairs = list[tuple[Peer | str, Peer | str]]
WITHIN: Pairs = [("a", "a.db"), ("a", "a.mail"), ("a.mail", "a.db"), ("open", "open.db"), ("closed", "closed.db")]
TO_FIRST: Pairs = [
    (OUTSIDE, "a"),
    (NODE, "a"),
    (OUTSIDE, "plain"),
    (OUTSIDE, "closed"),
    (CHECK, "a"),
    (GATEWAY, "plain"),
]
NEVER: Pairs = [
    ("a.db", "a"),  # only members have names
    *product((OUTSIDE, NODE, FOREIGN, CHECK, GATEWAY, HELPER), ("a.db", "a.mail", "open.db")),
    *product(("b", "b.db", "plain", "open", "open.db"), ("a", "a.db", "a.mail")),
    *product((FOREIGN, HELPER), ("a", "plain", "open")),
    *product(("a", "a.db", "plain"), (INTERNET, METADATA, API, LAN, FOREIGN, HELPER)),
    *product(("open", "open.db"), (METADATA, API, LAN, FOREIGN, HELPER)),
    *product(("closed", "closed.db"), (INTERNET, METADATA, API, LAN)),
]


async def test_pods_reach_the_members_of_their_stack_and_others_only_its_first_pod(tmp_path: Path) -> None:
    async with network(tmp_path, "--dns", "--gateway-namespace", "gateway") as (net, _):
        assert net.of.keys() == {
            "a", "a.db", "a.mail", "b", "b.db", "b.mail", "plain", "open", "open.db", "closed", "closed.db"
        }  # fmt: skip
        wrong = [pair for pair in (*WITHIN, *TO_FIRST) if not net.reaches(*pair, 80)]
        wrong += [pair for pair in NEVER for port in (80, 443, 5432, 6443) if net.reaches(*pair, port)]
        assert not wrong
        for pod in ("a", "a.db", "plain", "open", "open.db", "closed"):
            asks = pod != "closed"
            assert [net.reaches(pod, DNS, 53, protocol) for protocol in ("UDP", "TCP")] == [asks, asks], pod
            assert not net.reaches(pod, DNS, 80), pod
        assert all(net.reaches(pod, INTERNET, 443) for pod in ("open", "open.db"))


async def test_a_policy_from_before_there_were_members_lets_others_reach_them_and_doctor_says_so(
    tmp_path: Path,
) -> None:
    async with network(tmp_path) as (net, made):
        assert not net.reaches(OUTSIDE, "a.db", 5432)
        settings = {"STACKD_TEMPLATES__DIRECTORY": str(tmp_path / "templates")}
        assert not [one for one in await made.look(**settings) if "members" in one.what]
        path = "/apis/networking.k8s.io/v1/namespaces/stacks/networkpolicies/stacks-from-outside"
        await ask(made.cluster, "PATCH", path, {"spec": {"podSelector": {"matchExpressions": None}}})
        net.policies = policies_of(made.cluster)
        assert net.reaches(OUTSIDE, "a.db", 5432)
        (found,) = [one for one in await made.look(**settings) if "members" in one.what]
        assert (found.level, found.about, "stacks-from-outside" in found.what) == ("fail", "policies", True)

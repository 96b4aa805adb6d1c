"""Two stacks: one, as if from a pool, must answer at its node port once it is assigned, and not before; the other tries
to reach what stacks must not reach.

Owns: the probe's pods, what they run, and their removal. They are made like stacks, hardened and labelled, but under an
instance of their own, so that the policies select them and no daemon touches them. Each question is a container that
tries to connect and answers by its exit code, because stackd's rights show nothing else of a pod.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final

from stackd.config import Config, policy_of
from stackd.doctor import Finding, Found, fail, ok
from stackd.errors import NodePortTaken, StackdError
from stackd.kube.client import Cluster
from stackd.kube.manifests import pod_manifest, service_manifest
from stackd.kube.objects import ANY, PODS, SERVICES, ContainerState, pod_state
from stackd.kube.wire import JsonObject
from stackd.lifecycle.nodes import address
from stackd.lifecycle.templates import all_templates
from stackd.model import NODE_PORTS_REMEDY, Stack, bare_stack
from stackd.podspec import harden
from stackd.templates.template import DNS, INTERNET

ABOUT: Final = "probe"
IMAGE: Final = "busybox:stable"
PORT: Final = 8080
REACHED, NOT_REACHED = 0, 1
POLL_SECONDS = 0.25
CONNECT_SECONDS = 3.0
TRIES_FOR_A_PORT = 5
NOBODY: Final = 65534
LISTEN: Final = ("httpd", "-f", "-p", str(PORT), "-h", "/tmp")  # noqa: S108 - the pod's own, and empty
# Some networks need a moment until their policies apply to a new pod.
SETTLE: Final = "sleep 3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a stack tries to reach; ``{peer}`` is the other stack's address. ``script`` exits with 0 if it does.

    ``as_stack``: its container has no more restrictions than those of stacks. ``wanted``: it should reach it.
    """

    name: str
    what: str
    script: str
    remedy: str
    as_stack: bool = False
    wanted: bool = False


def connect(host: str, port: str) -> str:
    """A script that exits with 0 if it can connect, otherwise with 1."""
    return f"{SETTLE}; nc -w 5 {host} {port} </dev/null >/dev/null 2>&1 && exit 0; exit 1"


EGRESS: Final = (
    "restrict egress: apply what `stackd manifests` prints, and see that the network enforces NetworkPolicies"
)
QUESTIONS: Final = (
    Question(
        name="stack",
        what="another stack",
        script=connect("{peer}", str(PORT)),
        remedy="restrict ingress: apply what `stackd manifests` prints, and see that the network enforces NetworkPolicies",
    ),
    Question(name="metadata", what="the metadata address", script=connect("169.254.169.254", "80"), remedy=EGRESS),
    Question(
        name="api",
        what="the API server",
        script=connect('"$KUBERNETES_SERVICE_HOST"', '"$KUBERNETES_SERVICE_PORT"'),
        remedy=EGRESS,
    ),
    Question(
        name="raw",
        what="raw sockets, with which it could pretend to be another stack",
        script="while read -r key set; do [ $key = CapBnd: ] && [ $((0x$set >> 13 & 1)) = 1 ] && exit 0; done"
        " </proc/self/status; exit 1",
        remedy='add "NET_RAW" to policy.drop_capabilities',
        as_stack=True,
    ),
)
LOOKUP: Final = Question(
    name="dns",
    what="the cluster's DNS",
    script=f"{SETTLE}; nslookup kubernetes.default >/dev/null 2>&1 && exit 0; exit 1",
    remedy="apply what `stackd manifests` prints, and see that the network enforces NetworkPolicies for egress",
)
CONTROL: Final = (
    f"n=0; until nc -w 1 127.0.0.1 {PORT} </dev/null >/dev/null 2>&1; "
    "do n=$((n+1)); [ $n -lt 20 ] || exit 9; sleep 0.5; done; exit 0"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """The image needs ``sh``, ``nc`` and ``httpd``; each step may take ``seconds``."""

    image: str = IMAGE
    seconds: float = 90.0
    questions: tuple[Question, ...] = QUESTIONS


def instance_for(config: Config) -> str:
    """The instance name under which a probe works."""
    return f"{config.cluster.instance[:40].rstrip('-_.')}-probe-{secrets.token_hex(3)}"


async def probe(cluster: Cluster, config: Config, options: ProbeOptions, found: Found) -> None:
    """Run the probe, and remove what it created; ``cluster`` works under ``instance_for``."""
    async with AsyncExitStack() as cleanup:
        try:
            await _Probe(cluster, config, options, cleanup, found).run()
        except StackdError as error:
            found([fail(ABOUT, str(error))])


class _NotRunning(StackdError):
    """A pod of the probe does not run."""


class _Probe:
    def __init__(
        self, cluster: Cluster, config: Config, options: ProbeOptions, cleanup: AsyncExitStack, found: Found
    ) -> None:
        self._cluster, self._config, self._options = cluster, config, options
        self._cleanup, self._found = cleanup, found

    async def run(self) -> None:
        """Report the findings."""
        stack = await self._listener()
        pod = await self._until(stack.pod_name, _is_ready)
        await self._node_port(stack, pod)
        peer = pod["status"].get("podIP") or "127.0.0.1"
        self._found(await self._asked(peer, self._options.questions))
        for kind in sorted({one.policy.egress for one in all_templates(self._config).values()} - {""}):
            dns = dataclasses.replace(LOOKUP, wanted=kind in (DNS, INTERNET))
            asked = [one for one in self._options.questions if one.remedy == EGRESS]
            findings = await self._asked(peer, [*asked, dns], kind)
            self._found(dataclasses.replace(one, what=f"network.egress {kind}: {one.what}") for one in findings)

    async def _asked(self, peer: str, questions: Sequence[Question], egress: str = "") -> list[Finding]:
        """What a stack reaches, to which the NetworkPolicy for ``egress`` applies; empty: those for all stacks."""
        asking = self._stack()
        names = ("control", *(question.name for question in questions))
        askers = [
            self._container(one.name, ["sh", "-c", one.script.replace("{peer}", peer)], as_stack=one.as_stack)
            for one in questions
        ]
        listener, control = self._container("listen", [*LISTEN]), self._container("control", ["sh", "-c", CONTROL])
        await self._pod(asking, [listener, control, *askers], egress)
        answered = await self._until(asking.pod_name, lambda raw: _have_ended(raw, names))
        ends = {one.name: one for one in pod_state(answered).containers}
        if ends["control"].exit_code != REACHED:
            code = ends["control"].exit_code
            raise _NotRunning(
                f"the image {self._options.image} cannot be used for the probe: its self-test exited with {code}; {_NEEDS}"
            )
        return [_judged(question, ends[question.name]) for question in questions]

    def _stack(self) -> Stack:
        return bare_stack(f"stack-{secrets.token_hex(8)}", self._config.stacks.namespace, PORT, time.time_ns())

    def _service(self, stack: Stack) -> JsonObject:
        return service_manifest(stack, self._cluster.instance, dual_stack=self._config.stacks.dual_stack)

    async def _listener(self) -> Stack:
        """A stack that listens and that nobody has yet, with its Service."""
        stack = dataclasses.replace(self._stack(), unassigned=True, template="probe")
        container = self._container("listen", list(LISTEN))
        await self._pod(stack, [container | {"ports": [{"containerPort": PORT}]}])
        wanted, available = self._config.stacks.node_ports, await self._cluster.node_port_range()
        usable = wanted if available is None else wanted.common(available)
        if available is not None and not usable:
            raise _NotRunning(f"{wanted.mismatch(available)}; {NODE_PORTS_REMEDY}")
        for _ in range(TRIES_FOR_A_PORT):
            port = usable.first + secrets.randbelow(len(usable))
            stack = dataclasses.replace(stack, ports=(dataclasses.replace(stack.ports[0], node_port=port),))
            self._cleanup.push_async_callback(self._remove, "services", stack.service_name)
            with suppress(NodePortTaken):
                await self._cluster.create(SERVICES, self._service(stack))
                return stack
        raise _NotRunning(f"{TRIES_FOR_A_PORT} node ports in a row were taken; try again")

    async def _node_port(self, stack: Stack, pod: JsonObject) -> None:
        node_name, port = pod["spec"]["nodeName"], stack.ports[0].node_port
        nodes = await self._cluster.list_nodes()
        named = [dataclasses.replace(node, name=node_name) for node in nodes if node.name in (node_name, ANY)]
        host = next((address(self._config, node) for node in named), None)
        if host is None:
            self._found(
                [fail(ABOUT, f"the node {node_name} has no public address", "see stacks.public_ips and address_types")]
            )
            return
        if await _answers(host, port):
            self._found([fail(ABOUT, f"a pooled stack answers at {host}:{port} before anybody has it", _NETWORK)])
        else:
            self._found([ok(ABOUT, "a pooled stack answers nobody before it is assigned")])
        assigned = dataclasses.replace(stack, unassigned=False)
        await self._cluster.create_or_update(SERVICES, self._service(assigned))
        try:
            async with asyncio.timeout(self._options.seconds):
                while not await _answers(host, port):  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            advice = "check the firewall, stacks.public_ips, and that the policies let clients in"
            self._found([fail(ABOUT, f"a stack's node port does not answer at {host}:{port}", advice)])
        else:
            self._found([ok(ABOUT, f"a stack's node port answers at {host}:{port} once it is assigned")])

    def _container(self, name: str, command: list[str], *, as_stack: bool = False) -> dict[str, Any]:
        policy = policy_of(self._config)
        non_root: dict[str, Any] = {"runAsNonRoot": True, "runAsUser": NOBODY}
        drop: dict[str, Any] = {"capabilities": {"drop": ["ALL"]}}
        amounts = {"cpu": "20m", "memory": "32Mi"}
        return {
            "name": name,
            "image": self._options.image,
            "command": command,
            "resources": {"requests": amounts, "limits": amounts},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                **({} if as_stack and not policy.restricted else drop),
                **({} if as_stack and not policy.non_root else non_root),
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }

    async def _pod(self, stack: Stack, containers: list[dict[str, Any]], egress: str = "") -> None:
        spec = {
            "containers": containers,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        }
        pod = pod_manifest(
            stack,
            harden({"spec": spec}, policy_of(self._config).model_copy(update={"egress": egress})),
            instance=self._cluster.instance,
            node_selector=self._config.stacks.node_selector,
        )
        self._cleanup.push_async_callback(self._remove, "pods", stack.pod_name)
        await self._cluster.create(PODS, pod)

    async def _remove(self, resource: str, name: str) -> None:
        """Remove what was created, also when the probe is interrupted."""
        await asyncio.shield(asyncio.ensure_future(self._cluster.remove(resource, name)))

    async def _until(self, name: str, wanted: Callable[[JsonObject], bool]) -> JsonObject:
        """The pod once ``wanted`` is true of it. Raises _NotRunning if that cannot happen, or takes too long."""
        clock, raw = asyncio.get_running_loop().time, JsonObject()
        grace, deadline = (clock() + one for one in (self._config.stacks.unschedulable_grace, self._options.seconds))
        while clock() < deadline:
            raw = await self._cluster.find("pods", name) or {}
            if wanted(raw):
                return raw
            if raw and pod_state(raw).scheduled is False and clock() >= grace:
                raise _NotRunning(f"no node has room for the probe{_why(raw)}; {_MAKE_ROOM}")
            await asyncio.sleep(POLL_SECONDS)
        raise _NotRunning(f"a pod of the probe does not run within {self._options.seconds:g} s{_why(raw)}; {_NEEDS}")


_NETWORK = "the cluster's network serves pods that the Service does not select: look for another proxy of node ports"
_MAKE_ROOM = "delete some stacks; nodes and room are above"
_NEEDS = "choose --probe-image: it needs sh, nc and httpd, as busybox has them"


def _judged(question: Question, end: ContainerState) -> Finding:
    if end.exit_code in (REACHED, NOT_REACHED):
        reached = end.exit_code == REACHED
        text = f"a stack {'reaches' if reached else 'does not reach'} {question.what}"
        return ok(ABOUT, text) if reached == question.wanted else fail(ABOUT, text, question.remedy)
    return fail(ABOUT, f"whether a stack reaches {question.what} is not known: exit code {end.exit_code} {end.reason}")


def _is_ready(raw: JsonObject) -> bool:
    if not raw:
        return False
    state = pod_state(raw)
    if state.phase in ("Failed", "Succeeded"):
        raise _NotRunning(f"a pod of the probe has ended by itself{_why(raw)}; {_NEEDS}")
    return state.ready


def _have_ended(raw: JsonObject, names: tuple[str, ...]) -> bool:
    ended = {one.name for one in pod_state(raw).containers if one.state == "terminated"} if raw else set()
    return ended >= set(names)


def _why(raw: JsonObject) -> str:
    """What the kubelet or the scheduler says about it, if anything."""
    if not raw:
        return ""
    state = pod_state(raw)
    reasons = [f"{one.name}: {one.reason} {one.message}".strip() for one in state.containers if one.reason]
    text = "; ".join(reasons) or state.unschedulable_message or state.message
    return f" ({text[:300]})" if text else ""


async def _answers(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                return bool(await reader.read(1))
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False

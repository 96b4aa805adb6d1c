"""The steps of ``stackd setup``: the state of each, what it would change, and the change itself.

Owns: the order of the steps, and what "done" means for each. A step is inspected before it acts; that changes nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from stackd.cli.options import is_installed, loaded
from stackd.cli.setup.admin import cluster_entry, render
from stackd.cli.target import local_daemon
from stackd.client import ClientError
from stackd.config import Config
from stackd.config.credentials import API_KEY, KUBECONFIG
from stackd.doctor import running, service
from stackd.doctor.local import LocalDaemon
from stackd.errors import ClusterUnavailable, ConfigError
from stackd.files import read_keys, write_private
from stackd.keys import new_key
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget, token_file_of
from stackd.kube.objects import NodeState
from stackd.kube.provision import Administrator, ManifestOptions, documents

CONTROL_PLANE = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
READY_SECONDS = 30.0
READY_PAUSE = 0.2
STACK_SECONDS = 120.0
STACK_TTL = "30m"


class StepFailed(Exception):
    """A step failed; ``advice`` says how to fix it."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The input of all steps; ``flags`` are the options of ``stackd manifests``, as text, ``chosen`` those that were given."""

    config: Config
    path: Path
    site: ManifestOptions
    options: Mapping[str, Any]
    admin: Administrator | None
    admin_kubeconfig: Path | None
    flags: str = ""
    chosen: str = ""
    written: list[Path] = field(default_factory=list)
    """The files that this run has written and that a running service has not read yet."""

    @property
    def key_file(self) -> Path:
        """The path of the API key."""
        return self.path.with_name(API_KEY)

    @property
    def kubeconfig(self) -> Path:
        """The path of stackd's kubeconfig."""
        return self.path.with_name(KUBECONFIG)

    @property
    def may_write(self) -> bool:
        """Whether this user may write files beside the configuration."""
        return os.access(self.path.parent, os.W_OK)

    @property
    def may_look(self) -> bool:
        """Whether this user may see which files are beside the configuration."""
        return os.access(self.path.parent, os.X_OK)

    @property
    def daemon(self) -> LocalDaemon:
        """The daemon of this configuration."""
        return local_daemon(self.config, self.path)

    @property
    def url(self) -> str:
        """The daemon's URL."""
        return self.daemon.url


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """The state of a step.

    If it is not ``done``, ``do`` does what ``will`` lists, and returns what it did; ``commands`` do the same by hand. It
    raises StepFailed or the error that stopped it. Without ``do`` the step is left to somebody else; if such a step
    ``blocks``, the later steps wait for it.
    """

    what: str
    done: bool = False
    do: Callable[[], Awaitable[str]] | None = None
    will: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    blocks: bool = True


def _already(what: str) -> StepState:
    return StepState(what=what, done=True)


async def _key(setup: Setup) -> StepState:
    """Callers have an API key."""
    config, file = setup.config, setup.key_file
    if not config.auth.enabled:
        return _already("auth.enabled is false: nobody needs a key")
    if config.auth.keys or config.auth.key_file:
        return _already("the configuration has keys")
    try:
        if read_keys(file):
            return _already(f"{file} has one")
    except (OSError, ValueError):
        pass  # there is none, or one without a key

    async def make() -> str:
        comments = file.read_text() if _has_text(file) else ""
        _put(setup, file, f"{comments}{new_key()[0]}\n")
        return f"{file} has a new key; callers send it as X-API-KEY"

    return StepState(
        what=f"a key in {file}, unless there is one",
        do=make,
        will=(f"put a new key into {file}, readable by root only",),
        commands=(f"grep -qsv -e '^#' -e '^$' {file} || (umask 077; stackd key new --plain >> {file})",),
    )


async def _cluster(setup: Setup) -> StepState:
    """The cluster has stackd's namespaces, rights, limits and network policies."""
    admin, apply = setup.admin, f"stackd manifests{setup.flags} |"
    if admin is None:
        if await _own_access(setup) is None:
            return _already(
                f"{setup.kubeconfig} gives access to the cluster; `stackd doctor` checks rights and policies"
            )
        return StepState(
            what="to be applied where kubectl works as an administrator (ADMIN): namespaces, rights, limits and network policies",
            commands=(f"{apply} ssh ADMIN kubectl apply -f -",),
            blocks=False,
        )
    wanted = documents(setup.site)
    changes = [(one, change) for one in wanted if (change := await admin.change(one)) is not None]
    if not changes:
        return _already(f"all {len(wanted)} objects of `stackd manifests` are there")

    async def do() -> str:
        for document, _ in changes:
            await admin.apply(document)
        return f"{len(changes)} of {len(wanted)} objects of `stackd manifests` created or changed"

    return StepState(
        what="what stackd needs in the cluster",
        do=do,
        will=tuple(str(change) for _, change in changes),
        commands=(f"{apply} kubectl apply -f -",),
    )


async def _kubeconfig(setup: Setup) -> StepState:
    """stackd's own credentials give access to the cluster."""
    admin, site, options = setup.admin, setup.site, setup.options
    file, chosen = setup.kubeconfig, setup.config.cluster
    if chosen.mode == "in-cluster" or chosen.kubeconfig not in ("", str(file)):
        return _already(f"the configuration has its own: {chosen.kubeconfig or chosen.mode}")
    error = await _own_access(setup)
    if error is None:
        return _already(f"{file} gives access to the cluster")
    cluster: dict[str, Any] = {}
    if setup.admin_kubeconfig is not None:
        cluster = cluster_entry(setup.admin_kubeconfig, options["admin_context"])
    if options["server"]:
        cluster["server"] = options["server"]
    server = cluster.get("server", "https://API-SERVER:6443")
    where = "ssh ADMIN sh" if admin is None else "sh"
    command = f"(umask 077; stackd manifests --kubeconfig-for {server}{setup.flags} | {where} > {file})"
    what = f"stackd's own kubeconfig, made once the manifests are applied ({error})"
    if admin is None:
        return StepState(what=what, commands=(command,))

    async def make() -> str:
        if site.token_secret:
            token = await admin.lasting_token(site.account_namespace, site.account)
        else:
            token = await admin.token(site.account_namespace, site.account, options["token_hours"] * 3600)
        _put(setup, file, render(cluster, token))
        if (error := await _own_access(setup)) is not None:
            raise StepFailed(
                f"{file} was written but does not work: {error}",
                "check that this machine reaches the address in it; --server names another",
            )
        return f"{file} leads to {server}"

    token = "a token that does not expire" if site.token_secret else f"a token for {options['token_hours']} hours"
    account = f"{site.account_namespace}/{site.account}"
    will = f"put {token} of the account {account} into {file}, readable by root only ({error})"
    return StepState(what=what, do=make, will=(will,), commands=(command,))


async def _labels(setup: Setup) -> StepState:
    """Nodes have the label for stacks, and all nodes of ``--node`` do."""
    admin = setup.admin
    selector = setup.config.stacks.node_selector
    wanted = ",".join(f"{key}={value}" for key, value in selector.items())
    nodes = await _nodes(setup)
    chosen, named = [node for node in nodes or () if _takes(node, selector)], setup.options["nodes"]
    missing = [name for name in named if name not in {node.name for node in chosen}]
    if nodes is not None and (unknown := [name for name in missing if name not in {node.name for node in nodes}]):
        raise StepFailed(f"there is no node {unknown[0]}", f"nodes are: {', '.join(node.name for node in nodes)}")
    if chosen and not missing:
        return _already(f"{', '.join(node.name for node in chosen)}: {wanted}")
    if admin is None:
        lines = tuple(f"ssh ADMIN kubectl label node {name} {wanted}" for name in missing or ("NAME",))
        return StepState(
            what="each node that is to run stacks gets a label, where kubectl works as an administrator (ADMIN)",
            commands=lines,
            blocks=False,
        )
    names = missing or _candidates(nodes or [])
    if not named and len(names) != 1:
        said = f"{', '.join(names)} could" if names else "no node is ready for pods"
        flags = " ".join(f"--node {name}" for name in names) or "--node NAME"
        what = f"no node has the label {wanted}, and {said}: name those that are to run stacks, such as"
        return StepState(what=what, commands=(flags,))

    async def label() -> str:
        labelled = [await admin.label_node(name, selector) for name in names]
        return ", ".join(names) + _without_address(setup, labelled)

    return StepState(
        what="nodes for stacks",
        do=label,
        will=tuple(f"label node {name} {wanted}" for name in names),
        commands=tuple(f"kubectl label node {name} {wanted}" for name in names),
    )


def without_disk(nodes: list[NodeState], named: Sequence[str], selector: Mapping[str, str]) -> bool:
    """Whether no node for stacks reports ephemeral storage. The scheduler would place no pod that requests some."""
    ours = [node for node in nodes if node.name in named or _takes(node, selector)]
    if not ours:
        ours = [node for node in nodes if node.name in _candidates(nodes)]
    return bool(ours) and not any(node.ephemeral_bytes for node in ours)


def _without_address(setup: Setup, nodes: list[NodeState]) -> str:
    """What to set for nodes without a public address, or an empty text."""
    kinds, public = set(setup.config.stacks.address_types), setup.config.stacks.public_ips
    without = [one.name for one in nodes if one.name not in public and not kinds & {kind for kind, _ in one.addresses}]
    if not without:
        return ""
    return (
        f"; {', '.join(without)} has no {' or '.join(sorted(kinds))}: set in {setup.path} where players reach it "
        "(stacks.address_types or stacks.public_ips)"
    )


async def _service(setup: Setup) -> StepState:
    """The daemon runs, is enabled at boot, is ready, and has read its files."""
    known = service.find_unit() if is_installed(setup.path) else None
    if known is None:
        if await _answers(setup):
            return _already(f"it answers at {setup.url}")
        return StepState(
            what="systemd has no stackd.service for this configuration: start the daemon, then run this again",
            commands=(f"stackd serve --config {setup.path}",),
        )
    if known.active in ("active", "reloading") and known.enabled:
        loaded_at = await running.loaded_at(setup.daemon)
        old = [*service.not_in_force(known, loaded_at, [setup.path, setup.key_file, setup.kubeconfig])]
        if not old and not setup.written and await _answers(setup):
            return _already(f"it is active: {known.status}")
        what = "reload it" if old or setup.written else "wait until it is ready"
        return StepState(what=what, do=partial(_start, setup), will=(what,), commands=("stackd reload",))
    command = f"systemctl enable --now {service.SERVICE}"
    return StepState(what="the daemon", do=partial(_start, setup), will=(command,), commands=(command,))


async def _start(setup: Setup) -> str:
    """Start the daemon, or have it read its credentials again; then wait until it is ready."""
    known = service.find_unit()
    active = known is not None and known.active in ("active", "reloading")
    error = service.enable_and_start() or ("" if not active or service.reload() else "its reload was refused")
    if error:
        known = service.find_unit()
        logged = service.last_error(known) if known is not None else ""
        raise StepFailed(logged or error, "fix that, then run this again; journalctl -u stackd shows its log")
    setup.written.clear()
    why = await _until_ready(setup)
    if why:
        raise StepFailed(
            f"it runs but is not ready after {READY_SECONDS:g} s: {why}",
            "it becomes ready by itself once that is fixed",
        )
    return f"it runs, starts at boot, and is ready at {setup.url}"


async def _first_stack(setup: Setup) -> StepState:
    """The daemon has a stack."""
    if not setup.options["first_stack"]:
        return _already("skipped (--no-first-stack)")
    if await _answers(setup):
        if owner := await running.owner_it_stands_by_for(setup.daemon):
            return _already(f"this stackd stands by: {owner} owns the stacks")
        async with setup.daemon.client() as client:
            if there := await client.stacks(fields=["stack_id"]):
                return _already(f"there are stacks: {there[0].stack_id} is one")
    image, port = setup.options["image"], setup.options["port"]

    spec = FIRST.format(image=image, port=port)

    async def create() -> str:
        try:
            async with setup.daemon.client(timeout=None) as client:
                stack = await client.wait(await client.create(spec, ports=port, ttl=STACK_TTL), timeout=STACK_SECONDS)
        except ClientError as error:
            raise StepFailed(
                str(error), "`stackd doctor` says what does not fit; --no-first-stack leaves it out"
            ) from error
        where = ", ".join(stack.addresses)
        return f"{stack.stack_id} runs at {where}; `stackd stacks delete {stack.stack_id}` removes it"

    return StepState(
        what="a first stack",
        do=create,
        will=(f"start a stack of {image}, port {port}, for {STACK_TTL}",),
        commands=(f"echo '{spec}' | stackd stacks create --file - --port {port} --ttl {STACK_TTL} --wait",),
    )


FIRST = (
    "{{apiVersion: v1, kind: Pod, metadata: {{name: first}}, spec: {{containers: [{{name: app, image: {image}, "
    "ports: [{{containerPort: {port}}}], resources: {{limits: {{cpu: 100m, memory: 128Mi}}}}}}]}}}}"
)

STEPS: Mapping[str, Callable[[Setup], Awaitable[StepState]]] = {
    "key": _key,
    "cluster": _cluster,
    "kubeconfig": _kubeconfig,
    "nodes": _labels,
    "service": _service,
    "first stack": _first_stack,
}


def _own_target(setup: Setup) -> ClusterTarget:
    """The cluster that stackd's own credentials are for; this user's kubeconfig is not used. Raises ConfigError."""
    chosen = setup.config.cluster
    if chosen.mode == "in-cluster" or chosen.kubeconfig:
        return ClusterTarget.of(loaded(setup.path, serving=False).config)
    if not setup.may_look:
        raise ConfigError([f"only root may see whether {setup.kubeconfig} is there"])
    if not _has_text(setup.kubeconfig):
        raise ConfigError([f"there is no {setup.kubeconfig}"])
    return ClusterTarget(
        mode="kubeconfig",
        kubeconfig=str(setup.kubeconfig),
        context=chosen.context,
        token_file=token_file_of(setup.config.state.path),
        namespace=setup.config.stacks.namespace,
    )


async def _own_access(setup: Setup) -> str | None:
    """Why stackd's own credentials give no access to the cluster, or None if they do.

    Raises StepFailed if they are for another cluster than the administrator's.
    """
    try:
        own = await Cluster.connect(_own_target(setup))
    except ConfigError as error:
        return error.mistakes[0]
    try:
        uid = await own.cluster_uid()
    except ClusterUnavailable as error:
        return str(error)
    finally:
        await own.close()
    if setup.admin is not None and uid != await setup.admin.cluster_uid():
        raise StepFailed(
            f"{setup.kubeconfig} is for another cluster than {setup.admin_kubeconfig}",
            "name the right one with --admin-kubeconfig, or move the other away",
        )
    return None


async def _nodes(setup: Setup) -> list[NodeState] | None:
    """All nodes, listed with the administrator's credentials or else stackd's own; None without access."""
    if setup.admin is not None:
        return await setup.admin.list_nodes()
    if await _own_access(setup) is not None:
        return None
    own = await Cluster.connect(_own_target(setup))
    try:
        return await own.list_nodes()
    finally:
        await own.close()


def _takes(node: NodeState, selector: Mapping[str, str]) -> bool:
    return all(node.labels.get(key) == value for key, value in selector.items())


def _candidates(nodes: list[NodeState]) -> list[str]:
    """Ready, schedulable nodes outside the control plane; if there are none, those of the control plane."""
    ready = [node for node in nodes if node.ready and not node.unschedulable]
    workers = [node.name for node in ready if not any(label in node.labels for label in CONTROL_PLANE)]
    return workers or [node.name for node in ready]


async def _answers(setup: Setup) -> bool:
    """Whether the daemon answers and is ready."""
    return not await _not_ready(setup)


async def _until_ready(setup: Setup) -> str:
    """Wait up to ``READY_SECONDS``. Returns why the daemon is not ready, or an empty text once it is."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        why = await _not_ready(setup)
        if not why or time.monotonic() >= deadline:
            return why
        await asyncio.sleep(READY_PAUSE)


async def _not_ready(setup: Setup) -> str:
    try:
        if not await running.owner_it_stands_by_for(setup.daemon):
            async with setup.daemon.client() as client:
                await client.ready()
    except ClientError as error:
        return str(error)
    return ""


def _has_text(file: Path) -> bool:
    """Whether the file exists and is not empty; False if this user may not see it."""
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def _put(setup: Setup, path: Path, text: str) -> None:
    write_private(path, text)
    setup.written.append(path)

"""What ``stackd setup`` does: shows the plan, asks, and runs the unfinished steps, from an installation to a first stack.

Owns: the order of the steps, what "done" means for each, and the options that are remembered for the next run. A step is
inspected before it acts, which changes nothing; so the command can be repeated after any failure. The administrator's
credentials are used once, and never copied.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shlex
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from click.core import ParameterSource
from rich.console import Console
from rich.text import Text

from stackd.cli.doctor import advised, examine, say
from stackd.cli.manifests import kubeconfig_text, manifests, site_of
from stackd.cli.options import INSTALLED, is_installed, loaded
from stackd.cli.output import BAD, BUSY, GOOD, WARNING
from stackd.cli.target import local_daemon
from stackd.client import ClientError
from stackd.config import Config
from stackd.config.credentials import API_KEY, KUBECONFIG
from stackd.doctor import running, service
from stackd.doctor.cluster import Size
from stackd.doctor.local import LocalDaemon
from stackd.errors import ClusterError, ClusterUnavailable, ConfigError, StackdError
from stackd.files import read_keys, write_private
from stackd.keys import new_key
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget, token_file_of
from stackd.kube.objects import NodeState
from stackd.kube.provision import Administrator, ManifestOptions, documents
from stackd.printable import printable

T = TypeVar("T")
COLOURS = {"done": GOOD, "ok": GOOD, "to do": BUSY, "by hand": WARNING, "failed": BAD}
NAME_WIDTH = 11
ADMISSION_POLICIES_SINCE = (1, 30)
OPTIONS = "setup-options"
"""The file beside the configuration with the options for the cluster, for later runs."""

USUAL = ("/etc/kubernetes/admin.conf", "/etc/rancher/k3s/k3s.yaml")
"""Where kubeadm and k3s put the administrator's kubeconfig."""

COPIED = ("server", "certificate-authority-data", "tls-server-name", "insecure-skip-tls-verify", "proxy-url")
"""What stackd's kubeconfig takes from the cluster's entry in the administrator's."""

CONTROL_PLANE = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
READY_SECONDS, READY_PAUSE = 30.0, 0.2
STACK_SECONDS, STACK_TTL = 120.0, "30m"
FIRST_STACK = Size(cpu_milli=100, memory_bytes=128 << 20, ephemeral_bytes=None)
FIRST = (
    "{{apiVersion: v1, kind: Pod, metadata: {{name: first}}, spec: {{containers: [{{name: app, image: {image}, "
    "ports: [{{containerPort: {port}}}], resources: {{limits: {{cpu: 100m, memory: 128Mi}}}}}}]}}}}"
)


class _Failed(Exception):
    """A step failed; ``advice`` says how to fix it."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.advice = advice


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """The input of all steps; ``flags`` are the options of ``stackd manifests``, as text, ``chosen`` those of the user.

    ``written`` are the files that this run has written and that a running service has not read yet.
    """

    config: Config
    path: Path
    site: ManifestOptions
    options: Mapping[str, Any]
    admin: Administrator | None
    admin_kubeconfig: Path | None
    flags: str
    chosen: str
    written: list[Path] = field(default_factory=list)

    @property
    def key_file(self) -> Path:
        return self.path.with_name(API_KEY)

    @property
    def kubeconfig(self) -> Path:
        return self.path.with_name(KUBECONFIG)

    @property
    def may_write(self) -> bool:
        return os.access(self.path.parent, os.W_OK)

    @property
    def daemon(self) -> LocalDaemon:
        return local_daemon(self.config, self.path)

    @property
    def selector(self) -> Mapping[str, str]:
        return self.config.stacks.node_selector

    def put(self, path: Path, text: str) -> None:
        write_private(path, text)
        self.written.append(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """The state of a step.

    If it is not ``done``, ``do`` does what ``will`` lists, and returns what it did; ``commands`` do the same by hand. It
    raises _Failed or the error that stopped it. Without ``do`` the step is left to somebody else; if such a step
    ``blocks``, the later steps wait for it.
    """

    what: str
    done: bool = False
    do: Callable[[], Awaitable[str]] | None = None
    will: Sequence[str] = ()
    commands: Sequence[str] = ()
    blocks: bool = True


_done = partial(_State, done=True)


async def _key(setup: _Setup) -> _State:
    """Callers have an API key."""
    config, file = setup.config, setup.key_file
    if not config.auth.enabled:
        return _done(what="auth.enabled is false: nobody needs a key")
    if config.auth.keys or config.auth.key_file:
        return _done(what="the configuration has keys")
    try:
        read_keys(file)
    except (OSError, ValueError):
        pass  # there is none, or one without a key
    else:
        return _done(what=f"{file} has one")

    async def make() -> str:
        setup.put(file, f"{file.read_text() if _has_text(file) else ''}{new_key()[0]}\n")
        return f"{file} has a new key; callers send it as X-API-KEY"

    return _State(
        what=f"a key in {file}, unless there is one",
        do=make,
        will=[f"put a new key into {file}, readable by root only"],
        commands=[f"grep -qsv -e '^#' -e '^$' {file} || (umask 077; stackd key new --plain >> {file})"],
    )


async def _cluster(setup: _Setup) -> _State:
    """The cluster has stackd's namespaces, rights, limits and network policies."""
    admin, printed = setup.admin, f"stackd manifests{setup.flags} |"
    if admin is None:
        if await _own_access(setup) is None:
            checked = "`stackd doctor` checks rights and policies"
            return _done(what=f"{setup.kubeconfig} gives access to the cluster; {checked}")
        what = "to be applied where kubectl works as an administrator (ADMIN): namespaces, rights, limits and network policies"
        return _State(what=what, commands=[f"{printed} ssh ADMIN kubectl apply -f -"], blocks=False)
    wanted = documents(setup.site)
    changes = [(one, change) for one in wanted if (change := await admin.change(one)) is not None]
    if not changes:
        return _done(what=f"all {len(wanted)} objects of `stackd manifests` are there")

    async def apply() -> str:
        for document, _ in changes:
            await admin.apply(document)
        write_private(setup.path.with_name(OPTIONS), f"# the options of stackd setup, for later runs\n{setup.chosen}\n")
        return f"{len(changes)} of {len(wanted)} objects of `stackd manifests` created or changed"

    return _State(
        what="what stackd needs in the cluster",
        do=apply,
        will=[str(change) for _, change in changes],
        commands=[f"{printed} kubectl apply -f -"],
    )


async def _kubeconfig(setup: _Setup) -> _State:
    """stackd's own credentials give access to the cluster."""
    admin, site, options = setup.admin, setup.site, setup.options
    file, chosen = setup.kubeconfig, setup.config.cluster
    if chosen.mode == "in-cluster" or chosen.kubeconfig not in ("", str(file)):
        return _done(what=f"the configuration has its own: {chosen.kubeconfig or chosen.mode}")
    error = await _own_access(setup)
    if error is None:
        return _done(what=f"{file} gives access to the cluster")
    cluster: dict[str, Any] = {}
    if setup.admin_kubeconfig is not None:
        cluster = _cluster_entry(setup.admin_kubeconfig, options["admin_context"])
    if options["server"]:
        cluster["server"] = options["server"]
    server = cluster.get("server", "https://API-SERVER:6443")
    where = "ssh ADMIN sh" if admin is None else "sh"
    commands = [f"(umask 077; stackd manifests --kubeconfig-for {server}{setup.flags} | {where} > {file})"]
    what = f"stackd's own kubeconfig, made once the manifests are applied ({error})"
    if admin is None:
        return _State(what=what, commands=commands)

    async def make() -> str:
        if site.token_secret:
            token = await admin.lasting_token(site.account_namespace, site.account)
        else:
            token = await admin.token(site.account_namespace, site.account, options["token_hours"] * 3600)
        setup.put(file, kubeconfig_text(cluster, token))
        if (error := await _own_access(setup)) is not None:
            advice = "check that this machine reaches the address in it; --server names another"
            raise _Failed(f"{file} was written but does not work: {error}", advice)
        return f"{file} leads to {server}"

    token = "a token that does not expire" if site.token_secret else f"a token for {options['token_hours']} hours"
    account = f"{site.account_namespace}/{site.account}"
    will = [f"put {token} of the account {account} into {file}, readable by root only ({error})"]
    return _State(what=what, do=make, will=will, commands=commands)


async def _nodes(setup: _Setup) -> _State:
    """Nodes have the label for stacks, and all nodes of ``--node`` do."""
    admin, selector, named = setup.admin, setup.selector, setup.options["nodes"]
    label = ",".join(f"{key}={value}" for key, value in selector.items())
    nodes = await _listed(setup)
    by_name = {node.name: node for node in nodes or ()}
    labelled = [name for name, node in by_name.items() if _takes(node, selector)]
    missing = [name for name in named if name not in labelled]
    if nodes is not None and (unknown := [name for name in missing if name not in by_name]):
        raise _Failed(f"there is no node {unknown[0]}", f"nodes are: {', '.join(by_name)}")
    if labelled and not missing:
        return _done(what=f"{', '.join(labelled)}: {label}")
    if admin is None:
        what = "each node that is to run stacks gets a label, where kubectl works as an administrator (ADMIN)"
        commands = [f"ssh ADMIN kubectl label node {name} {label}" for name in missing or ("NAME",)]
        return _State(what=what, commands=commands, blocks=False)
    names = missing or _candidates(nodes or [])
    if not named and len(names) != 1:
        could = f"{', '.join(names)} could" if names else "no node is ready for pods"
        what = f"no node has the label {label}, and {could}: name those that are to run stacks, such as"
        return _State(what=what, commands=[" ".join(f"--node {name}" for name in names) or "--node NAME"])

    async def apply() -> str:
        return ", ".join(names) + _without_address(setup, [await admin.label_node(name, selector) for name in names])

    does = [f"label node {name} {label}" for name in names]
    return _State(what="nodes for stacks", do=apply, will=does, commands=[f"kubectl {one}" for one in does])


async def _service(setup: _Setup) -> _State:
    """The daemon runs, is enabled at boot, is ready, and has read its files."""
    unit = service.find_unit() if is_installed(setup.path) else None
    if unit is None:
        if not await _not_ready(setup):
            return _done(what=f"it answers at {setup.daemon.url}")
        what = "systemd has no stackd.service for this configuration: start the daemon, then run this again"
        return _State(what=what, commands=[f"stackd serve --config {setup.path}"])
    if unit.active in ("active", "reloading") and unit.enabled:
        loaded_at = await running.loaded_at(setup.daemon)
        old = [*service.not_in_force(unit, loaded_at, [setup.path, setup.key_file, setup.kubeconfig])]
        if not old and not setup.written and not await _not_ready(setup):
            return _done(what=f"it is active: {unit.status}")
        what = "reload it" if old or setup.written else "wait until it is ready"
        return _State(what=what, do=partial(_start, setup), will=[what], commands=["stackd reload"])
    command = f"systemctl enable --now {service.SERVICE}"
    return _State(what="the daemon", do=partial(_start, setup), will=[command], commands=[command])


async def _start(setup: _Setup) -> str:
    """Start the daemon, or have it read its credentials again; then wait until it is ready."""
    unit = service.find_unit()
    active = unit is not None and unit.active in ("active", "reloading")
    error = service.enable_and_start() or ("" if not active or service.reload() else "its reload was refused")
    if error:
        unit = service.find_unit()
        logged = service.last_error(unit) if unit is not None else ""
        raise _Failed(logged or error, "fix that, then run this again; journalctl -u stackd shows its log")
    setup.written.clear()
    deadline = time.monotonic() + READY_SECONDS
    while why := await _not_ready(setup):
        if time.monotonic() >= deadline:
            what = f"it runs but is not ready after {READY_SECONDS:g} s: {why}"
            raise _Failed(what, "it becomes ready by itself once that is fixed")
        await asyncio.sleep(READY_PAUSE)
    return f"it runs, starts at boot, and is ready at {setup.daemon.url}"


async def _first_stack(setup: _Setup) -> _State:
    """The daemon has a stack."""
    if not setup.options["first_stack"]:
        return _done(what="skipped (--no-first-stack)")
    if not await _not_ready(setup):
        if owner := await running.owner_it_stands_by_for(setup.daemon):
            return _done(what=f"this stackd stands by: {owner} owns the stacks")
        async with setup.daemon.client() as client:
            if there := await client.stacks(fields=["stack_id"]):
                return _done(what=f"there are stacks: {there[0].stack_id} is one")
    image, port = setup.options["image"], setup.options["port"]
    spec = FIRST.format(image=image, port=port)

    async def create() -> str:
        try:
            async with setup.daemon.client(timeout=None) as client:
                stack = await client.wait(await client.create(spec, ports=port, ttl=STACK_TTL), timeout=STACK_SECONDS)
        except ClientError as error:
            advice = "`stackd doctor` says what does not fit; --no-first-stack leaves it out"
            raise _Failed(str(error), advice) from error
        where = ", ".join(stack.addresses)
        return f"{stack.stack_id} runs at {where}; `stackd stacks delete {stack.stack_id}` removes it"

    return _State(
        what="a first stack",
        do=create,
        will=[f"start a stack of {image}, port {port}, for {STACK_TTL}"],
        commands=[f"echo '{spec}' | stackd stacks create --file - --port {port} --ttl {STACK_TTL} --wait"],
    )


STEPS: Mapping[str, Callable[[_Setup], Awaitable[_State]]] = {
    "key": _key,
    "cluster": _cluster,
    "kubeconfig": _kubeconfig,
    "nodes": _nodes,
    "service": _service,
    "first stack": _first_stack,
}


async def set_up(config_path: Path | None, options: dict[str, Any], *, yes: bool, only_plan: bool) -> bool:
    """Do the unfinished steps. Returns True if something remains to be done or has failed."""
    config, path = loaded(config_path, serving=False, cluster=False).config, config_path or INSTALLED
    kubeconfig = None if options["no_admin"] else options["admin_kubeconfig"] or _kubeconfig_of(os.environ)
    remembered, stated = _remembered(path), _stated(click.get_current_context())
    options |= {name: value for name, (value, _) in remembered.items() if name not in stated}
    decided = remembered | stated
    flags = chosen = "".join(text for _, text in decided.values())
    admin = None
    if kubeconfig is not None:
        target = ClusterTarget(
            mode="kubeconfig",
            kubeconfig=str(kubeconfig),
            context=options["admin_context"],
            namespace=config.stacks.namespace,
        )
        admin = await Administrator.connect(target)
    try:
        for name, flag, check in (
            ("storage", " --no-ephemeral-storage", _has_no_disk),
            ("admission_policy", " --no-admission-policy", _is_too_old_for_policies),
        ):
            if admin is not None and name not in decided and await check(admin, config, options):
                options[name], flags = False, flags + flag
        setup = _Setup(
            config=config,
            path=path,
            site=site_of(config, **options),
            options=options,
            admin=admin,
            admin_kubeconfig=kubeconfig,
            flags=flags,
            chosen=chosen,
        )
        return await _run(setup, yes=yes, only_plan=only_plan)
    finally:
        if admin is not None:
            await admin.close()


async def _has_no_disk(admin: Administrator, config: Config, options: dict[str, Any]) -> bool:
    """Whether no node for stacks reports ephemeral storage. The scheduler would place no pod that requests some."""
    try:
        nodes = await admin.list_nodes()
    except (ClusterError, ClusterUnavailable):
        return False  # the first step that needs the cluster reports the error
    ours = [one for one in nodes if one.name in options["nodes"] or _takes(one, config.stacks.node_selector)]
    ours = ours or [one for one in nodes if one.name in _candidates(nodes)]
    return bool(ours) and not any(node.ephemeral_bytes for node in ours)


async def _is_too_old_for_policies(admin: Administrator, config: Config, options: dict[str, Any]) -> bool:
    """Whether the API server does not know ValidatingAdmissionPolicies."""
    try:
        version = re.match(r"v(\d+)\.(\d+)", await admin.version())
    except (ClusterError, ClusterUnavailable):
        return False
    return version is not None and (int(version[1]), int(version[2])) < ADMISSION_POLICIES_SINCE


def _stated(context: click.Context) -> dict[str, tuple[Any, str]]:
    """The options of this command line that ``stackd manifests`` also takes: name → value, and its text."""
    names = {parameter.name for parameter in manifests.params} - {"config_path", "server"}
    stated = {}
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = context.params[name]
            stated[name] = value, "".join(f" {flag}" for flag in _flags(parameter, value))
    return stated


def _remembered(config_path: Path) -> dict[str, tuple[Any, str]]:
    """The same of the last run that changed the cluster. Raises UsageError if somebody has spoilt the file."""
    file = config_path.with_name(OPTIONS)
    try:
        return _stated(manifests.make_context(str(file), shlex.split(file.read_text(encoding="utf-8"), comments=True)))
    except (FileNotFoundError, PermissionError):  # a user who may not look gets the commands only
        return {}
    except click.UsageError as error:
        raise click.UsageError(f"{file}: {error.format_message()}") from error
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{file} cannot be read: {error}") from error


def _flags(parameter: click.Parameter, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [(parameter.opts if value else parameter.secondary_opts)[0]]
    values = value if isinstance(value, tuple) else (value,)
    texts = ["-".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in values]
    return [f"{parameter.opts[0]} {shlex.quote(text)}" for text in texts]


async def _run(setup: _Setup, *, yes: bool, only_plan: bool) -> bool:
    click.echo(f"configuration  {setup.path}")
    click.echo(f"administrator  {setup.admin_kubeconfig or 'none: commands for an administrator are printed'}")
    if setup.chosen:
        click.echo(f"options       {setup.chosen}")
    if not setup.may_write:
        click.echo(f"this user cannot write to {setup.path.parent}: run the commands below, or run this as root")
    click.echo()
    states: dict[str, _State] = {}
    for name, inspect in STEPS.items():
        state = await _attempt(setup, name, inspect(setup))
        if state is None:
            return True
        states[name] = state
        _plan(name, state, by_hand=only_plan or not setup.may_write)
    unfinished = [name for name, state in states.items() if not state.done]
    if only_plan or not setup.may_write:
        return bool(unfinished)
    if unfinished:
        if not yes and any(states[name].do for name in unfinished):
            click.echo()
            click.confirm("Do this?", abort=True)
        click.echo()
        stopped = await _do(setup, unfinished)
        if stopped:
            if stopped == [*STEPS][-1]:
                await _doctor(setup)  # only the first stack is missing; the doctor says why
            return True
    return await _doctor(setup)


async def _doctor(setup: _Setup) -> bool:
    click.echo("\nstackd doctor:")
    return bool(await say(examine(loaded(setup.path), setup.path, FIRST_STACK, None)))


async def _do(setup: _Setup, planned: Collection[str]) -> str:
    """Do the steps in order. Each is inspected again first, because an earlier step may have changed its state.

    Returns the name of the first step that failed, or that blocks until somebody does it by hand; else an empty text.
    """
    for name, inspect in STEPS.items():
        state = await _attempt(setup, name, inspect(setup))
        if state is None:
            return name
        if state.done and name in planned:
            _line("ok", name, state.what)
        if state.done:
            continue
        if state.do is None:
            _plan(name, state, by_hand=True)
            if state.blocks:
                return name
            continue
        result = await _attempt(setup, name, state.do())
        if result is None:
            return name
        _line("done", name, result)
    return ""


async def _attempt(setup: _Setup, name: str, work: Awaitable[T]) -> T | None:
    """The result of the work; None if it fails, after printing why."""
    try:
        return await work
    except _Failed as failure:
        what, advice = str(failure), failure.advice
    except ConfigError as error:
        what, advice = "; ".join(error.mistakes), f"fix {setup.path}, then run this again"
    except (StackdError, click.ClickException, OSError) as error:
        what = error.message if isinstance(error, click.ClickException) else str(error)
        advice = "fix that, then run this again: finished steps are skipped"
    _line("failed", name, what, advice)
    return None


def _plan(name: str, state: _State, *, by_hand: bool) -> None:
    """Print a step's state and what it would do. With ``by_hand``, also print the commands that do it."""
    word = "ok" if state.done else "to do" if state.do else "by hand"
    _line(word, name, "\n".join(state.will) if word == "to do" else state.what)
    for command in state.commands if by_hand and not state.done else ():
        click.echo(f"    {printable(command, lines=True)}")  # not wrapped, so that it can be copied


def _line(state: str, name: str, what: str, advice: str = "") -> None:
    heads = ((Text(state, style=COLOURS[state]), max(map(len, COLOURS))), (Text(name), NAME_WIDTH))
    Console(highlight=False).print(advised(heads, what, advice))


def _kubeconfig_of(environ: Mapping[str, str]) -> Path | None:
    """The first readable kubeconfig: $KUBECONFIG, ~/.kube/config, then those in ``USUAL``."""
    named = [part for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part][:1]
    places = [*named, str(Path(environ.get("HOME") or "/") / ".kube/config"), *USUAL]
    return next((Path(place) for place in places if os.access(place, os.R_OK)), None)


def _cluster_entry(path: Path, context: str) -> dict[str, Any]:
    """The cluster's address and authority in a kubeconfig, without credentials. Raises ConfigError."""

    def named(kind: str, name: str) -> dict[str, Any]:
        return next(entry[kind] for entry in config[f"{kind}s"] if entry["name"] == name)

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        entry = dict(named("cluster", named("context", context or config["current-context"])["cluster"]))
        if file := entry.pop("certificate-authority", ""):
            authority = (path.parent / file).read_bytes()
            entry.setdefault("certificate-authority-data", base64.b64encode(authority).decode())
        return {key: entry[key] for key in COPIED if key in entry}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ConfigError([f"{path}: its cluster cannot be read: {type(error).__name__}: {error}"]) from error


async def _own_access(setup: _Setup) -> str | None:
    """Why stackd's own credentials give no access to the cluster, or None if they do.

    Raises _Failed if they are for another cluster than the administrator's.
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
        raise _Failed(
            f"{setup.kubeconfig} is for another cluster than {setup.admin_kubeconfig}",
            "name the right one with --admin-kubeconfig, or move the other away",
        )
    return None


def _own_target(setup: _Setup) -> ClusterTarget:
    """The cluster that stackd's own credentials are for; this user's kubeconfig is not used. Raises ConfigError."""
    chosen, file = setup.config.cluster, setup.kubeconfig
    if chosen.mode == "in-cluster" or chosen.kubeconfig:
        return ClusterTarget.of(loaded(setup.path, serving=False).config)
    if not os.access(file.parent, os.X_OK):
        raise ConfigError([f"only root may see whether {file} is there"])
    if not _has_text(file):
        raise ConfigError([f"there is no {file}"])
    return ClusterTarget(
        mode="kubeconfig",
        kubeconfig=str(file),
        context=chosen.context,
        token_file=token_file_of(setup.config.state.path),
        namespace=setup.config.stacks.namespace,
    )


async def _listed(setup: _Setup) -> list[NodeState] | None:
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


def _without_address(setup: _Setup, nodes: list[NodeState]) -> str:
    """What to set for nodes without a public address, or an empty text."""
    kinds, public = set(setup.config.stacks.address_types), setup.config.stacks.public_ips
    without = [one.name for one in nodes if one.name not in public and not kinds & {kind for kind, _ in one.addresses}]
    if not without:
        return ""
    has_none = f"; {', '.join(without)} has no {' or '.join(sorted(kinds))}"
    return f"{has_none}: set in {setup.path} where players reach it (stacks.address_types or stacks.public_ips)"


async def _not_ready(setup: _Setup) -> str:
    """Why the daemon does not answer or is not ready; empty if it is, or stands by."""
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

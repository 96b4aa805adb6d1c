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
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from stackd.cli.doctor import diagnose, print_advised
from stackd.cli.installed import INSTALLED, is_installed
from stackd.cli.links import new_secret
from stackd.cli.manifests import DETECTED, LASTING, OPTIONS, kubeconfig_text, remembered, site_of, stated
from stackd.cli.options import loaded
from stackd.cli.output import BAD, BUSY, GOOD, PLAIN, WARNING
from stackd.cli.provision import DELETE, Administrator, Manifest, ManifestChange, ManifestOptions, deletion, documents
from stackd.cli.target import local_daemon
from stackd.client import ClientError
from stackd.config import Config
from stackd.config.credentials import API_KEY, KUBECONFIG, PLAY_SECRET
from stackd.doctor import running, service
from stackd.doctor.cluster import Size
from stackd.doctor.running import LocalDaemon
from stackd.errors import (
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    ConfigError,
    NamespaceMissing,
    ObjectNotFound,
    StackdError,
)
from stackd.files import read_keys, write_private
from stackd.keys import new_key
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget, any_node_of, load_credentials
from stackd.kube.objects import NodeState
from stackd.kube.wire import REJECTED
from stackd.lifecycle.nodes import remarks, selected
from stackd.lifecycle.nodes import selector as selector_text
from stackd.printable import printable

T = TypeVar("T")
COLOURS = {"done": GOOD, "ok": GOOD, "to do": BUSY, "by hand": WARNING, "failed": BAD}
NAME_WIDTH = 11
ADMISSION_POLICIES_SINCE = (1, 30)
# The file beside the configuration with the commands that delete what ``setup`` has created in the cluster.
CREATED = "setup-created"
# Where kubeadm and k3s put the administrator's kubeconfig.
USUAL = ("/etc/kubernetes/admin.conf", "/etc/rancher/k3s/k3s.yaml")
CONTROL_PLANE = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
READY_SECONDS, READY_PAUSE = 30.0, 0.2
STACK_SECONDS, STACK_TTL = 120.0, "30m"
FIRST_STACK = Size()
FIRST = (
    "{{apiVersion: v1, kind: Pod, metadata: {{name: first}}, spec: {{containers: [{{name: app, image: {image}, "
    "ports: [{{containerPort: {port}}}], resources: {{limits: {{cpu: 100m, memory: 128Mi}}}}}}]}}}}"
)
RERUN = "fix that, then run this again: finished steps are skipped"


class _Failed(Exception):
    """A step failed; ``advice`` says how to fix it."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.advice = advice


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """The state of a step: ``what`` it does, or that it is ``done``.

    ``do`` does it and returns what was done; ``commands`` do the same by hand. It raises _Failed or the error that
    stopped it. Without ``do``, somebody else has to do it; if such a step ``blocks``, the later ones wait for it.
    """

    what: str
    done: bool = False
    do: Callable[[], Awaitable[str]] | None = None
    commands: Sequence[str] = ()
    blocks: bool = True


_done = partial(_State, done=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """The input of all steps, and the steps.

    ``flags`` are the options of ``stackd manifests``, as text, ``chosen`` those of the user; ``written`` are the files
    that this run has written and that a running service has not read yet.
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
    def kubeconfig(self) -> Path:
        return Path(self.config.cluster.kubeconfig or self.path.with_name(KUBECONFIG))

    @property
    def daemon(self) -> LocalDaemon:
        return local_daemon(self.config, self.path)

    def _write(self, path: Path, text: str) -> None:
        write_private(path, text)
        self.written.append(path)

    @property
    def _kept(self) -> str:
        """What the file of options is to contain; empty if there are none."""
        detected = self.flags.removeprefix(self.chosen)
        parts = ["# the options of stackd setup, for later runs and for stackd manifests", self.chosen]
        parts += [DETECTED, detected] if detected else []
        return "".join(f"{part}\n" for part in parts) if self.flags else ""

    @property
    def _is_kept(self) -> bool:
        try:
            return self.path.with_name(OPTIONS).read_text(encoding="utf-8") == self._kept
        except OSError:
            return not self._kept

    def keep_options(self) -> None:
        """Keep the options for later runs, and for the manifests that are printed as a remedy."""
        if not self._is_kept:
            write_private(self.path.with_name(OPTIONS), self._kept)

    def _note_created(self, command: str, namespace: str = "") -> None:
        """Note how to delete what was created in the cluster, unless it goes with its namespace."""
        file = self.path.with_name(CREATED)
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        if not {command, f"{DELETE} namespaces {namespace}"} & {*lines}:
            write_private(file, "\n".join([*lines, command]) + "\n")

    # ---- the steps

    async def key(self) -> _State:
        """Callers have an API key."""
        auth, file = self.config.auth, self.path.with_name(API_KEY)
        if not auth.enabled:
            return _done(what="auth.enabled is false: nobody needs a key")
        if auth.keys or auth.key_file:
            return _done(what="the configuration has keys")
        try:
            read_keys(file)
        except (OSError, ValueError):
            pass  # there is none, or one without a key
        else:
            return _done(what=f"{file} has one")

        async def make() -> str:
            self._write(file, f"{file.read_text() if _has_text(file) else ''}{new_key()[0]}\n")
            return f"{file} has a new key; callers send it as X-API-KEY"

        return _State(
            what=f"put a new key into {file}, readable by root only",
            do=make,
            commands=[f"grep -qsv -e '^#' -e '^$' {file} || (umask 077; stackd key new --plain >> {file})"],
        )

    async def links(self) -> _State:
        """There is a secret that signs players' links."""
        file = self.path.with_name(PLAY_SECRET)
        if self.config.play.secret.get_secret_value():
            return _done(what="the configuration has a secret for players' links")
        if _has_text(file):
            return _done(what=f"{file} has a secret for players' links")

        async def make() -> str:
            self._write(file, f"{new_secret()}\n")
            return f"{file} has a secret, with which stackd signs players' links once play.url is set"

        return _State(
            what=f"put a secret for players' links into {file}, readable by root only",
            do=make,
            commands=[f"(umask 077; openssl rand -hex 32 > {file})"],
        )

    async def cluster(self) -> _State:
        """The cluster has stackd's namespaces, rights, limits and network policies."""
        admin, printed = self.admin, f"stackd manifests{self.flags} |"
        if admin is None:
            if await self._no_access() is None:
                checked = "`stackd doctor` checks rights and policies"
                return _done(what=f"{self.kubeconfig} gives access to the cluster; {checked}")
            what = "apply, where kubectl works as an administrator (ADMIN), namespaces, rights, limits and network policies"
            return _State(what=what, commands=[f"{printed} ssh ADMIN kubectl apply -f -"], blocks=False)
        wanted = documents(self.site)
        changes = [(one, change) for one in wanted if (change := await self._change(admin, one, wanted[0])) is not None]
        if not changes and self._is_kept:
            return _done(what=f"all {len(wanted)} objects of `stackd manifests` are there")

        async def apply() -> str:
            refused: list[str] = []
            for document, change in changes:
                try:
                    await admin.apply(document)
                except StackdError as error:
                    follows = refused and isinstance(error, NamespaceMissing | ObjectNotFound)
                    if not (follows or isinstance(error, ClusterRefused)):
                        raise
                    refused.append(f"{change}: {error.detail or error}")
                else:
                    if not change.fields:
                        self._note_created(deletion(document), document["metadata"].get("namespace", ""))
            self.keep_options()
            if refused:
                what = "\n".join([f"Kubernetes refuses the account of {self.admin_kubeconfig} this:", *refused])
                by_hand = f"have a cluster administrator run `{printed} kubectl apply -f -`"
                raise _Failed(
                    what, f'{by_hand}, or set cluster.rights = "namespace" if you have rights in one namespace only'
                )
            return f"{len(changes)} of {len(wanted)} objects of `stackd manifests` created or changed"

        if not changes:
            what = f"keep the options in {self.path.with_name(OPTIONS)}; all {len(wanted)} objects are there"
            return _State(what=what, do=apply)
        what = "\n".join(str(change) for _, change in changes)
        return _State(what=what, do=apply, commands=[f"{printed} kubectl apply -f -"])

    async def _change(self, admin: Administrator, document: Manifest, first: Manifest) -> ManifestChange | None:
        """The change that the object needs; its creation if this account may not look. Raises ClusterRefused for the first one,
        which shows whether the account may do anything."""
        try:
            return await admin.change(document)
        except ClusterRefused:
            if document is first:
                raise
            return ManifestChange(manifest=document)

    async def own_kubeconfig(self) -> _State:
        """stackd's own credentials give access to the cluster."""
        admin, site, hours = self.admin, self.site, self.options["token_hours"]
        file, chosen = self.kubeconfig, self.config.cluster
        usual = file.absolute() == self.path.with_name(KUBECONFIG).absolute()
        if chosen.mode == "in-cluster" or (not usual and os.access(file, os.F_OK)):
            return _done(what=f"the configuration has its own: {chosen.kubeconfig or chosen.mode}")
        why = await self._no_access()
        if why is None:
            return _done(what=f"{file} gives access to the cluster")
        cluster = await _cluster_of(admin.target) if admin is not None else {}
        server = self.options["server"] or cluster.get("server", "https://API-SERVER:6443")
        where = "ssh ADMIN sh" if admin is None else "sh"
        commands = [f"(umask 077; stackd manifests --kubeconfig-for {server}{self.flags} | {where} > {file})"]
        if admin is None:
            what = f"make stackd's own kubeconfig, once the manifests are applied ({why})"
            return _State(what=what, commands=commands)

        async def make() -> str:
            if site.token == LASTING:
                token = await admin.lasting_token(site.account_namespace, site.account)
            else:
                token = await admin.token(site.account_namespace, site.account, hours * 3600)
            self._write(file, kubeconfig_text(cluster | {"server": server}, token))
            if (why := await self._no_access()) is not None:
                advice = "check that this machine reaches the address in it; --server names another"
                raise _Failed(f"{file} was written but does not work: {why}", advice)
            return f"{file} leads to {server}"

        token = "a token that does not expire" if site.token == LASTING else f"a token for {hours} hours"
        account = f"{site.account_namespace}/{site.account}"
        what = f"put {token} of the account {account} into {file}, readable by root only ({why})"
        return _State(what=what, do=make, commands=commands)

    async def nodes(self) -> _State:
        """Nodes have the label for stacks, and all nodes of ``--node`` do."""
        admin, selector, named = self.admin, self.config.stacks.node_selector, self.options["nodes"]
        label = selector_text(self.config)
        if not self.site.cluster_rights:
            return _done(what='they are not read, and not labelled (cluster.rights = "namespace")')
        try:
            nodes = await self._listed()
        except ClusterRefused:  # an administrator of the cluster may
            admin, nodes = None, None
        labelled = [node.name for node in selected(self.config, nodes or ())]
        missing = [name for name in named if name not in labelled]
        there = [node.name for node in nodes or ()]
        if nodes is not None and (unknown := [name for name in missing if name not in there]):
            raise _Failed(f"there is no node {unknown[0]}", f"nodes are: {', '.join(there)}")
        if labelled and not missing:
            return _done(what=f"{', '.join(labelled)}: {label}")
        if admin is None:
            what = "label each node that is to run stacks, where kubectl works as an administrator (ADMIN)"
            commands = [f"ssh ADMIN kubectl label node {name} {label}" for name in missing or ("NAME",)]
            return _State(what=what, commands=commands, blocks=False)
        names = missing or _candidates(nodes or [])
        if not named and len(names) != 1:
            could = f"{', '.join(names)} could" if names else "no node is ready for pods"
            what = f"no node has the label {label}, and {could}: name those that are to run stacks, such as"
            return _State(what=what, commands=[" ".join(f"--node {name}" for name in names) or "--node NAME"])

        async def apply() -> str:
            changed = []
            for name in names:
                changed.append(await admin.label_node(name, selector))
                self._note_created(f"kubectl label node {name} {' '.join(f'{key}-' for key in selector)}")
            return "; ".join([", ".join(names), *remarks(self.config, changed)])

        does = [f"label node {name} {label}" for name in names]
        return _State(what="\n".join(does), do=apply, commands=[f"kubectl {one}" for one in does])

    async def service(self) -> _State:
        """The daemon runs, is enabled at boot, is ready, and has read its files."""
        unit = service.find_unit() if is_installed(self.path) else None
        if unit is None:
            if not await self._not_ready():
                return _done(what=f"it answers at {self.daemon.url}")
            what = "start the daemon, then run this again: systemd has no stackd.service for this configuration"
            return _State(what=what, commands=[f"stackd serve --config {self.path}"])
        if unit.active not in ("active", "reloading") or not unit.enabled:
            command = f"systemctl enable --now {service.SERVICE}"
            return _State(what=command, do=self._start, commands=[command])
        loaded_at = (await running.examine(self.daemon)).loaded_at
        files = [self.path, *map(self.path.with_name, (API_KEY, PLAY_SECRET, KUBECONFIG))]
        if self.written or any(service.not_in_force(unit, loaded_at, files)):
            return _State(what="reload it", do=self._start, commands=["stackd reload"])
        if await self._not_ready():
            return _State(what="wait until it is ready", do=self._start, commands=["stackd reload"])
        return _done(what=f"it is active: {unit.status}")

    async def first_stack(self) -> _State:
        """The daemon has a stack."""
        if not self.options["first_stack"]:
            return _done(what="skipped (--no-first-stack)")
        if not await self._not_ready():
            if owner := await running.owner_it_stands_by_for(self.daemon):
                return _done(what=f"this stackd stands by: {owner} owns the stacks")
            async with self.daemon.client() as client:
                if there := await client.stacks(fields=["stack_id"]):
                    return _done(what=f"there are stacks: {there[0].stack_id} is one")
        image, port = self.options["image"], self.options["port"]
        spec = FIRST.format(image=image, port=port)

        async def create() -> str:
            try:
                async with self.daemon.client(timeout=None) as client:
                    created = await client.create(spec, ports=port, ttl=STACK_TTL)
                    stack = await client.wait(created, timeout=STACK_SECONDS)
            except ClientError as error:
                advice = "`stackd doctor` says what does not fit; --no-first-stack leaves it out"
                raise _Failed(str(error), advice) from error
            where = ", ".join(map(str, stack.addresses))
            return f"{stack.stack_id} runs at {where}; `stackd stacks delete {stack.stack_id}` removes it"

        return _State(
            what=f"start a stack of {image}, port {port}, for {STACK_TTL}",
            do=create,
            commands=[f"echo '{spec}' | stackd stacks create --file - --port {port} --ttl {STACK_TTL} --wait"],
        )

    # ---- what they ask

    async def _start(self) -> str:
        """Start the daemon, or have it read its files again; then wait until it is ready."""
        unit = service.find_unit()
        active = unit is not None and unit.active in ("active", "reloading")
        error = service.enable_and_start() or ("" if not active or service.reload() else "its reload was refused")
        if error:
            unit = service.find_unit()
            logged = service.last_error(unit) if unit is not None else ""
            raise _Failed(logged or error, "fix that, then run this again; journalctl -u stackd shows its log")
        self.written.clear()
        deadline = time.monotonic() + READY_SECONDS
        while why := await self._not_ready():
            if time.monotonic() >= deadline:
                what = f"it runs but is not ready after {READY_SECONDS:g} s: {why}"
                raise _Failed(what, "it becomes ready by itself once that is fixed")
            await asyncio.sleep(READY_PAUSE)
        return f"it runs, starts at boot, and is ready at {self.daemon.url}"

    async def _not_ready(self) -> str:
        """Why the daemon does not answer or is not ready; empty if it is, or stands by."""
        try:
            if not await running.owner_it_stands_by_for(self.daemon):
                async with self.daemon.client() as client:
                    await client.ready()
        except ClientError as error:
            return str(error)
        return ""

    async def _no_access(self) -> str | None:
        """Why stackd's own credentials give no access to the cluster, or None if they do.

        Raises _Failed if they are for another cluster than the administrator's.
        """
        try:
            own = await Cluster.connect(self._own_target())
        except ConfigError as error:
            return error.mistakes[0]
        try:
            uid = await own.cluster_uid()
        except ClusterUnavailable as error:
            return str(error)
        finally:
            await own.close()
        if self.admin is not None and uid != await self.admin.cluster_uid():
            raise _Failed(
                f"{self.kubeconfig} is for another cluster than {self.admin_kubeconfig}",
                "name the right one with --admin-kubeconfig, or move the other away",
            )
        return None

    def _own_target(self) -> ClusterTarget:
        """The cluster that stackd's own credentials are for; this user's kubeconfig is not used. Raises ConfigError."""
        chosen, file = self.config.cluster, self.kubeconfig
        if chosen.mode == "in-cluster":
            return ClusterTarget.of(self.config)
        if not os.access(file.parent, os.X_OK):
            raise ConfigError([f"only root may see whether {file} is there"])
        if not _has_text(file):
            raise ConfigError([f"there is no {file}"])
        cluster = chosen.model_copy(update={"mode": "kubeconfig", "kubeconfig": str(file)})
        return ClusterTarget.of(self.config.model_copy(update={"cluster": cluster}))

    async def _listed(self) -> list[NodeState] | None:
        """All nodes, listed with the administrator's credentials or else stackd's own; None without access."""
        if self.admin is not None:
            return await self.admin.list_nodes()
        if await self._no_access() is not None:
            return None
        own = await Cluster.connect(self._own_target())
        try:
            return await own.list_nodes()
        finally:
            await own.close()


STEPS: Mapping[str, Callable[[_Setup], Awaitable[_State]]] = {
    "key": _Setup.key,
    "links": _Setup.links,
    "cluster": _Setup.cluster,
    "kubeconfig": _Setup.own_kubeconfig,
    "nodes": _Setup.nodes,
    "service": _Setup.service,
    "first stack": _Setup.first_stack,
}


async def set_up(config_path: Path | None, options: dict[str, Any], *, yes: bool, only_plan: bool) -> bool:
    """Do the unfinished steps. Returns True if something remains to be done or has failed."""
    config, path = loaded(config_path, serving=False, cluster=False).config, config_path or INSTALLED
    kubeconfig = None if options["no_admin"] else options["admin_kubeconfig"] or _kubeconfig_of_user()
    kept, own = remembered(path), stated(click.get_current_context())
    options |= {name: value for name, (value, _) in kept.items() if name not in own}
    decided = kept | own
    chosen = "".join(text for _, text in decided.values())
    admin: Administrator | None = None
    unsupported: Mapping[str, str] = {}
    if kubeconfig is not None:
        target = ClusterTarget(
            kubeconfig=str(kubeconfig),
            context=options["admin_context"],
            namespace=config.stacks.namespace,
            any_node=any_node_of(config),
        )
        admin = await Administrator.connect(target)
    try:
        if admin is not None:
            unsupported = await _unsupported(admin, config, options["nodes"])
        flags = {name: flag for name, flag in unsupported.items() if name not in decided}
        options |= dict.fromkeys(flags, False)
        setup = _Setup(
            config=config,
            path=path,
            site=site_of(config, **options),
            options=options,
            admin=admin,
            admin_kubeconfig=kubeconfig,
            flags=chosen + "".join(flags.values()),
            chosen=chosen,
        )
        return await _run(setup, yes=yes, only_plan=only_plan)
    finally:
        if admin is not None:
            await admin.close()


async def _unsupported(admin: Administrator, config: Config, named: Collection[str]) -> Mapping[str, str]:
    """The options that this cluster cannot serve, with the flags that leave them out.

    The scheduler places no pod that requests disk where no node for stacks reports any.
    """
    flags = {}
    try:
        nodes, version = await admin.list_nodes(), re.match(r"v(\d+)\.(\d+)", await admin.version())
    except (ClusterError, ClusterUnavailable):
        return {}  # the first step that needs the cluster reports the error
    ours = [*selected(config, nodes), *(one for one in nodes if one.name in named)]
    ours = ours or [one for one in nodes if one.name in _candidates(nodes)]
    if ours and not any(node.ephemeral_bytes for node in ours):
        flags["storage"] = " --no-ephemeral-storage"
    if version is not None and (int(version[1]), int(version[2])) < ADMISSION_POLICIES_SINCE:
        flags["admission_policy"] = " --no-admission-policy"
    return flags


async def _run(setup: _Setup, *, yes: bool, only_plan: bool) -> bool:
    click.echo(f"configuration  {setup.path}")
    click.echo(f"administrator  {setup.admin_kubeconfig or 'none: commands for an administrator are printed'}")
    if setup.chosen:
        click.echo(f"options       {setup.chosen}")
    by_hand = only_plan
    if not os.access(setup.path.parent, os.W_OK):
        click.echo(f"this user cannot write to {setup.path.parent}: run the commands below, or run this as root")
        by_hand = True
    click.echo()
    unfinished: dict[str, _State] = {}
    for name, inspect in STEPS.items():
        state = await _attempt(setup, name, inspect(setup))
        if state is None:
            return True
        _plan(name, state, by_hand=by_hand)
        if not state.done:
            unfinished[name] = state
    if by_hand:
        return bool(unfinished)
    if unfinished:
        if not yes and any(state.do for state in unfinished.values()):
            click.echo()
            click.confirm("Do this?", abort=True)
        click.echo()
        if setup.admin is None:  # somebody else applies what is printed
            setup.keep_options()
        stopped = await _do(setup, unfinished)
        if stopped and stopped != [*STEPS][-1]:
            return True
        return await _doctor(setup) or bool(stopped)  # it says why the first stack is missing
    return await _doctor(setup)


async def _doctor(setup: _Setup) -> bool:
    click.echo("\nstackd doctor:")
    return bool(await diagnose(setup.path, FIRST_STACK, None))


async def _do(setup: _Setup, planned: Collection[str]) -> str:
    """Do the steps in order. Each is inspected again first, because an earlier step may have changed its state.

    Returns the name of the first step that failed, or that blocks until somebody does it by hand; else an empty text.
    """
    for name, inspect in STEPS.items():
        state = await _attempt(setup, name, inspect(setup))
        if state is None:
            return name
        if state.done:
            if name in planned:
                _line("ok", name, state.what)
        elif state.do is None:
            _plan(name, state, by_hand=True)
            if state.blocks:
                return name
        elif (result := await _attempt(setup, name, state.do())) is None:
            return name
        else:
            _line("done", name, result)
    return ""


async def _attempt(setup: _Setup, name: str, work: Awaitable[T]) -> T | None:
    """The result of the work; None if it fails, after printing why."""
    try:
        return await work
    except _Failed as failure:
        _line("failed", name, str(failure), failure.advice)
    except ConfigError as error:
        _line("failed", name, "; ".join(error.mistakes), f"fix {setup.path}, then run this again")
    except click.ClickException as error:
        _line("failed", name, error.message, RERUN)
    except ClusterRefused as error:
        if setup.admin is None or error.sentence != REJECTED:
            _line("failed", name, str(error), RERUN)
        else:  # what is asked with stackd's own credentials is handled there
            refused = f"Kubernetes refuses the account of {setup.admin_kubeconfig}: {error.detail}"
            _line("failed", name, refused, "name a cluster administrator's with --admin-kubeconfig, or use --no-admin")
    except (StackdError, OSError) as error:
        _line("failed", name, str(error), RERUN)
    return None


def _plan(name: str, state: _State, *, by_hand: bool) -> None:
    """Print a step's state, or what it would do. With ``by_hand``, also print the commands that do it."""
    _line("ok" if state.done else "to do" if state.do else "by hand", name, state.what)
    for command in state.commands if by_hand and not state.done else ():
        click.echo(f"    {printable(command, lines=True)}")  # not wrapped, so that it can be copied


def _line(state: str, name: str, what: str, advice: str = "") -> None:
    heads = [(state, max(map(len, COLOURS)), COLOURS[state]), (name, NAME_WIDTH, PLAIN)]
    print_advised(heads, what, advice)


def _kubeconfig_of_user() -> Path | None:
    named = [part for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part][:1]
    places = [*named, str(Path(os.environ.get("HOME") or "/") / ".kube/config"), *USUAL]
    return next((Path(place) for place in places if os.access(place, os.R_OK)), None)


async def _cluster_of(target: ClusterTarget) -> dict[str, Any]:
    """A kubeconfig's entry for that cluster: its address and authority, without credentials. Raises ConfigError."""
    credentials = await load_credentials(target)
    one = credentials.configuration
    authority = await asyncio.to_thread(Path(one.ssl_ca_cert).read_bytes) if one.ssl_ca_cert else b""
    entry = {
        "server": one.host,
        "certificate-authority-data": base64.b64encode(authority).decode(),
        "tls-server-name": one.tls_server_name,
        "insecure-skip-tls-verify": not one.verify_ssl,
        "proxy-url": credentials.own_proxy,
    }
    return {key: value for key, value in entry.items() if value}


def _candidates(nodes: list[NodeState]) -> list[str]:
    """Ready, schedulable nodes outside the control plane; if there are none, those of the control plane."""
    ready = [node for node in nodes if node.ready and not node.unschedulable]
    workers = [node.name for node in ready if not any(label in node.labels for label in CONTROL_PLANE)]
    return workers or [node.name for node in ready]


def _has_text(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except OSError:
        return False

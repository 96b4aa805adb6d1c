"""Runs ``stackd setup``: shows the plan, asks, and does the steps that are not done yet."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.text import Text

from stackd.cli.doctor import advised, examine, say
from stackd.cli.manifests import manifests, site_of
from stackd.cli.options import INSTALLED, loaded
from stackd.cli.output import BAD, BUSY, GOOD, WARNING
from stackd.cli.setup.admin import kubeconfig_of
from stackd.cli.setup.steps import STEPS, Setup, StepFailed, StepState, without_disk
from stackd.config import Config
from stackd.doctor.cluster import Size
from stackd.errors import ClusterError, ClusterUnavailable, ConfigError, StackdError
from stackd.files import write_private
from stackd.kube.credentials import ClusterTarget
from stackd.kube.provision import Administrator
from stackd.printable import printable

COLOURS = {"done": GOOD, "ok": GOOD, "to do": BUSY, "by hand": WARNING, "failed": BAD}
NAME_WIDTH = 11
ADMISSION_POLICIES_SINCE = (1, 30)
OPTIONS = "setup-options"
"""The file beside the configuration with the options for the cluster, for later runs."""
FIRST_STACK = Size(cpu_milli=100, memory_bytes=128 << 20, ephemeral_bytes=None)


async def set_up(config_path: Path | None, options: dict[str, Any], *, yes: bool, only_plan: bool) -> bool:
    """Do the unfinished steps. Returns True if something is left to do or has failed."""
    config = loaded(config_path, serving=False, cluster=False).config
    kubeconfig = None if options["no_admin"] else options["admin_kubeconfig"] or kubeconfig_of(os.environ)
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
        remembered = _remembered(config_path or INSTALLED)
        given = _given(click.get_current_context())
        options |= {name: value for name, (value, _) in remembered.items() if name not in given}
        flags = chosen = "".join(text for _, text in (remembered | given).values())
        decided = remembered | given
        if admin is not None and "storage" not in decided and await _finds_no_disk(admin, config, options):
            options = options | {"storage": False}
            flags += " --no-ephemeral-storage"
        if admin is not None and "admission_policy" not in decided and await _is_too_old_for_policies(admin):
            options = options | {"admission_policy": False}
            flags += " --no-admission-policy"
        setup = Setup(
            config=config,
            path=config_path or INSTALLED,
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


async def _finds_no_disk(admin: Administrator, config: Config, options: dict[str, Any]) -> bool:
    """Whether the manifests must leave disk out."""
    try:
        nodes = await admin.list_nodes()
    except (ClusterError, ClusterUnavailable):
        return False  # the first step that needs the cluster reports the error
    return without_disk(nodes, options["nodes"], config.stacks.node_selector)


async def _is_too_old_for_policies(admin: Administrator) -> bool:
    """Whether the API server does not know ValidatingAdmissionPolicies."""
    try:
        found = re.match(r"v(\d+)\.(\d+)", await admin.version())
    except (ClusterError, ClusterUnavailable):
        return False
    return found is not None and (int(found[1]), int(found[2])) < ADMISSION_POLICIES_SINCE


def _given(context: click.Context) -> dict[str, tuple[Any, str]]:
    """The options of this command line that ``stackd manifests`` also takes: name → value, and its text."""
    names = {parameter.name for parameter in manifests.params} - {"config_path", "server"}
    given = {}
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = context.params[name]
            given[name] = value, "".join(f" {flag}" for flag in _written(parameter, value))
    return given


def _remembered(config_path: Path) -> dict[str, tuple[Any, str]]:
    """The same of the last run that changed the cluster. Raises UsageError if somebody has spoilt the file."""
    file = config_path.with_name(OPTIONS)
    try:
        words = shlex.split(file.read_text(encoding="utf-8"), comments=True)
    except (FileNotFoundError, PermissionError):  # a user who may not look gets the commands only
        return {}
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{file} cannot be read: {error}") from error
    try:
        return _given(manifests.make_context(str(file), words))
    except click.UsageError as error:
        raise click.UsageError(f"{file}: {error.format_message()}") from error


def _written(parameter: click.Parameter, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [(parameter.opts if value else parameter.secondary_opts)[0]]
    values = value if isinstance(value, tuple) else (value,)
    texts = ["-".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in values]
    return [f"{parameter.opts[0]} {shlex.quote(text)}" for text in texts]


async def _run(setup: Setup, *, yes: bool, only_plan: bool) -> bool:
    _title(setup)
    states: dict[str, StepState] = {}
    for name, inspect in STEPS.items():
        try:
            state = states[name] = await inspect(setup)
        except StepFailed as failure:
            _line("failed", name, failure.what, failure.advice)
            return True
        except StackdError as error:
            _line("failed", name, str(error))
            return True
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
        if stopped == [*STEPS][-1]:
            await _doctor(setup)  # only the first stack is missing; the doctor says why
        if stopped:
            return True
    return await _doctor(setup)


async def _do(setup: Setup, planned: Collection[str]) -> str:
    """Do the steps in order. Each is inspected again first, because an earlier step may have changed its state.

    Returns the name of the first step that failed, or that blocks until somebody does it by hand; else an empty text.
    """
    for name, inspect in STEPS.items():
        try:
            state = await inspect(setup)
            if state.done:
                if name in planned:
                    _line("ok", name, state.what)
                continue
            if state.do is None:
                _plan(name, state, by_hand=True)
                if state.blocks:
                    return name
                continue
            _line("done", name, await state.do())
            if name == "cluster":
                write_private(
                    setup.path.with_name(OPTIONS), f"# the options of stackd setup, for later runs\n{setup.chosen}\n"
                )
        except StepFailed as failure:
            _line("failed", name, failure.what, failure.advice)
            return name
        except ConfigError as error:
            _line("failed", name, "; ".join(error.mistakes), f"fix {setup.path}, then run this again")
            return name
        except (StackdError, click.ClickException, OSError) as error:
            what = error.message if isinstance(error, click.ClickException) else str(error)
            _line("failed", name, what, "fix that, then run this again: finished steps are skipped")
            return name
    return ""


async def _doctor(setup: Setup) -> bool:
    click.echo("\nstackd doctor:")
    return bool(await say(examine(loaded(setup.path), setup.path, FIRST_STACK, None)))


def _title(setup: Setup) -> None:
    """Print which configuration is set up, and with whose kubeconfig."""
    click.echo(f"configuration  {setup.path}")
    click.echo(f"administrator  {setup.admin_kubeconfig or 'none: commands for an administrator are printed'}")
    if setup.chosen:
        click.echo(f"options       {setup.chosen}")
    if not setup.may_write:
        click.echo(f"this user cannot write to {setup.path.parent}: run the commands below, or run this as root")
    click.echo()


def _plan(name: str, state: StepState, *, by_hand: bool) -> None:
    """Print a step's state and what it would do. With ``by_hand``, also print the commands that do it."""
    word = "ok" if state.done else "to do" if state.do else "by hand"
    _line(word, name, "\n".join(state.will) if word == "to do" else state.what)
    for command in state.commands if by_hand and not state.done else ():
        click.echo(f"    {printable(command, lines=True)}")  # not wrapped, so that it can be copied


def _line(state: str, name: str, what: str, advice: str = "") -> None:
    """Print one step."""
    heads = ((Text(state, style=COLOURS[state]), max(map(len, COLOURS))), (Text(name), NAME_WIDTH))
    Console(highlight=False).print(advised(heads, what, advice))

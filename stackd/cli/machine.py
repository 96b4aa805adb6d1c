"""The commands of this machine: serve, demo, rebuild, setup, check, doctor, backup, reload and key.

Only their options and what is short; the work is loaded when a command runs.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stackd.cli import FAILED, USAGE
from stackd.cli import installed as common
from stackd.cli.installed import INSTALLED
from stackd.cli.manifests import server_address, site_options
from stackd.cli.options import Length, config_option, labels_of, loaded, quantity_option
from stackd.contract import SCOPES
from stackd.errors import ConfigError, StackdError
from stackd.printable import printable

if TYPE_CHECKING:
    from stackd.config import Config

# The size of the demo's cluster; a test compares it with ``EmbeddedOptions``.
NODES, START_DELAY, PULL = 2, "150ms", "0s"
MOST_NODES = 1000


@click.command()
@config_option
def serve(config_path: Path | None) -> None:
    """Run the daemon until SIGTERM."""
    from stackd import logs
    from stackd.cli import process

    configuration = loaded(config_path, beside=False)
    logs.setup(configuration.config.log)
    process.require_descriptors()
    process.run(process.serve(configuration, again=lambda: loaded(config_path, beside=False)))


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535),
    help="The port; or STACKD_SERVER__PORT.  [default: 8081, or any free one if that is taken]",
)  # fmt: skip
@click.option(
    "--log", "level", type=click.Choice(["debug", "info", "warning", "error"]), default="error", show_default=True
)
@click.option("--nodes", type=click.IntRange(1, MOST_NODES), default=NODES, show_default=True, help="How many nodes.")
@quantity_option("--node-cpu", help="CPU of each node, such as 8.  [plenty]")
@quantity_option("--node-memory", help="Memory of each node, such as 16Gi.  [plenty]")
@click.option("--start-delay", type=Length(), default=START_DELAY, show_default=True,
              help="How long a pod takes to start on its node.")  # fmt: skip
@click.option("--pull", type=Length(), default=PULL, show_default=True,
              help="How long a node takes to pull an image that it does not have.")  # fmt: skip
def demo(port: int | None, level: str, **size: Any) -> None:
    """Try stackd with an embedded cluster, a new key and throw-away state.

    Every key but those of [cluster] can be set from the environment, as for serve: STACKD_STACKS__TTL=5m. SIGHUP reloads.
    """
    from stackd import logs
    from stackd.cli import process
    from stackd.config import LogSection

    with tempfile.TemporaryDirectory(prefix="stackd-demo-") as folder:
        logs.setup(LogSection.model_validate({"level": level, "format": "text"}))
        shown = process.Demo(Path(folder), port)
        cluster = process.sized(**size)
        process.run(process.serve(shown.loaded, size=cluster, again=shown.again, on_listening=shown.print_instructions))
        click.echo("\nstopped; nothing is left" if shown.throw_away else "\nstopped; the state is kept")


@click.command()
@config_option
def rebuild(config_path: Path | None) -> None:
    """Recover every live stack from the cluster into an empty file, and report what could not be recovered."""
    from stackd import logs
    from stackd.cli import process

    configuration = loaded(config_path, serving=False)
    logs.setup(configuration.config.log)
    report = asyncio.run(process.rebuild(configuration))
    for name, reason in report.lost:
        click.echo(printable(f"not recovered: {name}: {reason}"), err=True)
    click.echo(f"recovered {len(report.recovered)} stacks into {configuration.config.state.path}")
    if report.lost:
        raise StackdError(f"{len(report.lost)} objects could not be recovered; they stay as they are")


@click.command()
@config_option
@click.option("--yes", "-y", is_flag=True, help="Carry out the plan without asking.")
@click.option("--plan", "only_plan", is_flag=True, help="Print the plan, and do nothing.")
@click.option(
    "--admin-kubeconfig", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
    help="An administrator's kubeconfig; used once, and not kept.  [KUBECONFIG, ~/.kube/config, kubeadm's, k3s']",
)  # fmt: skip
@click.option("--admin-context", default="", metavar="NAME", help="The context to use in it.  [its current one]")
@click.option("--no-admin", is_flag=True,
              help="Use no administrator's kubeconfig; print the commands that an administrator has to run.")  # fmt: skip
@click.option("--server", default="", metavar="URL", callback=server_address,
              help="Where stackd reaches the cluster.  [as the administrator does]")  # fmt: skip
@click.option("--node", "nodes", multiple=True, metavar="NAME",
              help="A node to run stacks; may be repeated.  [the only one that can]")  # fmt: skip
@click.option("--first-stack/--no-first-stack", default=True, help="Start a first stack, for 30 minutes.  [yes]")
@click.option("--image", default="nginx:stable", show_default=True,
              help="Image of the first stack; it listens on --port.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), default=80, show_default=True, help="Port of the first stack.")
@site_options
def setup(config_path: Path | None, yes: bool, only_plan: bool, **options: Any) -> None:
    """Set up an installed stackd: key, cluster, kubeconfig, nodes, service, a first stack. Shows its plan, and asks.

    Finished steps are skipped, so that the command can be run again at any time.
    """
    from stackd.cli.setup import set_up

    if config_path is None and not common.hidden():
        raise click.UsageError(f"there is no {common.INSTALLED}: install stackd first, or name a file with --config")
    if asyncio.run(set_up(config_path, options, yes=yes, only_plan=only_plan)):
        sys.exit(FAILED)


@click.command()
@config_option
@click.option("--effective", is_flag=True, help="Print every key with its value and where the value comes from.")
@click.option("--for-reload", is_flag=True, hidden=True)
def check(config_path: Path | None, effective: bool, for_reload: bool) -> None:
    """Check the configuration without starting anything; report all mistakes at once, with exit code 2."""
    from stackd.config.settings import settings
    from stackd.store.templates import stored_in
    from stackd.templates import Reader, in_force, read_templates

    if for_reload:
        _check_for_reload(config_path)
        return
    result = loaded(config_path)
    _readable_for_the_service(config_path, result.config)
    _require_own_file(result.config)
    kept = stored_in(Path(result.config.state.path))
    templates = in_force(read_templates(result.config), kept, Reader(result.config))
    unused = [
        f'the templates of the API key "{key.name}" match none that there is (templates.directory)'
        for key in result.config.auth.keys
        if key.templates and not key.templates_write and not any(map(key.may_use, templates))
    ]
    for warning in (*result.warnings, *unused, *(one.message for one in templates.problems)):
        click.echo(f"warning: {warning}", err=True)
    if not effective:
        click.echo("the configuration is valid")
        return
    lines = [(f"{s.name} = {s.text(result.config)}", result.origins[s.name]) for s in settings()]
    width = min(60, max(len(text) for text, _ in lines))
    for text, origin in lines:
        click.echo(f"{text:<{width}}  # {origin}")


def _require_own_file(config: Config) -> None:
    from stackd.store import require_own_file

    require_own_file(config.state.path, namespace=config.stacks.namespace, instance=config.cluster.instance)


def _readable_for_the_service(config_path: Path | None, config: Config) -> None:
    """Raise ConfigError for files that the service's user cannot read, even if this user can."""
    from stackd.doctor import service

    unit = service.find_unit() if common.is_installed(config_path) else None
    if unit is not None and (mistakes := [one.what for one in service.unreadable(config, config_path, unit)]):
        raise ConfigError(mistakes)


def _check_for_reload(config_path: Path | None) -> None:
    """Check for a reload: only the exit code counts, because the daemon logs the mistakes.

    systemd gives an ExecReload= no credentials, so this checks those that were handed over just before.
    """
    from stackd.config import load
    from stackd.config.credentials import API_KEY, HOW_TO_SET_ONE, KUBECONFIG, NO_CLUSTER, credential, handed_over
    from stackd.templates import read_templates

    folder = handed_over(os.environ)
    try:
        read_templates(loaded(config_path, serving=False, cluster=False).config)
        _require_own_file(load(config_path, os.environ, folder).config)
        if (kubeconfig := credential(folder, KUBECONFIG)) is not None:
            asyncio.run(_can_be_used(kubeconfig))
    except ConfigError as error:
        complete = folder is not None and (folder / API_KEY).exists()
        excused = (NO_CLUSTER,) if complete else (NO_CLUSTER, HOW_TO_SET_ONE)
        if not all(mistake.endswith(excused) for mistake in error.mistakes):
            sys.exit(USAGE)


async def _can_be_used(kubeconfig: Path) -> None:
    """Raise ConfigError if the kubeconfig cannot be used. Sends nothing."""
    from stackd.kube.client import Cluster
    from stackd.kube.credentials import ClusterTarget

    await (await Cluster.connect(ClusterTarget(kubeconfig=str(kubeconfig)))).close()


@click.command()
@config_option
@quantity_option("--cpu", default="100m", show_default=True, help="CPU of one stack.")
@quantity_option("--memory", default="128Mi", show_default=True, help="Memory of one stack.")
@quantity_option("--ephemeral-storage", "storage",
                 help="Disk of one stack.  [what policy.max_ephemeral_storage or the namespace's LimitRange gives]",
                 )  # fmt: skip
@click.option("--probe", "with_probe", is_flag=True,
              help="Start two stacks that try to reach each other, the API server and more.")  # fmt: skip
@click.option("--probe-image", help="Image of the probe; it needs sh, nc and httpd.  [busybox:stable]")
@click.option("--probe-seconds", default=90.0, show_default=True, help="How long each step of the probe may take.")
@click.option("--output", "-o", type=click.Choice(["jsonl"]),
              help="One JSON object a line: level, about, what, advice.")  # fmt: skip
def doctor(config_path: Path | None, with_probe: bool, output: str | None, **options: Any) -> None:
    """Examine this machine, the cluster and the daemon; print what is wrong, and what to do about it."""
    from stackd.cli.doctor import diagnose
    from stackd.doctor.cluster import Size
    from stackd.doctor.probe import IMAGE, ProbeOptions

    storage = options["storage"]
    size = Size(
        cpu_milli=options["cpu"].milli,
        memory_bytes=options["memory"].value,
        ephemeral_bytes=None if storage is None else storage.value,
    )
    probe = ProbeOptions(image=options["probe_image"] or IMAGE, seconds=options["probe_seconds"])
    if asyncio.run(diagnose(config_path, size, probe if with_probe else None, as_json=output is not None)):
        sys.exit(FAILED)


@click.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@config_option
@click.option("--force", is_flag=True, help="Replace FILE even if it is not a backup.")
def backup(target: Path, config_path: Path | None, force: bool) -> None:
    """Copy the state to FILE, consistently, even while the daemon runs; replace an earlier backup there. Then run
    backup.command, which takes it to another machine.

    To restore: stop the daemon, copy the file to state.path, start the daemon.
    """
    from stackd.store import backup_file
    from stackd.upkeep.backup import take_away

    config = loaded(config_path, serving=False, cluster=False).config
    source = Path(config.state.path)
    backup_file(source, target, force=force)
    click.echo(f"{source} → {target} ({target.stat().st_size:,} bytes)")
    if config.backup.command:
        take_away(config.backup, config.state.path, target)
        click.echo("backup.command has taken it away")


@click.command()
def reload() -> None:
    """Make the service read its configuration and credentials again; print what changed, and what needs a restart.

    systemctl reload prints none of that; the daemon logs it in the journal.
    """
    from stackd.doctor import service

    if not service.runs_here():
        raise click.ClickException("systemd does not run here: send the daemon a SIGHUP; its log has the result")
    began = time.time()
    taken = service.reload()
    logged, unit = service.reloads_since(began), service.find_unit()
    click.echo(logged or f"{unit.status if unit else ''}\n", nl=False)  # only log.format = "journal" names the logger
    if not taken:
        sys.exit(FAILED)


@click.group()
def key() -> None:
    """Make API keys."""


@key.command()
@click.option("--name", default="platform", show_default=True, help="What the key is called in the log.")
@click.option("--scope", type=click.Choice(SCOPES), default="admin", show_default=True)
@click.option("--label", "-l", "labels", multiple=True, metavar="KEY=VALUE", help="Of a tenant: a label of its stacks.")
@click.option("--template", "templates", multiple=True, metavar="NAME", help='Of a tenant: it may use it, or "web-*".')
@click.option("--no-pod-specs", is_flag=True, help="It creates stacks from templates only.")
@click.option("--templates-write", is_flag=True, help="Of a tenant: it may write these templates over the API.")
@click.option("--plain", is_flag=True, help="Print the key alone: stackd key new --plain > /etc/stackd/api-key")
def new(name: str, scope: str, labels: tuple[str, ...], templates: tuple[str, ...], plain: bool, **flags: bool) -> None:
    """Print a new key, once; on standard error, what to put into the configuration."""
    from pydantic import ValidationError

    from stackd.config.settings import toml
    from stackd.keys import ApiKey, new_key

    if scope == "tenant" and not labels:
        raise click.UsageError("a tenant needs a label that all its stacks get: --label event=a")
    plaintext, sha256 = new_key()
    entry: dict[str, Any] = {"name": name, "sha256": sha256, "scope": scope}
    entry |= {field: value for field, value in (("labels", labels_of(labels)), ("templates", templates)) if value}
    if flags["no_pod_specs"]:
        entry["pod_specs"] = False
    if flags["templates_write"]:
        entry["templates_write"] = True
    try:
        ApiKey.model_validate(entry)
    except ValidationError as error:  # what is printed here must pass `stackd check`
        wrong = str(error.errors()[0]["loc"][0])
        shown, what = toml(entry.get(wrong, {})), ApiKey.model_fields[wrong].description
        if wrong == "pod_specs":
            what = "a scope that creates stacks"
        hint = {"pod_specs": "--no-pod-specs", "templates_write": "--templates-write"}.get(
            wrong, f"--{wrong.rstrip('s')}"
        )
        raise click.BadParameter(f"{shown} cannot be used; {what} is expected", param_hint=hint) from error
    click.echo(plaintext)
    if not plain:
        lines = "\n".join(f"{field} = {toml(value)}" for field, value in entry.items())
        click.echo(f"# the key above is shown only now; for {INSTALLED}:\n[[auth.keys]]\n{lines}", err=True)

"""``stackd check``, ``doctor``, ``backup``, ``reload`` and ``key``: this machine's configuration, state, service and keys."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stackd.cli import FAILED, USAGE
from stackd.cli.options import INSTALLED, config_option, is_installed, loaded, quantity_option

if TYPE_CHECKING:
    from stackd.config import Config
    from stackd.quantity import Quantity

RELOADS = "stackd.upkeep.reload"
"""The logger of a reload's result."""

SCOPES = ("admin", "read", "metrics", "tenant")


@click.command()
@config_option
@click.option("--effective", is_flag=True, help="Print every key with its value and where the value comes from.")
@click.option("--for-reload", is_flag=True, hidden=True)
def check(config_path: Path | None, effective: bool, for_reload: bool) -> None:
    """Check the configuration without starting anything; report all mistakes at once, with exit code 2."""
    from stackd.config.settings import settings
    from stackd.templates import read_templates

    if for_reload:
        _check_for_reload(config_path)
        return
    result = loaded(config_path)
    _readable_for_the_service(config_path, result.config)
    _require_own_file(result.config)
    templates = read_templates(result.config)
    unused = [
        f'the templates of the API key "{key.name}" match none that there is (templates.directory)'
        for key in result.config.auth.keys
        if key.templates and not any(map(key.may_use, templates))
    ]
    for warning in (*result.warnings, *unused):
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
    from stackd.errors import ConfigError

    known = service.find_unit() if is_installed(config_path) else None
    if known is not None and (mistakes := [one.what for one in service.unreadable(config, config_path, known)]):
        raise ConfigError(mistakes)


def _check_for_reload(config_path: Path | None) -> None:
    """Check for a reload: only the exit code counts, because the daemon logs the mistakes.

    systemd gives an ExecReload= no credentials, so this checks those that were handed over just before.
    """
    import asyncio

    from stackd.config import load
    from stackd.config.credentials import API_KEY, HOW_TO_SET_ONE, KUBECONFIG, NO_CLUSTER, credential, handed_over
    from stackd.errors import ConfigError
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

    await (await Cluster.connect(ClusterTarget(mode="kubeconfig", kubeconfig=str(kubeconfig)))).close()


@click.command()
@config_option
@quantity_option("--cpu", default="100m", show_default=True, help="CPU of one stack.")
@quantity_option("--memory", default="128Mi", show_default=True, help="Memory of one stack.")
@quantity_option(
    "--ephemeral-storage",
    "storage",
    help="Disk of one stack.  [what policy.max_ephemeral_storage or the namespace's LimitRange gives]",
)
@click.option(
    "--probe",
    "with_probe",
    is_flag=True,
    help="Start two stacks that try to reach each other, the API server and more.",
)
@click.option("--probe-image", help="Image of the probe; it needs sh, nc and httpd.  [busybox:stable]")
@click.option("--probe-seconds", default=90.0, show_default=True, help="How long each step of the probe may take.")
@click.option(
    "--output", "-o", type=click.Choice(["jsonl"]), help="One JSON object a line: level, about, what, advice."
)
def doctor(config_path: Path | None, with_probe: bool, output: str | None, **options: Any) -> None:
    """Examine this machine, the cluster and the daemon; print what is wrong, and what to do about it."""
    import asyncio

    from stackd.cli.doctor import diagnose
    from stackd.doctor.cluster import Size
    from stackd.doctor.probe import IMAGE, ProbeOptions

    storage: Quantity | None = options["storage"]
    size = Size(
        cpu_milli=options["cpu"].milli,
        memory_bytes=options["memory"].whole,
        ephemeral_bytes=None if storage is None else storage.whole,
    )
    probe = ProbeOptions(image=options["probe_image"] or IMAGE, seconds=options["probe_seconds"])
    if asyncio.run(diagnose(config_path, size, probe if with_probe else None, output or "")):
        sys.exit(FAILED)


@click.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@config_option
@click.option("--force", is_flag=True, help="Replace FILE even if it is not a backup.")
def backup(target: Path, config_path: Path | None, force: bool) -> None:
    """Copy the state to FILE, consistently, even while the daemon runs; replace an earlier backup there.

    To restore: stop the daemon, copy the file to state.path, start the daemon.
    """
    from stackd.store import backup_file

    source = Path(loaded(config_path, serving=False, cluster=False).config.state.path)
    backup_file(source, target, force=force)
    click.echo(f"{source} → {target} ({target.stat().st_size:,} bytes)")


@click.command()
def reload() -> None:
    """Make the service read its configuration and credentials again; print what changed, and what needs a restart.

    systemctl reload prints none of that; the daemon logs it in the journal.
    """
    from stackd.doctor import service

    if not service.runs_here():
        raise click.ClickException(
            "systemd does not run here: send the daemon a SIGHUP, and read the result in its log"
        )
    began = time.time()
    taken = service.reload()
    click.echo(service.said_since(began, RELOADS), nl=False)
    if not taken:
        sys.exit(FAILED)


@click.group()
def key() -> None:
    """Make API keys."""


@key.command()
@click.option("--name", default="platform", show_default=True, help="What the key is called in the log.")
@click.option("--scope", type=click.Choice(SCOPES), default="admin", show_default=True)
@click.option("--label", "-l", "labels", multiple=True, metavar="KEY=VALUE", help="Of a tenant: a label of its stacks.")
@click.option(
    "--template", "templates", multiple=True, metavar="NAME", help='Of a tenant: it may use it, or all "web-*".'
)
@click.option("--plain", is_flag=True, help="Print the key alone: stackd key new --plain > /etc/stackd/api-key")
def new(name: str, scope: str, labels: tuple[str, ...], templates: tuple[str, ...], plain: bool) -> None:
    """Print a new key, once; on standard error, what to put into the configuration."""
    from stackd.config.settings import toml
    from stackd.keys import new_key

    plaintext, sha256 = new_key()
    pairs = {key: value for key, _, value in (label.partition("=") for label in labels)}
    tenant = ({"labels": pairs} if pairs else {}) | ({"templates": templates} if templates else {})
    entry = {"name": name, "sha256": sha256, "scope": scope, **tenant}
    _require_valid(entry)
    click.echo(plaintext)
    if plain:
        return
    lines = "\n".join(f"{field} = {toml(value)}" for field, value in entry.items())
    click.echo(f"# the key above is shown only now; for {INSTALLED}:\n[[auth.keys]]\n{lines}", err=True)


def _require_valid(entry: dict[str, Any]) -> None:
    """Raise BadParameter unless the configuration accepts the entry: ``stackd check`` must not refuse what is printed."""
    from pydantic import ValidationError

    from stackd.config.settings import toml
    from stackd.keys import ApiKey

    try:
        ApiKey.model_validate(entry)
    except ValidationError as error:
        wrong = str(error.errors()[0]["loc"][0])
        shown, what = toml(entry.get(wrong, {})), ApiKey.model_fields[wrong].description
        raise click.BadParameter(
            f"{shown} cannot be used; {what} is expected", param_hint=f"--{wrong.rstrip('s')}"
        ) from error

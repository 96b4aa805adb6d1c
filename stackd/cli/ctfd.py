"""``stackd ctfd``: puts the plugin that this stackd comes with into a CTFd."""

from __future__ import annotations

import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import click

from stackd.cli import DRIFT, group
from stackd.version import VERSION

# In a checkout it is a link to integrations/ctfd; the dot keeps it from being a package of stackd.
PLUGIN = Path(__file__).with_name("ctfd.plugin")
NAME = "stackd_instances"
WORKS_WITH = ("3.7", "3.8")


@group()
def ctfd() -> None:
    """The plugin for CTFd."""


@ctfd.command(short_help="Put the plugin into a CTFd, or replace an older one.")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--check", is_flag=True, help="Change nothing; exit with 3 if the plugin is missing, or another one.")
def install(folder: Path, check: bool) -> None:
    """Put the plugin into the CTFd in DIR, in place of the one that is there. Then restart CTFd.

    \b
    stackd ctfd install /opt/CTFd
    """
    version = _version(folder)
    target = folder / "CTFd" / "plugins" / NAME
    there = _files(target)
    if there == _files(PLUGIN):
        click.echo(f"{target} is the plugin of stackd {VERSION}")
        return
    if check:
        click.echo(f"{target} {'is not the plugin' if there else 'is missing: the plugin'} of stackd {VERSION}")
        sys.exit(DRIFT)
    if target.is_symlink():
        raise click.ClickException(f"{target} is a link to {target.resolve()}: remove it first")
    try:
        _replace(target)
    except OSError as error:
        raise click.ClickException(f"{target} could not be written: {error}") from error
    before = ", in place of another one" if there else ""
    click.echo(f"installed the plugin of stackd {VERSION} in {target}{before}. Restart CTFd {version}.")


def _version(folder: Path) -> str:
    """The version of the CTFd in the folder. Raises ClickException if there is none, or one that the plugin is not for."""
    try:
        found = re.search(r'^__version__ = "([\w.+-]+)"', (folder / "CTFd" / "__init__.py").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        found = None
    if found is None or not (folder / "CTFd" / "plugins").is_dir():
        raise click.ClickException(f"{folder} is no CTFd: it has no CTFd/__init__.py with a version, and CTFd/plugins")
    version = found[1]
    if ".".join(version.split(".")[:2]) not in WORKS_WITH:
        raise click.ClickException(
            f"{folder} is CTFd {version}, and the plugin is for {' and '.join(WORKS_WITH)}. "
            f"To try it nevertheless, copy {PLUGIN} to CTFd/plugins/{NAME}."
        )
    return version


def _files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _replace(target: Path) -> None:
    """Write the plugin beside the target, and exchange them: CTFd, which overlooks names with a dot, never sees half of it."""
    new, old = (target.with_name(f".{NAME}.{word}") for word in ("new", "old"))
    for left in (new, old):  # by one that was interrupted
        with suppress(FileNotFoundError):
            shutil.rmtree(left)
    shutil.copytree(PLUGIN, new, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (new, *new.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # CTFd may run as another user
    with suppress(FileNotFoundError):
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)

"""``stackd push``: a folder of templates, sent to a daemon over its API.

Owns: what differs between the folder and the daemon, and that nothing is sent while a template in the folder is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stackd.cli import output as render
from stackd.cli.target import client_options, interruptible
from stackd.printable import printable, some_of

if TYPE_CHECKING:
    from stackd.client import ApiError, Client

SHOWN = 4
"""How many fields of a changed template are named."""


@dataclass(slots=True, kw_only=True)
class Changes:
    """What a push would do, by template: ``put`` with a word and the fields that differ, ``delete``; and what is wrong."""

    put: dict[str, str] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)


@click.command()
@client_options
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--prune", is_flag=True, help="Delete the daemon's templates of the API that the folder lacks.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would change, and send nothing.")
def push(client: Client, folder: Path, prune: bool, dry_run: bool) -> None:
    """Send the templates in a folder (NAME.yaml each) to a daemon.

    Says what is new, changed, the same, and deleted. If a template is wrong, prints all mistakes with their lines, sends
    nothing, and ends with exit code 1. Templates of files on the daemon's machine stay as they are.

    \b
    stackd push challenges/ --dry-run
    stackd push challenges/ --prune
    """
    texts, mistakes = _texts(folder)
    changes = _changes(client, folder, texts, prune=prune)
    if mistakes := [*mistakes, *changes.mistakes]:
        raise click.ClickException("\n".join([*map(printable, mistakes), "nothing was sent"]))
    if not texts:
        click.echo(printable(f"{folder} has no templates: NAME.yaml is expected in it, not in its folders"), err=True)
    with interruptible("what is listed was sent; the same push sends the rest"):
        for name, what in changes.put.items():
            if not dry_run:
                client.put_template(name, texts[name])
            click.echo(printable(what))
        for name in changes.delete:
            if not dry_run:
                client.delete_template(name)
            click.echo(f"deleted  {name}")
    for name in changes.same:
        click.echo(f"same     {name}")
    if dry_run:
        click.echo(
            f"a dry run: {render.counted(len(changes.put) + len(changes.delete), 'template')} would change", err=True
        )


def _texts(folder: Path) -> tuple[dict[str, str], list[str]]:
    from stackd.templates.read import template_files

    mistakes: list[str] = []
    texts = {}
    for path in template_files(folder, mistakes):
        try:
            texts[path.stem] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            mistakes.append(f"{path}: the file cannot be read: {error}")
    return texts, mistakes


def _changes(client: Client, folder: Path, texts: dict[str, str], *, prune: bool) -> Changes:
    from stackd.client import ApiError as Refused
    from stackd.client import Conflict, KeyRefused
    from stackd.templates.template import version_of

    changes, there = Changes(), {one.name: one for one in client.templates()}
    for name, text in texts.items():
        known = there.get(name)
        if known is not None and known.version == version_of(text.encode()):
            changes.same.append(name)
            continue
        try:
            client.put_template(name, text, dry_run=True)
        except (KeyRefused, Conflict) as error:
            changes.mistakes.append(f"{folder / name}.yaml: {error.sentence}")
        except Refused as error:
            if error.status not in (400, 413):
                raise
            changes.mistakes += _mistakes(f"{folder / name}.yaml", error)
        else:
            changes.put[name] = f"new      {name}"
            if known is not None:
                differ = [*_differences(_fields(client.template(name).text), _fields(text))]
                changes.put[name] = f"changed  {name}: {some_of(differ or ['comments'], SHOWN)}"
    if prune:
        changes.delete = [name for name, one in there.items() if one.source == "api" and name not in texts]
    return changes


def _mistakes(file: str, error: ApiError) -> Iterator[str]:
    for one in error.reasons or [{"line": None, "path": "", "text": error.sentence}]:
        place = f"{file}:{one['line']}" if one["line"] else file
        yield f"{place}: {one['path']}: {one['text']}" if one["path"] else f"{place}: {one['text']}"


def _fields(text: str) -> Any:
    from stackd.errors import InvalidPodSpec
    from stackd.podspec.yaml_text import read

    try:
        return read(text)
    except InvalidPodSpec:
        return {}


def _differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """The paths of the fields that differ."""
    from stackd.podspec.reasons import below

    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            here = below(path, key)
            if key in before and key in after:
                yield from _differences(before[key], after[key], here)
            else:
                yield here
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif before != after:
        yield path

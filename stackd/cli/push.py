"""``stackd push``: a folder of templates, sent to a daemon over its API.

Owns: what differs between the folder and the daemon, and that nothing is sent while a template in the folder is wrong.
"""

from __future__ import annotations

import sys
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

OF_A_TEMPLATE = frozenset({"target_port", "pod"})
"""A file of a folder within the folder is a template if it has one of these fields."""


@dataclass(slots=True, kw_only=True)
class Source:
    """The templates of a folder: their files and texts by name; what is wrong with the files, and those that are none."""

    files: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Changes:
    """What a push would do, by template: ``put`` with a word and the fields that differ, ``delete``; and what is wrong.
    ``kept``: what the folder lacks, and others have written."""

    put: dict[str, str] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)


@click.command()
@client_options
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--prune", is_flag=True, help="Delete what this key has written and the folder lacks; asks before.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would change, and send nothing.")
def push(client: Client, folder: Path, prune: bool, yes: bool, dry_run: bool) -> None:
    """Send the templates in a folder and the folders in it (NAME.yaml each) to a daemon.

    Says what is new, changed, the same, and deleted. If a template is wrong, prints all mistakes with their lines, sends
    nothing, and ends with exit code 1. Templates of files on the daemon's machine stay as they are, and --prune leaves
    those that another key has written. It deletes nothing for a folder without templates.

    \b
    stackd push challenges/ --dry-run
    stackd push challenges/ --prune --yes
    """
    source = _source(folder)
    changes = _changes(client, source, prune=prune)
    if mistakes := [*source.mistakes, *changes.mistakes]:
        raise click.ClickException("\n".join([*map(printable, mistakes), "nothing was sent"]))
    if source.others:
        click.echo(printable(f"no templates, and not sent: {some_of(source.others, SHOWN)}"), err=True)
    if not source.texts:
        raise click.ClickException(
            f"{printable(str(folder))} has no templates: NAME.yaml is expected; nothing was sent"
        )
    if changes.kept:
        click.echo(printable(f"written by others, and not deleted: {some_of(changes.kept, SHOWN)}"), err=True)
    if changes.delete and not (yes or dry_run):
        _ask(changes.delete)
    with interruptible("what is listed was sent; the same push sends the rest"):
        for name, what in changes.put.items():
            if not dry_run:
                client.put_template(name, source.texts[name])
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


def _ask(names: list[str]) -> None:
    what = f"{render.counted(len(names), 'template')} that the folder lacks ({', '.join(names)})"
    if not sys.stdin.isatty():
        raise click.UsageError(f"this would delete {what}; confirm with --yes. Nothing was sent")
    click.confirm(f"Delete {what}?", abort=True, err=True)


def _source(folder: Path) -> Source:
    from stackd.template_files import mistake_in_name, template_files

    source = Source()
    for path in template_files(folder, source.mistakes):
        _add(source, path)
    for path in sorted(folder.rglob("*.y*ml")):
        parts = path.relative_to(folder).parts
        if len(parts) == 1 or any(part.startswith(".") for part in parts) or not path.is_file():
            continue
        if not OF_A_TEMPLATE & _fields(_read(source, path)).keys():
            source.others.append(str(path))
        elif mistake := mistake_in_name(path):
            source.mistakes.append(mistake)
        else:
            _add(source, path)
    return source


def _add(source: Source, path: Path) -> None:
    if path.stem in source.files:
        source.mistakes.append(
            f"{path}: {source.files[path.stem]} is the template {path.stem}, too; rename one of them"
        )
        return
    source.files[path.stem], source.texts[path.stem] = path, _read(source, path)


def _read(source: Source, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        source.mistakes.append(f"{path}: the file cannot be read: {error}")
        return ""


def _changes(client: Client, source: Source, *, prune: bool) -> Changes:
    from stackd.client import ApiError as Refused
    from stackd.client import Conflict, KeyRefused
    from stackd.template_files import version_of

    changes, there = Changes(), {one.name: one for one in client.templates()}
    for name, text in source.texts.items():
        known, file = there.get(name), source.files[name]
        if known is not None and known.version == version_of(text.encode()):
            changes.same.append(name)
            continue
        try:
            client.put_template(name, text, dry_run=True)
        except (KeyRefused, Conflict) as error:
            changes.mistakes.append(f"{file}: {error.sentence}")
        except Refused as error:
            if error.status not in (400, 413):
                raise
            changes.mistakes += _mistakes(str(file), error)
        else:
            changes.put[name] = f"new      {name}"
            if known is not None:
                differ = [*_differences(_fields(client.template(name).text), _fields(text))]
                changes.put[name] = f"changed  {name}: {some_of(differ or ['comments'], SHOWN)}"
    if prune:
        own = client.key().name
        for name, one in there.items():
            if one.source != "file" and name not in source.texts:
                (changes.delete if one.written_by == own else changes.kept).append(name)
    return changes


def _mistakes(file: str, error: ApiError) -> Iterator[str]:
    for one in error.reasons or [{"line": None, "path": "", "text": error.sentence}]:
        place = f"{file}:{one['line']}" if one["line"] else file
        yield f"{place}: {one['path']}: {one['text']}" if one["path"] else f"{place}: {one['text']}"


def _fields(text: str) -> Any:
    """What is in a template's text; stackd itself says what is wrong with it."""
    import yaml

    try:
        fields = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """The paths of the fields that differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            here = f"{path}.{key}" if path else str(key)
            if key in before and key in after:
                yield from _differences(before[key], after[key], here)
            else:
                yield here
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif before != after:
        yield path

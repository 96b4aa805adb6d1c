"""``stackd push``: a folder of templates, sent to a daemon over its API.

Owns: what differs between the folder and the daemon, and that nothing is sent while a template in the folder is wrong; and how
one value of a YAML text is replaced or added (``--set``), while all else in it, comments too, stays as it is.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import yaml

from stackd.cli import DRIFT, NO_KEY
from stackd.cli import output as render
from stackd.cli.options import confirm, output_option
from stackd.cli.target import client_options, interruptible, no_key
from stackd.client import ApiError, Client, Conflict, KeyRefused, Template, Unreachable
from stackd.printable import printable, some_of
from stackd.template_files import mistake_in_name, template_files, version_of

SENT = ("new", "changed", "deleted")
ORDER = {"new": 0, "changed": 0, "deleted": 1, "same": 2, "kept": 3}
# How many names, or fields of a changed template, are shown.
SHOWN = 4

BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
# A file of a folder within the folder is a template if it has one of these fields.
OF_A_TEMPLATE = frozenset({"target_port", "pod"})


@dataclass(slots=True, kw_only=True)
class Source:
    """The templates of a folder: their files and texts by name; what is wrong with the files, and those that are none."""

    files: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a push would do about one template; ``fields``: of a changed one, those that differ.

    ``kept`` is what the folder lacks, and others have written.
    """

    name: str
    change: Literal["new", "changed", "deleted", "same", "kept"]
    fields: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        more = f": {some_of(self.fields or ['comments'], SHOWN)}" if self.change == "changed" else ""
        return f"{self.change:<8} {self.name}{more}"


@click.command()
@client_options
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--prune", is_flag=True, help="Delete what this key has written and the folder lacks; asks before.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would change, and send nothing.")
@click.option("--check", is_flag=True, help="As --dry-run; exit code 3 if something would change, 4 without a key.")
@click.option(
    "--set", "values", multiple=True, metavar="NAME.FIELD=VALUE",
    help="Another value in a template, as YAML, for this daemon: web-1.pool=20. May be repeated.",
)  # fmt: skip
@output_option("json")
def push(client: Client, folder: Path, output: str | None, values: tuple[str, ...], **options: bool) -> None:
    """Send the templates in a folder and the folders in it (NAME.yaml each) to a daemon.

    Says what is new, changed, the same, and deleted. If a template is wrong, prints all mistakes with their lines, sends
    nothing, and ends with exit code 1. Templates of files on the daemon's machine stay as they are, and --prune leaves
    those that another key has written. It deletes nothing for a folder without templates.

    \b
    stackd push challenges/ --check
    stackd push challenges/ --prune --yes --set web-1.pool=20
    """
    source, sends = _source(folder), not (options["dry_run"] or options["check"])
    _override(source, values)
    try:
        changes = _changes(client, source, prune=options["prune"])
    except (KeyRefused, Unreachable):
        if client.has_key or not options["check"]:
            raise
        source.mistakes += [
            f"{source.files[name]}: a mapping with target_port and pod is expected, in YAML"
            for name, text in source.texts.items()
            if not _fields(text).keys() >= OF_A_TEMPLATE
        ]
        _refuse(source.mistakes, output)
        click.echo(f"nothing was compared with what stackd has: {no_key(client.url)}", err=True)
        sys.exit(NO_KEY)
    _refuse(source.mistakes, output)
    if source.others:
        click.echo(printable(f"no templates, and not sent: {some_of(source.others, SHOWN)}"), err=True)
    if not source.texts:
        raise click.ClickException(
            f"{printable(str(folder))} has no templates: NAME.yaml is expected; nothing was sent"
        )
    if kept := [one.name for one in changes if one.change == "kept"]:
        click.echo(printable(f"written by others, and not deleted: {some_of(kept, SHOWN)}"), err=True)
    if (deleted := [one.name for one in changes if one.change == "deleted"]) and sends:
        what = f"{render.counted(len(deleted), 'template')} that the folder lacks ({', '.join(deleted)})"
        confirm("delete", what, yes=options["yes"])
    _carry_out(client, source, changes, sends=sends, output=output)
    if would := sum(one.change in SENT for one in changes) if not sends else 0:
        click.echo(f"a dry run: {render.counted(would, 'template')} would change", err=True)
        sys.exit(DRIFT if options["check"] else 0)


def _carry_out(client: Client, source: Source, changes: list[Change], *, sends: bool, output: str | None) -> None:
    with interruptible("what is listed was sent; the same push sends the rest"):
        for one in changes:
            if sends and one.change in ("new", "changed"):
                client.put_template(one.name, source.texts[one.name])
            elif sends and one.change == "deleted":
                client.delete_template(one.name)
            if not output and one.change != "kept":
                click.echo(printable(one.line))
    if output:
        render.print_json({"sent": sends, "templates": [asdict(one) for one in changes], "others": source.others})


def _refuse(mistakes: list[str], output: str | None) -> None:
    if mistakes:
        if output:
            render.print_json({"sent": False, "mistakes": mistakes})
        raise click.ClickException("\n".join([*map(printable, mistakes), "nothing was sent"]))


def _override(source: Source, values: tuple[str, ...]) -> None:
    for one in values:
        where, equals, value = one.partition("=")
        name, *path = where.split(".")
        if not equals or not path or not all(path):
            raise click.UsageError(f"--set must be like web-1.pool=20, not {printable(one)!r}")
        if name not in source.texts:
            raise click.UsageError(f"--set {printable(one)}: the folder has no template {printable(name)}")
        try:
            source.texts[name] = _overridden(source.texts[name], path, value)
        except ValueError as error:
            raise click.UsageError(f"--set {printable(one)}: {printable(str(error))}") from error


def _source(folder: Path) -> Source:
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


def _changes(client: Client, source: Source, *, prune: bool) -> list[Change]:
    """In the order in which they are sent; adds what is wrong to the source's mistakes."""
    there = {one.name: one for one in client.templates()}
    found = [_change(client, source, name, there.get(name)) for name in source.texts]
    changes = [change for change in found if change is not None]
    if prune:
        own = client.key().name
        for name, one in there.items():
            if one.source != "file" and name not in source.texts:
                changes.append(Change(name=name, change="deleted" if one.written_by == own else "kept"))
    return sorted(changes, key=lambda one: ORDER[one.change])


def _change(client: Client, source: Source, name: str, known: Template | None) -> Change | None:
    """What a push would do about a template of the folder; None if it is wrong."""
    text, file = source.texts[name], source.files[name]
    if known is not None and known.version == version_of(text.encode()):
        return Change(name=name, change="same")
    try:
        client.put_template(name, text, dry_run=True)
    except (KeyRefused, Conflict) as error:
        source.mistakes.append(f"{file}: {error.sentence}")
    except ApiError as error:
        if error.status not in (400, 413):
            raise
        source.mistakes += _mistakes(str(file), error)
    else:
        if known is None:
            return Change(name=name, change="new")
        fields = [*_differences(_fields(client.template(name).text), _fields(text))]
        return Change(name=name, change="changed", fields=fields)
    return None


def _mistakes(file: str, error: ApiError) -> Iterator[str]:
    for one in error.reasons or [{"line": None, "path": "", "text": error.sentence}]:
        place = f"{file}:{one['line']}" if one["line"] else file
        yield f"{place}: {one['path']}: {one['text']}" if one["path"] else f"{place}: {one['text']}"


def _fields(text: str) -> Any:
    """What is in a template's text; stackd itself says what is wrong with it."""
    try:
        fields = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from _differences(before.get(key, ...), after.get(key, ...), f"{path}.{key}" if path else str(key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif before != after:
        yield path


def _overridden(text: str, path: list[str], value: str) -> str:
    """The text with the value, as YAML, at this path of keys and, in lists, numbers. Raises ValueError with what is wrong."""
    try:
        wanted = json.dumps(yaml.safe_load(value))
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
        for at, name in enumerate(path):
            inner = _inside(node, name)
            if inner is None:
                return _verified(_added(text, node, path[at:], wanted), path, wanted)
            node = inner
        start, end = node.start_mark.index, node.end_mark.index
        rest = text[end - (len(text[start:end]) - len(text[start:end].rstrip())) :]
        return _verified(f"{text[:start]} {wanted}{rest}", path, wanted)
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(f"it is not YAML: {error}") from error


def _inside(node: Any, name: str) -> Any:
    """The value of this key or number; None if a mapping has no such key."""
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == name), None)
    if isinstance(node, yaml.SequenceNode) and name.isdecimal() and int(name) < len(node.value):
        return node.value[int(name)]
    raise ValueError(f"there is no {name} in what is not a mapping, or not so long a list")


def _added(text: str, node: yaml.MappingNode, path: list[str], wanted: str) -> str:
    for name in reversed(path[1:]):
        wanted = f"{{{json.dumps(name)}: {wanted}}}"
    entry = f"{path[0] if BARE.fullmatch(path[0]) else json.dumps(path[0])}: {wanted}"
    start = node.start_mark.index
    if node.flow_style:
        return f"{text[: start + 1]}{entry}{', ' if node.value else ''}{text[start + 1 :]}"
    return f"{text[:start]}{entry}\n{' ' * node.start_mark.column}{text[start:]}"


def _verified(text: str, path: list[str], wanted: str) -> str:
    found = yaml.safe_load(text)
    for name in path:
        found = found[int(name) if isinstance(found, list) else name]
    if json.dumps(found) != wanted:
        raise ValueError("the value cannot be set in this text; write it there")
    return text

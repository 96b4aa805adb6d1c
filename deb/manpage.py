"""Write the manual page stackd(1) from the commands' own help, stackd-config(5) from the table of the keys, or docs/errors.md
from that of the errors' codes.

Run by `make install` and `make deb` with the Python that stackd was installed for. The date is SOURCE_DATE_EPOCH's, if set.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from stackd.cli import stackd
from stackd.codes import ORGANISERS, ErrorCode, for_players
from stackd.config.sections import SECTIONS
from stackd.config.settings import settings
from stackd.version import VERSION

FILES = {
    "/etc/stackd/config.toml": "The configuration; each command takes it unless another file is named by --config or "
    "STACKD_CONFIG. Each key can be set from the environment, too: STACKD_<SECTION>__<KEY>.",
    "/etc/stackd/templates/NAME.yaml": "Templates, which creates ask for by name.",
    "/etc/stackd/api-key, /etc/stackd/play-secret, /etc/stackd/kubeconfig": "The API key, the secret that signs players' links, "
    "and the way into the cluster. They are readable by root only; "
    "systemd hands them to the service at a start and at a reload.",
    "/var/lib/stackd": "The state.",
    "~/.config/stackd/client.toml": "url, key or key_file, ca_file: which daemon the commands talk to, unless --url and "
    "--key-file, STACKD_URL and STACKD_API_KEY, or this machine's configuration say so.",
}
EXIT = {
    "0": "Done.",
    "1": "Failed.",
    "2": "Wrong usage, or a wrong configuration.",
    "3": "Of push --check and ctfd install --check: something differs.",
    "4": "Of push --check: no API key was given.",
}
SEE_ALSO = "stackd-config(5), systemctl(1), journalctl(1), kubectl(1)"
CONFIG = (
    "The configuration is TOML. A key that is not there has its default. Durations are written 1h30m, sizes 1MiB. `stackd "
    "check` reports all mistakes at once; `stackd check --effective` prints what is in force. Each key can be set from the "
    "environment, too, which wins over the file: STACKD_<SECTION>__<KEY>."
)
ENVIRONMENT = {
    "STACKD_AUTH__KEY": "An admin key for the callers, beside those of auth.keys and auth.key_file.",
    "STACKD_CONFIG": "The configuration file, unless --config names one.",
}

ERRORS = """\
# Errors

Every error is `{{"error": "<sentence>", "code": "<code>"}}`. `error` is for people and may be reworded. `code` is for programs:
its meaning never changes, but a later version may have more codes. Treat an unknown one by the status of the answer. Each failure
in a batch job's `errors` has a `code`, too.

| beside them | |
|---|---|
| `reasons` | of a 400: each mistake, with `path`, `line` in the pod spec (or null) and `text`, in the order of the lines |
| `stack_id` | of `label_limit_reached`: the existing stack |
| `detail` | what Kubernetes, the scheduler or a socket reported, for the operator of stackd |
| `player_message` | what a player may read |

## What players may read

Show a player `player_message`, and nothing else of an error: `error` and `detail` name configuration keys, ids and machines.
Every error has it, and so has every exception of `stackd.client`, also for an answer that did not come. Where the table has none,
nothing that a player does helps, and it is "{organisers}" Log `error` then: the platform or its operator has to act.

## All codes

*Repeat?* says whether the same request may succeed later. `Retry-After` is in seconds.

"""


def errors_page() -> str:
    """The page of the errors."""
    rows = ["| code | status | meaning | repeat? | `player_message` |", "|---|---|---|---|---|"]
    for code in ErrorCode:
        shown = {
            "{extensible}": "This instance can be extended by … at most.",
            "{retry_after}": "…",
            "{hours}": "This opens at ….",
        }
        players = "" if code.says == ORGANISERS else code.players
        for hole, text in shown.items():
            players = players.replace(hole, text)
        rows.append(f"| `{code}` | {code.status} | {code.about} | {code.repeat} | {players} |")
    return ERRORS.format(organisers=for_players(ORGANISERS)) + "\n".join(rows) + "\n"


def page() -> str:
    """The page of the commands."""
    lines = [
        _head("STACKD 1", "User Commands"),
        *_section("NAME", "stackd - stacks on demand: hardened pods behind node ports, over a REST API"),
        *_section("SYNOPSIS"),
        r".B stackd",
        r"[\fB\-\-version\fR] [\fB\-\-help\fR] \fICOMMAND\fR [\fIARGUMENTS\fR]",
        *_section("DESCRIPTION", _plain(stackd.help)),
        *_section("COMMANDS"),
    ]
    context = click.Context(stackd, info_name="stackd")
    for command, inner in _commands(stackd, context):
        lines += _command(command, inner)
    lines += [
        *_section("FILES"),
        *_terms(FILES),
        *_section("EXIT STATUS"),
        *_terms(EXIT),
        *_section("SEE ALSO", SEE_ALSO),
    ]
    return "\n".join(lines) + "\n"


def _names(command: click.Command, context: click.Context) -> list[str]:
    group: Any = context.parent.command if context.parent is not None else None
    return list(group.names(context.info_name)) if hasattr(group, "names") else [str(context.info_name)]


def _options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in command.params:
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            yield record


def config_page() -> str:
    """The page of the configuration."""
    lines = [
        _head("STACKD-CONFIG 5", "File Formats"),
        *_section("NAME", "stackd-config - the configuration of stackd, /etc/stackd/config.toml"),
        *_section("DESCRIPTION", CONFIG),
    ]
    for section, model in SECTIONS.items():
        lines += [f'.SH "[{section}]"', _escaped((model.__doc__ or "").strip())]
        for one in (one for one in settings() if one.section == section):
            when = "reload" if one.live else "restart"
            lines += _terms({f"{one.key} = {one.default}": f"{one.why} A change takes effect at a {when}."})
    lines += [*_section("ENVIRONMENT"), *_terms(ENVIRONMENT), *_section("SEE ALSO", "stackd(1)")]
    return "\n".join(lines) + "\n"


def _head(name: str, manual: str) -> str:
    now = int(os.environ.get("SOURCE_DATE_EPOCH") or datetime.now(tz=UTC).timestamp())
    day = datetime.fromtimestamp(now, tz=UTC).date().isoformat()
    return f'.TH {name} "{day}" "stackd {VERSION}" "{manual}"'


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """All commands that do something, in the order of their names; those of a group stand in its place."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(command, inner)
        else:
            yield command, inner


def _command(command: click.Command, context: click.Context) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f'.SS "{_escaped(f"{context.command_path} {usage}".strip())}"', *_paragraphs(_plain(command.help))]
    if others := ", ".join(_names(command, context)[1:]):
        lines += [".PP", _escaped(f"Also called {others}.")]
    lines += _terms(dict(_options(command, context)))
    return lines


def _section(title: str, text: str = "") -> list[str]:
    return [f".SH {title}", *(_paragraphs(text)[1:] if text else ())]


def _terms(terms: dict[str, str]) -> list[str]:
    return [line for term, text in terms.items() for line in (".TP", rf"\fB{_escaped(term)}\fR", _escaped(text or " "))]


def _paragraphs(text: str) -> list[str]:
    r"""Paragraphs; one that begins with \b keeps its lines."""
    lines: list[str] = []
    for paragraph in filter(str.strip, text.split("\n\n")):
        lines.append(".PP")
        if paragraph.lstrip().startswith("\b"):
            kept = [line for line in paragraph.splitlines() if line.strip("\b ")]
            lines += [".nf", *map(_escaped, kept), ".fi"]
        else:
            lines.append(_escaped(" ".join(paragraph.split())))
    return lines


def _plain(text: str | None) -> str:
    return "\n".join(line.strip(" ") for line in (text or "").strip().splitlines())


def _escaped(text: str) -> str:
    """No character of the text means anything to troff."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.stdout.write({"config": config_page, "errors": errors_page}.get(" ".join(sys.argv[1:]), page)())

"""The commands. Exit codes: 0 done, 1 failed, 2 usage or configuration, 130 interrupted; of ``push --check``, also 3 (something
differs; of ``ctfd install --check``, too) and 4 (no key).

Owns: arguments, output, and the exit code. The work of each command is elsewhere, and is loaded when the command runs.

machine    serve, demo, rebuild, setup, check, doctor, backup, reload, key: this machine's daemon, configuration and keys
process, setup, doctor    what these load when they run
manifests  manifests; provision, admission: the objects that a cluster needs before stackd runs, and how setup applies them
stacks     stacks …: the group, and what reads and creates; change, watch: the others
jobs       jobs …: batch jobs
links      links …: for players; link_files: their files; players: the files of players that they and stacks create read
roster     players, message
system     templates, stats, capacity, events, activity, reconcile, owner, takeover, rehearse: the daemon, over its API
push       a folder of templates, over the API, with the values of an environment
rehearsal  what rehearse loads when it runs
testing    test, over the API
ctfd       the plugin for CTFd, which is beside it as ctfd.plugin
options    what commands share
target     which daemon a client is for
output     tables, lines and JSON
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from stackd.printable import is_journal, printable
from stackd.version import VERSION

FAILED = 1
USAGE = 2
DRIFT = 3
NO_KEY = 4
INTERRUPTED = 130

COMMANDS = {
    "setup": ("stackd.cli.machine:setup", "Set up an installed stackd, up to a first stack."),
    "serve": ("stackd.cli.machine:serve", "Run the daemon until SIGTERM."),
    "demo": ("stackd.cli.machine:demo", "Try stackd with an embedded cluster and throw-away state."),
    "check": ("stackd.cli.machine:check", "Check the configuration; start nothing."),
    "doctor": ("stackd.cli.machine:doctor", "Find what is wrong with this machine, the cluster and the daemon."),
    "manifests": ("stackd.cli.manifests:manifests", "Print what stackd needs in its cluster, as YAML."),
    "backup": ("stackd.cli.machine:backup", "Copy the state, even while the daemon runs."),
    "rebuild": ("stackd.cli.machine:rebuild", "Recover the state from the cluster."),
    "reload": ("stackd.cli.machine:reload", "Make the service reload its configuration."),
    "key": ("stackd.cli.machine:key", "Make API keys."),
    "stacks": ("stackd.cli.stacks:stacks", "Show and change stacks."),
    "templates": ("stackd.cli.system:templates", "List the templates, or delete some."),
    "push": ("stackd.cli.push:push", "Send a folder of templates to a daemon."),
    "test": ("stackd.cli.testing:test", "Try templates: a stack of each, its check, its deletion."),
    "jobs": ("stackd.cli.jobs:jobs", "Show batch jobs, or wait for them."),
    "links": ("stackd.cli.links:links", "Make and revoke links for players."),
    "players": ("stackd.cli.roster:players", "Show who has a link, and what has become of it."),
    "message": ("stackd.cli.roster:message", "Say something to players."),
    "ctfd": ("stackd.cli.ctfd:ctfd", "Put the plugin into a CTFd."),
    "flags": ("stackd.cli.flags:flags", "Find whose a generated value is, or print them all."),
    "stats": ("stackd.cli.system:stats", "Count stacks, ports and what they reserve."),
    "capacity": ("stackd.cli.system:capacity", "Show how many more stacks fit."),
    "rehearse": ("stackd.cli.system:rehearse", "Start many stacks as players would, and measure."),
    "events": ("stackd.cli.system:events", "Print what changes, as it changes."),
    "activity": ("stackd.cli.system:activity", "Show which key asked for what."),
    "reconcile": ("stackd.cli.system:reconcile", "Show the reconciliation's plan, or release its brake."),
    "owner": ("stackd.cli.system:owner", "Show who owns the stacks."),
    "takeover": ("stackd.cli.system:takeover", "Make a standby take over the stacks."),
}


class _Group(click.Group):
    """A group that names the nearest command for a wrong name.

    ``table``: name → (``module:attribute``, one line of help) of commands that are loaded when they run: ``--version``,
    ``--help`` and completion load none. ``aliases``: another name → name. ``default``: the command that runs if none is named.
    """

    def __init__(
        self,
        *args: Any,
        table: Mapping[str, tuple[str, str]] = {},
        aliases: Mapping[str, str] = {},
        default: str = "",
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self._table, self._aliases, self._default = table, aliases, default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self._default and args[:1] not in (["-h"], ["--help"]) and (not args or args[0].startswith("-")):
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def names(self, command: str) -> list[str]:
        return [command, *(alias for alias, name in self._aliases.items() if name == command)]

    def lines(self) -> dict[str, str]:
        """One line of help for each command."""
        own = {name: command.get_short_help_str(100) for name, command in self.commands.items()}
        return own | {name: line for name, (_, line) in self._table.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.lines()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = self._aliases.get(cmd_name, cmd_name)
        if name not in self._table:
            return self.commands.get(name)
        module, _, attribute = self._table[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is named. Raises UsageError with the nearest one."""
        name, lines = args[0], self.lines()
        if not (name in lines or name in self._aliases or name.startswith("-") or ctx.resilient_parsing):
            ctx.fail(f'no such command "{printable(name)}"{_suggestion(name, lines, ctx.command_path)}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(", ".join(self.names(name)), line) for name, line in self.lines().items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name, help=line) for name, line in self.lines().items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


def _suggestion(name: str, names: Iterable[str], path: str) -> str:
    """The nearest command of this group; else the same one of another group."""
    from stackd.cli.stacks import VERBS
    from stackd.names import nearest, suggest

    if close := nearest(name, names):
        return suggest(f"{path} {close}")
    groups = (("stackd", COMMANDS), ("stackd stacks", VERBS))
    return next((suggest(f"{other} {name}") for other, there in groups if name in there), "")


def group(**attributes: Any) -> Callable[[Callable[..., Any]], click.Group]:
    """Make a function a group of commands, with what ``_Group`` takes."""
    return click.group(cls=_Group, **attributes)


@group(table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="stackd")
def stackd() -> None:
    """Hand out stacks: a hardened Pod and a NodePort Service each, with a time to live, over a REST API."""


def main(arguments: list[str] | None = None) -> None:
    from stackd.errors import ConfigError, StackdError

    try:
        stackd.main(arguments, prog_name="stackd", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE if isinstance(error, click.UsageError) else FAILED)
    except click.Abort as error:
        sys.exit(INTERRUPTED if isinstance(error.__cause__, KeyboardInterrupt) else FAILED)
    except ConfigError as error:
        for mistake in error.mistakes:
            _complain(mistake)
        sys.exit(USAGE)
    except (StackdError, OSError) as error:
        _complain(str(error))
        sys.exit(FAILED)
    except ModuleNotFoundError as error:
        if (error.name or "stackd").partition(".")[0] == "stackd":
            raise
        _complain(f'{error.name} is not installed, which this command needs: pip install "stackd[server]"')
        sys.exit(FAILED)
    finally:
        if (logging := sys.modules.get("logging")) is not None:
            logging.shutdown()


def _complain(sentence: str) -> None:
    """Write an error to standard error; ``<3>`` tells the journal that it is an error."""
    prefix = "<3>" if is_journal(os.environ, sys.stderr) else "stackd: "
    click.echo(f"{prefix}{printable(sentence)}", err=True)

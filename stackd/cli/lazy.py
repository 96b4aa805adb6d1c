"""Groups whose commands are loaded when they are run: ``--version``, ``--help`` and completion load none."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """``table``: name → (``module:attribute``, one line of help)."""

    table: Mapping[str, tuple[str, str]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return [*self.table]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, loaded."""
        if cmd_name not in self.table:
            return None
        module, _, attribute = self.table[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and options, from the table."""
        return [*self._names(incomplete), *click.Command.shell_complete(self, ctx, incomplete)]

    def _names(self, incomplete: str) -> Iterator[CompletionItem]:
        for name, (_, line) in self.table.items():
            if name.startswith(incomplete):
                yield CompletionItem(name, help=line)


def lazy(table: Mapping[str, tuple[str, str]]) -> Any:
    """The class of a group with this table, for ``click.group(cls=…)``."""
    return type("Group", (LazyGroup,), {"table": dict(table)})

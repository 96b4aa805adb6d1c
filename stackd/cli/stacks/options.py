"""Options and arguments that the verbs about stacks share, and their completion."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from stackd.cli.address import client_for
from stackd.cli.stacks.shown import addresses, safe
from stackd.config.units import parse_duration
from stackd.model import StackStatus

COMPLETION_SECONDS = 1.5
STATUSES = [status.value for status in StackStatus]
COMPLETED = "stack_id,status,node_public_ip,ports"


def ids_of_stacks(context: click.Context, parameter: click.Parameter, begin: str) -> list[CompletionItem]:
    """What a half-typed id may become, as the daemon has it now; nothing where it does not answer at once."""
    try:
        client = client_for(context.params.get("url"), context.params.get("key_file"))
        answer = client.ask("GET", "/stacks", query=[("fields", COMPLETED)], seconds=COMPLETION_SECONDS)
    except click.ClickException:
        return []
    return [
        CompletionItem(stack["stack_id"], help=safe(f"{stack['status']} {' '.join(addresses(stack))}"))
        for stack in answer["stacks"]
        if stack["stack_id"].startswith(begin)
    ]


stack_id_argument = click.argument("stack_id", metavar="STACK", shell_complete=ids_of_stacks)
stack_ids_argument = click.argument(
    "stack_ids", metavar="STACK…", nargs=-1, required=True, shell_complete=ids_of_stacks
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the API's own JSON.")


class Length(click.ParamType[str]):
    """A length of time such as ``30m``, handed on as it was typed."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, if it is a duration."""
        try:
            parse_duration(str(value))
        except ValueError as error:
            self.fail(f"{error}; write it like 30m, 2h or 1h30m", param, ctx)
        return str(value)


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--label``, ``--status`` and ``--node``, and hand it them as a ``chosen`` query."""

    @click.option("--label", "-l", multiple=True, metavar="KEY[=VALUE]", help="Only with this label; all, if repeated.")
    @click.option(
        "--status", "-s", multiple=True, type=click.Choice(STATUSES), help="Only in this status; any, if repeated."
    )
    @click.option("--node", help="Only on this node.")
    @functools.wraps(command)
    def with_filters(*args: Any, label: Sequence[str], status: Sequence[str], node: str | None, **kwargs: Any) -> Any:
        chosen: list[tuple[str, str]] = [("label", each) for each in label]
        chosen += [("status", each) for each in status]
        chosen += [("node", node)] if node else []
        return command(*args, chosen=chosen, **kwargs)

    return with_filters

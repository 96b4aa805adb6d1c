"""``stacks watch``: shows the stacks that the client follows, as they change."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from stackd.cli import output as render
from stackd.cli.options import filter_options, output_option
from stackd.cli.target import client_options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from stackd.client import AsyncFollow, Client, Stack

REDRAW_SECONDS = 0.5
OTHER_LINES = 4
"""Lines of the screen that are not the table's."""


@click.command()
@client_options
@filter_options
@output_option("json", "jsonl")
def watch(client: Client, output: str | None, **chosen: Any) -> None:
    """Watch the stacks change: a live table, or in a pipe one line for each change. Ends with Ctrl-C."""
    import asyncio

    with suppress(KeyboardInterrupt):
        asyncio.run(_watch(client, chosen, as_json=bool(output)))


async def _watch(client: Client, chosen: dict[str, Any], *, as_json: bool) -> None:
    from stackd.client import NotFound

    async with (
        client.concurrent() as concurrent,
        concurrent.follow(fields=render.LISTED, **chosen) as followed,
    ):
        if not as_json and render.is_terminal():
            await _on_screen(followed)
            return
        show, changes = _print_json if as_json else _print_line, followed.changes()
        for stack in followed.stacks.values():
            show("stack", stack)
        async for change in changes:
            stack = change.stack
            with suppress(NotFound):  # what it is now
                stack = await concurrent.get(stack) if change.kind == "left" else stack
            show(change.kind, stack)


def view(followed: AsyncFollow, height: int, width: int) -> RenderableType:
    """The newest stacks that fit on the screen, and how many there are in all."""
    from rich.console import Group
    from rich.text import Text

    stacks = [stack.raw for stack in followed.stacks.values()]
    newest = sorted(stacks, key=lambda stack: str(stack["created_at"]), reverse=True)
    shown = newest[: max(1, height - OTHER_LINES)]
    more = f"  ({len(newest) - len(shown)} older ones not shown)" if len(shown) < len(newest) else ""
    last = (
        Text(str(followed.error), style=render.WARNING)
        if followed.error
        else Text(render.summary(newest) + more, style="dim")
    )
    return Group(render.table(render.stack_columns(shown), shown, width)[0], last)


async def _on_screen(followed: AsyncFollow) -> None:
    import asyncio

    from rich.live import Live

    out = render.console()
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            live.update(view(followed, out.size.height, out.size.width), refresh=True)
            await asyncio.sleep(REDRAW_SECONDS)


def _print_line(kind: str, stack: Stack) -> None:
    fields = [datetime.now().astimezone().strftime("%H:%M:%S"), kind, *render.cells(stack.raw)]
    click.echo(render.line(fields))


def _print_json(kind: str, stack: Stack) -> None:
    render.print_json_line({"event": kind, "stack": {name: stack.raw.get(name) for name in render.LISTED}})

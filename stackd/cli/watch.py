"""``stacks watch``: shows the stacks that the client follows, as they change."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from datetime import datetime
from typing import Any

import click

from stackd.cli import output as render
from stackd.cli.options import filter_options, output_option
from stackd.cli.target import client_options
from stackd.client import AsyncFollow, Client, NotFound, Stack
from stackd.printable import printable

REDRAW_SECONDS = 0.5
# Lines of the screen that are not the table's.
OTHER_LINES = 4


@click.command()
@client_options
@filter_options
@output_option("json", "jsonl")
def watch(client: Client, output: str | None, **chosen: Any) -> None:
    """Watch the stacks change: a live table, or in a pipe one line for each change. Ends with Ctrl-C."""
    with suppress(KeyboardInterrupt):
        asyncio.run(_watch(client, chosen, as_json=bool(output)))


async def _watch(client: Client, chosen: dict[str, Any], *, as_json: bool) -> None:
    async with (
        client.concurrent() as concurrent,
        concurrent.follow(fields=render.LISTED, **chosen) as followed,
    ):
        if not as_json and render.is_terminal():
            with render.Screen() as screen:
                while True:
                    width, height = shutil.get_terminal_size()
                    screen.draw(view(followed, height, width))
                    await asyncio.sleep(REDRAW_SECONDS)
        show, changes = _print_json if as_json else _print_line, followed.changes()
        for stack in followed.stacks.values():
            show("stack", stack)
        async for change in changes:
            stack = change.stack
            with suppress(NotFound):  # what it is now
                stack = await concurrent.get(stack) if change.kind == "left" else stack
            show(change.kind, stack)


def view(followed: AsyncFollow, height: int, width: int) -> list[str]:
    """The newest stacks that fit on the screen, and how many there are in all."""
    stacks = [stack.raw for stack in followed.stacks.values()]
    newest = sorted(stacks, key=lambda stack: str(stack["created_at"]), reverse=True)
    shown = newest[: max(1, height - OTHER_LINES)]
    more = f"  ({len(newest) - len(shown)} older ones not shown)" if len(shown) < len(newest) else ""
    last, style = render.summary(newest) + more, render.DIM
    if followed.error:
        last, style = printable(str(followed.error)), render.WARNING
    lines, _ = render.table(render.stack_columns(shown), shown, width)
    return [*lines, render.painted(render.cut(last, width), style)]


def _print_line(kind: str, stack: Stack) -> None:
    fields = [datetime.now().astimezone().strftime("%H:%M:%S"), kind, *render.cells(stack.raw)]
    click.echo(render.line(fields))


def _print_json(kind: str, stack: Stack) -> None:
    render.print_json_line({"event": kind, "stack": {name: stack.raw.get(name) for name in render.LISTED}})

"""``stacks watch``: shows the stacks as they change.

Owns: a copy of the stacks, made from one list and kept current by events. The stream opens before the list is read, so
that no change is missed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from stackd.cli import output as render
from stackd.cli.options import filter_options, output_option
from stackd.cli.target import client_options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from stackd.client import AsyncClient, Client, Event

AGAIN_SECONDS = 1.0
REDRAW_SECONDS = 0.5
OTHER_LINES = 4
"""Lines of the screen that are not the table's."""

Stack = dict[str, Any]


class WatchedStacks:
    """A copy of the chosen stacks; ``on_change`` is called for each change."""

    def __init__(self, client: AsyncClient, chosen: dict[str, Any], on_change: Callable[[str, Stack], None]) -> None:
        self._client, self._chosen, self._on_change = client, chosen | {"fields": render.LISTED}, on_change
        self._last = ""
        self.stacks: dict[str, Stack] = {}
        self.error = ""

    async def follow(self) -> None:
        """Keep the copy current until cancelled; reconnect after a lost connection.

        Raises ClientError if it has never connected.
        """
        import asyncio

        from stackd.client import ClientError

        while True:
            try:
                async for event in self._client.events(after=self._last, reconnect=False, **self._chosen):
                    self.error = ""
                    await self._take(event)
            except ClientError as error:
                if not self.stacks and not self._last:
                    raise
                self.error = str(error)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _take(self, event: Event) -> None:
        if event.kind == "reset" or (event.kind == "hello" and not self._last):
            stacks = {stack.stack_id: dict(stack.raw) for stack in await self._client.stacks(**self._chosen)}
            for stack_id in self.stacks.keys() - stacks.keys():
                self._on_change("deleted", self.stacks.pop(stack_id))
            for stack in stacks.values():
                self._put(stack)
        elif event.kind in ("deleted", "left"):
            gone = self.stacks.pop(event.stack_id, None)
            if gone is not None:
                self._on_change(event.kind, gone if event.kind == "deleted" else await self._current(gone))
        elif event.kind == "stack":
            self._put(event.data)
        self._last = event.id or self._last

    def _put(self, stack: Stack) -> None:
        before, self.stacks[stack["stack_id"]] = self.stacks.get(stack["stack_id"]), stack
        if before is None or any(before.get(name) != stack.get(name) for name in render.LISTED):
            self._on_change("stack", stack)

    async def _current(self, stack: Stack) -> Stack:
        from stackd.client import NotFound

        with suppress(NotFound):
            now = (await self._client.get(stack["stack_id"])).raw
            return stack | {name: now[name] for name in stack if name in now}
        return stack


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
    async with client.concurrent() as concurrent:
        if as_json or not render.is_terminal():
            await WatchedStacks(concurrent, chosen, _print_json if as_json else _print_line).follow()
        else:
            await _on_screen(WatchedStacks(concurrent, chosen, lambda kind, stack: None))


def view(watched: WatchedStacks, height: int, width: int) -> RenderableType:
    """The newest stacks that fit on the screen, and how many there are in all."""
    from rich.console import Group
    from rich.text import Text

    newest = sorted(watched.stacks.values(), key=lambda stack: str(stack["created_at"]), reverse=True)
    shown = newest[: max(1, height - OTHER_LINES)]
    more = f"  ({len(newest) - len(shown)} older ones not shown)" if len(shown) < len(newest) else ""
    last = (
        Text(watched.error, style=render.WARNING) if watched.error else Text(render.summary(newest) + more, style="dim")
    )
    return Group(render.table(render.stack_columns(shown), shown, width)[0], last)


async def _on_screen(watched: WatchedStacks) -> None:
    import asyncio

    from rich.live import Live

    out = render.console()
    following = asyncio.create_task(watched.follow(), name="follow")
    try:
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while not following.done():
                live.update(view(watched, out.size.height, out.size.width), refresh=True)
                await asyncio.wait([following], timeout=REDRAW_SECONDS)
        await following
    finally:
        following.cancel()


def _print_line(kind: str, stack: Stack) -> None:
    click.echo(render.line([datetime.now().astimezone().strftime("%H:%M:%S"), kind, *render.cells(stack)]))


def _print_json(kind: str, stack: Stack) -> None:
    render.print_json_line({"event": kind, "stack": stack})

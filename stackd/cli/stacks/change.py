"""``stacks delete``, ``extend``, ``restart``, ``stop`` and ``start``: one stack after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import click

from stackd.cli.address import client_options
from stackd.cli.client import Client
from stackd.cli.stacks.look import path_part
from stackd.cli.stacks.options import Length, json_option, stack_id_argument, stack_ids_argument
from stackd.cli.stacks.shown import addresses, duration, print_json, since

CHANGE_SECONDS = 300.0
"""A change waits for the cluster: a pod may take its grace period to go."""


@click.command(short_help="Delete stacks.")
@client_options
@stack_ids_argument
def delete(client: Client, stack_ids: tuple[str, ...]) -> None:
    """Delete stacks: each is gone from the cluster when its line is printed."""

    async def each(stack_id: str) -> None:
        await client.call("DELETE", f"/stacks/{path_part(stack_id)}", seconds=CHANGE_SECONDS)
        click.echo(f"{stack_id}\tdeleted")

    asyncio.run(_all(stack_ids, each))


@click.command(short_help="Let a stack live longer.")
@client_options
@stack_id_argument
@click.argument("ttl", type=Length())
@json_option
def extend(client: Client, stack_id: str, ttl: str, as_json: bool) -> None:
    """Let a stack live TTL longer, such as 30m."""
    stack = client.ask("POST", f"/stacks/{path_part(stack_id)}/extend", {"ttl": ttl})
    if as_json:
        print_json(stack)
        return
    left = duration(-since(stack["ttl_expires_at"]))
    click.echo(f"{stack['stack_id']}\texpires {stack['ttl_expires_at']}, in {left}")


def _verb(name: str, text: str) -> click.Command:
    @click.command(name, help=text)
    @client_options
    @stack_ids_argument
    @json_option
    def command(client: Client, stack_ids: tuple[str, ...], as_json: bool) -> None:
        async def each(stack_id: str) -> None:
            stack: dict[str, Any] = await client.call(
                "POST", f"/stacks/{path_part(stack_id)}/{name}", seconds=CHANGE_SECONDS
            )
            if as_json:
                print_json(stack)
            else:
                click.echo("\t".join([stack["stack_id"], stack["status"], *addresses(stack)]))

        asyncio.run(_all(stack_ids, each))

    return command


restart = _verb("restart", "Give stacks a fresh pod behind the same ports.")
stop = _verb("stop", "Take the pods of stacks away and keep their ports.")
start = _verb("start", "Give stopped stacks a fresh pod behind the ports they kept.")


async def _all(stack_ids: tuple[str, ...], each: Callable[[str], Awaitable[None]]) -> None:
    """Try all of them, say what went wrong with each, and fail if anything did."""
    failed: list[click.ClickException] = []
    for stack_id in dict.fromkeys(stack_ids):
        try:
            await each(stack_id)
        except click.UsageError:
            raise
        except click.ClickException as error:
            if len(stack_ids) == 1:
                raise
            error.show()
            failed.append(error)
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(stack_ids)} failed")

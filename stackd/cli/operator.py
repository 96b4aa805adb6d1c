"""``stackd reconcile``: what a pass would do, and the operator's word that releases a brake."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from stackd.cli.address import client_options
from stackd.cli.client import Client


@click.command()
@client_options
@click.option(
    "--plan", "action", flag_value="plan", default=True, help="Print what a pass would do and why (the default)."
)
@click.option("--confirm", "action", flag_value="confirm", help="Release what a brake holds back, once.")
def reconcile(client: Client, action: str) -> None:
    """Look at the reconciliation of a running daemon, or release its brake."""
    if action == "confirm":
        released = asyncio.run(client.call("POST", "/reconcile/confirm"))["released"]
        click.echo(f"released: {released} stacks")
        return
    _print(asyncio.run(client.call("GET", "/reconcile")))


def _print(plan: dict[str, Any]) -> None:
    if plan["blocked"]:
        click.echo(f"reconciliation is waiting: {plan['blocked']}")
        return
    held = set(plan["held"])
    for action in plan["actions"]:
        stack_id = action["name"].removeprefix("svc-")
        click.echo(f"{action['action']:<15} {action['name']}  {action['why']}{'  (held)' if stack_id in held else ''}")
    if not plan["actions"]:
        click.echo("nothing to do: rows and cluster agree")
    if held:
        click.echo(f"{len(held)} held back; release with: stackd reconcile --confirm")

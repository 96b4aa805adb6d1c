"""``stackd key new``: a fresh API key."""

from __future__ import annotations

import click

from stackd.keys import new_key


@click.group()
def key() -> None:
    """Make API keys."""


@key.command()
@click.option("--name", default="platform", show_default=True, help="What the key is called in the log.")
@click.option("--scope", type=click.Choice(["admin", "read"]), default="admin", show_default=True)
@click.option("--plain", is_flag=True, help="Print the key alone: stackd key new --plain > /etc/stackd/api-key")
def new(name: str, scope: str, plain: bool) -> None:
    """Print a new key, once, and what to put into the configuration."""
    plaintext, sha256 = new_key()
    if plain:
        click.echo(plaintext)
        return
    entry = f'[[auth.keys]]\nname = "{name}"\nsha256 = "{sha256}"\nscope = "{scope}"'
    click.echo(f"key (shown only now): {plaintext}\n\n{entry}")

"""``stackd stacks …``: a client of the API.

read      list, get, show, describe, wait, timeline, logs
create    create
change    delete, batch-delete, extend, restart, stop, start
watch     watch
"""

from __future__ import annotations

import click

from stackd.cli import lazy

VERBS = {
    "list": ("stackd.cli.stacks.read:list_stacks", "List the stacks."),
    "create": ("stackd.cli.stacks.create:create", "Create a stack."),
    "get": ("stackd.cli.stacks.read:get", "List stacks by their ids."),
    "show": ("stackd.cli.stacks.read:show", "Show everything about one stack."),
    "describe": ("stackd.cli.stacks.read:describe", "Show a stack and what happened to it."),
    "wait": ("stackd.cli.stacks.read:wait", "Wait until stacks have a status."),
    "watch": ("stackd.cli.stacks.watch:watch", "Watch the stacks change."),
    "delete": ("stackd.cli.stacks.change:delete", "Delete stacks."),
    "batch-delete": ("stackd.cli.stacks.change:batch_delete", "Delete many stacks as one job."),
    "extend": ("stackd.cli.stacks.change:extend", "Extend a stack's time to live."),
    "restart": ("stackd.cli.stacks.change:restart", "Give stacks a fresh pod behind the same ports."),
    "stop": ("stackd.cli.stacks.change:stop", "Remove the pods of stacks; keep their ports."),
    "start": ("stackd.cli.stacks.change:start", "Give stopped stacks a fresh pod."),
    "logs": ("stackd.cli.stacks.read:logs", "Print what a stack has written."),
    "timeline": ("stackd.cli.stacks.read:timeline", "Print what happened to a stack."),
}


@click.group(cls=lazy(VERBS))
def stacks() -> None:
    """Show and change stacks, over the API of a running daemon.

    The address and the key are taken from --url and --key-file, else from STACKD_URL and STACKD_API_KEY, else from
    ~/.config/stackd/client.toml (url = "…", and key = "…" or key_file = "…").

    Completion of commands and ids for bash (similar for zsh and fish):

    eval "$(_STACKD_COMPLETE=bash_source stackd)"
    """

"""``stackd stacks …``: a client of the API. Each verb's work is in a file of its own.

look      list, show, timeline, logs
create    create
change    delete, extend, restart, stop, start
batch     batch-delete
watch     watch
shown     tables, and lines for a pipe
options   what the verbs share, and the completion of ids
"""

from __future__ import annotations

import click

from stackd.cli.stacks.batch import batch_delete
from stackd.cli.stacks.change import delete, extend, restart, start, stop
from stackd.cli.stacks.create import create
from stackd.cli.stacks.look import list_stacks, logs, show, timeline
from stackd.cli.stacks.watch import watch


@click.group()
def stacks() -> None:
    """Look at stacks and change them, over the API of a running daemon.

    The address and the key are taken from --url and --key-file, else from STACKD_URL and STACKD_API_KEY, else from
    ~/.config/stackd/client.toml (url = "…", and key = "…" or key_file = "…").

    Completion of commands and ids, for bash (zsh and fish alike):

    eval "$(_STACKD_COMPLETE=bash_source stackd)"
    """


for _verb in (
    list_stacks, create, show, watch, delete, batch_delete, extend, restart, stop, start, logs, timeline,
):  # fmt: skip
    stacks.add_command(_verb)

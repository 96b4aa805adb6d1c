"""``stackd rehearse``: tries on the real cluster whether it will hold; exit code 1 if it does not.

Owns: the options. ``rehearsal`` reads them and does the work, and is loaded when the command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stackd.cli.options import Length
from stackd.cli.target import client_options

if TYPE_CHECKING:
    from stackd.client import Client


@click.command(short_help="Will it hold? Start many stacks, and measure.")
@client_options
@click.option("--stacks", "-n", type=click.IntRange(1, 100_000), required=True, help="How many players press start.")
@click.option("--rate", metavar="RATE", help="How many press start per second, such as 20/s.")
@click.option("--burst", is_flag=True, help="All at once, instead of a rate.")
@click.option("--template", multiple=True, metavar="NAME[=WEIGHT]",
              help="A template of the daemon's; several are mixed by weight.")  # fmt: skip
@click.option("--file", "-f", multiple=True, metavar="FILE[=WEIGHT]",
              help="A Pod as YAML, or a whole request as JSON.")  # fmt: skip
@click.option("--hold", type=Length(), default="10s", show_default=True, help="How long all stacks are kept.")
@click.option("--churn", default="0%", show_default=True, metavar="SHARE",
              help="Share of players who delete their stack during the hold and start another.")  # fmt: skip
@click.option("--probe", type=click.Choice(("none", "tcp", "http")), default="none", show_default=True,
              help="Try each address from here.")  # fmt: skip
@click.option("--poll", type=Length(), default="2s", show_default=True, help="How often a player asks for the status.")
@click.option("--label", "-l", multiple=True, metavar="KEY=VALUE",
              help="More labels; {player} becomes the player's number.")  # fmt: skip
@click.option("--ttl", type=Length(), default="10m", show_default=True,
              help="Time to live of each stack if this command is killed; extended while it runs.")  # fmt: skip
@click.option("--patience", type=Length(), default="2m", show_default=True, help="How long a stack may take to run.")
@click.option("--expect", "-e", multiple=True, metavar="GOAL",
              help="Exit code 1 if it is missed: running-p95=10s, failed=1%.  [default: failed=0]")  # fmt: skip
@click.option("--connections", type=click.IntRange(1, 20_000),
              help="Most connections to the daemon.  [enough for a burst]")  # fmt: skip
@click.option("--anyway", is_flag=True, help="Start even if the daemon is not ready or the capacity is too small.")
@click.option("--with-others", is_flag=True, help="Start even if others have stacks.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False, writable=True),
              help="Write a page with charts.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def rehearse(client: Client, **options: Any) -> None:
    """Rehearse an event: let many players press start, and measure how long they wait and what fails.

    \b
    stackd rehearse --stacks 300 --rate 20/s --file pod.yaml \\
      --hold 5m --probe tcp --expect running-p95=10s

    Everything it makes has the label stackd.rehearsal and is deleted at the end, even after Ctrl-C.
    """
    from stackd.cli import rehearsal

    rehearsal.rehearse(client, options)

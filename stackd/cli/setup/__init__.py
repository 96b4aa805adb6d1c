"""``stackd setup``: from an installation to a first stack.

    run      shows the plan, asks, and runs the unfinished steps
    steps    each step: its state, what it would change, the change itself, and the commands to do it by hand
    admin    finds an administrator's kubeconfig, and makes stackd's own from it

Each run does only the steps that are not done yet, so the command can be repeated after any failure.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from stackd.cli import FAILED
from stackd.cli import options as options_of_all
from stackd.cli.manifests import site_options
from stackd.cli.options import config_option


@click.command()
@config_option
@click.option("--yes", "-y", is_flag=True, help="Carry out the plan without asking.")
@click.option("--plan", "only_plan", is_flag=True, help="Print the plan, and do nothing.")
@click.option(
    "--admin-kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="An administrator's kubeconfig; used once, and not kept.  [KUBECONFIG, ~/.kube/config, kubeadm's, k3s']",
)
@click.option("--admin-context", default="", metavar="NAME", help="The context to use in it.  [its current one]")
@click.option(
    "--no-admin",
    is_flag=True,
    help="Use no administrator's kubeconfig; print the commands that an administrator has to run.",
)
@click.option(
    "--server", default="", metavar="URL", help="Where stackd reaches the cluster.  [as the administrator does]"
)
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="NAME",
    help="A node to run stacks; may be repeated.  [the only one that can]",
)
@click.option("--first-stack/--no-first-stack", default=True, help="Start a first stack, for 30 minutes.  [yes]")
@click.option(
    "--image", default="nginx:stable", show_default=True, help="Image of the first stack; it listens on --port."
)
@click.option("--port", type=click.IntRange(1, 65535), default=80, show_default=True, help="Port of the first stack.")
@site_options
def setup(config_path: Path | None, yes: bool, only_plan: bool, **options: Any) -> None:
    """Set up an installed stackd: key, cluster, kubeconfig, nodes, service, a first stack. Shows its plan, and asks.

    Finished steps are skipped, so that the command can be run again at any time.
    """
    import asyncio

    from stackd.cli.setup.run import set_up

    if config_path is None and not options_of_all.hidden():
        raise click.UsageError(
            f"there is no {options_of_all.INSTALLED}: install stackd first, or name a file with --config"
        )
    if asyncio.run(set_up(config_path, options, yes=yes, only_plan=only_plan)):
        sys.exit(FAILED)

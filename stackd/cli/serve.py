"""``stackd serve``, ``demo`` and ``rebuild``: the daemon's work, in this process.

Owns: the options for the size and pace of the demo's embedded cluster. Loads the daemon only when a command runs.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stackd.cli.options import Length, config_option, loaded, quantity_option

if TYPE_CHECKING:
    from stackd.embedded import EmbeddedOptions

NODES, START_DELAY, PULL = 2, "150ms", "0s"
"""The defaults; a test compares them with ``EmbeddedOptions``."""

MOST_NODES = 1000


def size_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of the embedded cluster (``--nodes`` to ``--pull``); pass it these as ``size``."""

    @click.option(
        "--nodes", type=click.IntRange(1, MOST_NODES), default=NODES, show_default=True, help="How many nodes."
    )
    @quantity_option("--node-cpu", help="CPU of each node, such as 8.  [plenty]")
    @quantity_option("--node-memory", help="Memory of each node, such as 16Gi.  [plenty]")
    @click.option(
        "--start-delay", type=Length(), default=START_DELAY, show_default=True,
        help="How long a pod takes to start on its node.",
    )  # fmt: skip
    @click.option(
        "--pull", type=Length(), default=PULL, show_default=True,
        help="How long a node takes to pull an image that it does not have.",
    )  # fmt: skip
    @functools.wraps(command)
    def with_size(*args: Any, **kwargs: Any) -> Any:
        names = ("nodes", "node_cpu", "node_memory", "start_delay", "pull")
        return command(*args, size=_size(**{name: kwargs.pop(name) for name in names}), **kwargs)

    return with_size


def _size(*, nodes: int, node_cpu: Any, node_memory: Any, start_delay: str, pull: str) -> Any:
    from dataclasses import replace

    from stackd.embedded import WORKER, EmbeddedOptions, node_specs
    from stackd.units import parse_duration

    worker = replace(WORKER, cpu=str(node_cpu or WORKER.cpu), memory=str(node_memory or WORKER.memory))
    return EmbeddedOptions(
        nodes=node_specs(nodes, worker), start_delay=parse_duration(start_delay), pull=parse_duration(pull)
    )


@click.command()
@config_option
def serve(config_path: Path | None) -> None:
    """Run the daemon until SIGTERM."""
    from stackd import logs
    from stackd.cli import process

    configuration = loaded(config_path, beside=False)
    logs.setup(configuration.config.log)
    process.run(process.serve(configuration, again=lambda: loaded(config_path, beside=False)))


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="The port; or STACKD_SERVER__PORT.  [default: 8081, or any free one if that is taken]",
)
@click.option(
    "--log", "level", type=click.Choice(["debug", "info", "warning", "error"]), default="error", show_default=True
)
@size_options
def demo(port: int | None, level: str, size: EmbeddedOptions) -> None:
    """Try stackd with an embedded cluster, a new key and throw-away state.

    Every key but those of [cluster] can be set from the environment, as for serve: STACKD_STACKS__TTL=5m. SIGHUP reloads.
    """
    from stackd import logs
    from stackd.cli import process
    from stackd.cli.demo import Demo
    from stackd.config import LogSection

    with tempfile.TemporaryDirectory(prefix="stackd-demo-") as folder:
        logs.setup(LogSection.model_validate({"level": level, "format": "text"}))
        shown = Demo.prepared(Path(folder), port)
        process.run(
            process.serve(shown.configuration, size=size, again=shown.again, on_listening=shown.print_instructions)
        )
        click.echo(shown.last_line())


@click.command()
@config_option
def rebuild(config_path: Path | None) -> None:
    """Recover every live stack from the cluster into an empty file, and report what could not be recovered."""
    import asyncio

    from stackd import logs
    from stackd.cli import process
    from stackd.errors import StackdError
    from stackd.printable import printable

    configuration = loaded(config_path, serving=False)
    logs.setup(configuration.config.log)
    report = asyncio.run(process.rebuild(configuration))
    for name, reason in report.lost:
        click.echo(printable(f"not recovered: {name}: {reason}"), err=True)
    click.echo(f"recovered {len(report.recovered)} stacks into {configuration.config.state.path}")
    if report.lost:
        raise StackdError(f"{len(report.lost)} objects could not be recovered; they stay as they are")

"""The embedded cluster as a process of its own, until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click

from stackd.embedded import EmbeddedCluster, EmbeddedOptions, administrator

BUT_WATCHES = "(?!watch).*"
WRITES = {"verb": "create|delete", "resource": "pods|services"}
NODE_PORTS = (20000, 32767)


@click.command()
@click.option("--kubeconfig", type=click.Path(path_type=Path), required=True, help="File to write a kubeconfig to.")
@click.option("--latency", type=float, default=0.0, help="Seconds that each request waits first.")
@click.option(
    "--writes-per-second",
    type=click.FloatRange(min=0, min_open=True),
    help="Create and delete no more pods and services than this, in the order in which they are asked for.",
)
def main(kubeconfig: Path, latency: float, writes_per_second: float | None) -> None:
    asyncio.run(run(kubeconfig, latency, writes_per_second))


async def run(kubeconfig: Path, latency: float, writes_per_second: float | None) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    user = administrator()
    options = EmbeddedOptions(serve_node_ports=False, node_port_range=NODE_PORTS, users=(user,))
    async with EmbeddedCluster(options) as cluster:
        if latency:
            cluster.faults.add_fault(action="latency", verb=BUT_WATCHES, seconds=latency)
        if writes_per_second:
            cluster.faults.add_fault(action="turns", seconds=1 / writes_per_second, **WRITES)
        cluster.write_kubeconfig(kubeconfig, token=user.token)
        await stopped.wait()


if __name__ == "__main__":
    main()

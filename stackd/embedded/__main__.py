"""`python -m stackd.embedded`: the embedded cluster as a process of its own. Prints one line: where it listens."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from stackd.embedded.auth import administrator
from stackd.embedded.cluster import EmbeddedCluster
from stackd.embedded.nodes import node_specs
from stackd.embedded.options import EmbeddedOptions

_BUT_WATCHES = "(?!watch).*"
_WRITES = {"verb": "create|delete", "resource": "pods|services"}


def _parser() -> argparse.ArgumentParser:
    defaults = EmbeddedOptions()
    parser = argparse.ArgumentParser(prog="python -m stackd.embedded", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--state", type=Path, help="file to keep the state in")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="file to write a kubeconfig to, with a token")
    parser.add_argument("--nodes", type=int, default=len(defaults.nodes), help="how many nodes a new cluster has")
    parser.add_argument("--no-node-ports", action="store_true", help="do not listen on the services' node ports")
    parser.add_argument("--start-delay", type=float, default=defaults.start_delay, metavar="SECONDS")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="let each request wait first")
    parser.add_argument(
        "--writes-per-second",
        type=_rate,
        metavar="RATE",
        help="create and delete no more pods and services than this, in the order in which they are asked for",
    )
    parser.add_argument("--node-port-range", type=_port_range, default=defaults.node_port_range, metavar="FROM-TO")
    return parser


def _port_range(text: str) -> tuple[int, int]:
    first, last = map(int, text.split("-"))
    return first, last


def _rate(text: str) -> float:
    rate = float(text)
    if not rate > 0:
        raise ValueError(text)
    return rate


async def _run(arguments: argparse.Namespace) -> None:
    """Run until SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    user = administrator()
    options = EmbeddedOptions(
        port=arguments.port,
        state_path=arguments.state,
        nodes=node_specs(arguments.nodes),
        start_delay=arguments.start_delay,
        serve_node_ports=not arguments.no_node_ports,
        node_port_range=arguments.node_port_range,
        users=(user,),
    )
    async with EmbeddedCluster(options) as cluster:
        if arguments.latency:
            cluster.faults.add_fault(action="latency", verb=_BUT_WATCHES, seconds=arguments.latency)
        if arguments.writes_per_second:
            cluster.faults.add_fault(action="turns", seconds=1 / arguments.writes_per_second, **_WRITES)
        cluster.write_kubeconfig(arguments.kubeconfig, token=user.token)
        sys.stdout.write(f"{cluster.url}\n")
        sys.stdout.flush()
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(_run(_parser().parse_args()))

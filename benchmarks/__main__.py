"""``python -m benchmarks``: measure every row beside its floor, several times, and print the ratios."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
import orjson
from rich.console import Console

from benchmarks import charts, processes, report, wrk
from benchmarks.arena import Http, arena
from benchmarks.figures import Results
from benchmarks.processes import CPUS
from benchmarks.rows import ALL, BURSTS, POOLS, SCALE, STANDING, WRITES, Bench, Row
from benchmarks.rows.bench import Amounts
from benchmarks.rows.pools import REAL_PORTS, node_port_settings
from benchmarks.rows.pools import settings as pool_settings

MOST_ON_REAL_PORTS = 1500
"""Of the 1,767 ports of the default range, the others are for creates beside the standing stacks."""

SLOW_MILLISECONDS = 10
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(help=__doc__)
@click.option("--kubeconfig", type=FILE, help="A real cluster; by default an embedded one in a process of its own.")
@click.option("--rows", default=",".join(ALL), show_default=True, help="Which rows, separated by commas.")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1), help="How often each row is measured.")
@click.option("--quick", is_flag=True, help="Less of everything: to see that it works.")
@click.option("--stacks", type=click.IntRange(1), help="How many stacks stand there; by default 1700.")
@click.option("--latency", "latencies", default=f"0,{SLOW_MILLISECONDS}", show_default=True,
              help="Milliseconds that the embedded cluster lets each request wait, for creates and deletes.")  # fmt: skip
@click.option("--writes-per-second", type=click.FloatRange(min=0, min_open=True),
              help="How many pods and services the embedded cluster creates and deletes, at most.")  # fmt: skip
@click.option("--rate", type=click.IntRange(1), help="Creates a second of the row `steady`; by default 45.")
@click.option(
    "--pools", metavar="N,N", help="The pools of the rows `give`, `steady` and `poolsidle`; by default 100,300."
)
@click.option("--node-ports", metavar="FIRST-LAST", default=REAL_PORTS, show_default=True,
              help="With --kubeconfig: the node ports that the pools' rows may take.")  # fmt: skip
@click.option(
    "--peer", metavar="URL", help="Another server that speaks the API, on the same cluster: its row beside ours."
)
@click.option("--peer-key", envvar="BENCH_PEER_KEY", default="", help="The peer's API key, or $BENCH_PEER_KEY.")
@click.option("--json", "json_file", type=FILE, help="Write everything here.")
@click.option("--charts", "charts_folder", type=click.Path(path_type=Path, file_okay=False), help="Draw SVGs in here.")
def main(  # noqa: PLR0913  one for each option
    kubeconfig: Path | None,
    rows: str,
    runs: int,
    quick: bool,
    stacks: int | None,
    latencies: str,
    writes_per_second: float | None,
    rate: int | None,
    pools: str | None,
    node_ports: str,
    peer: str | None,
    peer_key: str,
    json_file: Path | None,
    charts_folder: Path | None,
) -> None:
    console = Console(stderr=True)
    wanted = rows.split(",")
    if unknown := [name for name in wanted if name not in ALL]:
        raise click.UsageError(f"no such rows: {', '.join(unknown)}; there are {', '.join(ALL)}")
    amounts = Amounts.quick() if quick else Amounts()
    if kubeconfig is not None:
        processes.unpin()
        stacks = stacks or min(amounts.stacks, MOST_ON_REAL_PORTS)
    if stacks is not None:
        amounts = replace(amounts, stacks=stacks, deletes=min(stacks, amounts.deletes), scale=(*(
            count for count in amounts.scale if count < stacks), stacks))  # fmt: skip
    if rate is not None:
        amounts = replace(amounts, pool_rate=rate)
    if pools is not None:
        amounts = replace(amounts, sizes=tuple(int(size) for size in pools.split(",")))
    results = Results()
    waits = [0.0] if kubeconfig else [float(text) / 1e3 for text in latencies.split(",")]
    plan = Plan(wanted, amounts, kubeconfig, results, console, peer=Http(peer, peer_key) if peer else None)
    plan.writes_per_second, plan.node_ports = writes_per_second, node_ports
    for number in range(1, runs + 1):
        for wait in waits:
            plan.run(WRITES, f"run {number}", wait)
        plan.run(STANDING, f"run {number}")
        plan.run(POOLS, f"run {number}", bursts=amounts.bursts[:1])
        plan.run(BURSTS, f"run {number}", bursts=amounts.bursts)
    plan.run(SCALE, "scale")
    console.print(_notes())
    report.show(results, Console(width=None if sys.stdout.isatty() else 190))
    if json_file is not None:
        json_file.write_bytes(orjson.dumps(results.as_json(), option=orjson.OPT_INDENT_2))
    if charts_folder is not None:
        charts.draw(results, charts_folder)


class Plan:
    """Which rows are measured, on what, and where the results go."""

    def __init__(
        self,
        wanted: list[str],
        amounts: Amounts,
        kubeconfig: Path | None,
        results: Results,
        console: Console,
        *,
        peer: Http | None = None,
    ) -> None:
        self._peer = peer
        self.writes_per_second: float | None = None
        self.node_ports = REAL_PORTS
        self._wanted = wanted
        self._amounts = amounts
        self._kubeconfig = kubeconfig
        self._results = results
        self._console = console

    def run(
        self, table: dict[str, Row], label: str, latency: float = 0.0, *, bursts: tuple[int, ...] | None = None
    ) -> None:
        """Run the wanted rows of a table on one cluster with one daemon; with pools for ``bursts``, if given."""
        names = [name for name in table if name in self._wanted]
        if not names:
            return
        suffix = f", {latency * 1e3:g} ms away" if latency else ""
        with ExitStack() as stack:
            settings: dict[str, str] = {}
            amounts = self._amounts
            if bursts is not None:
                amounts = replace(amounts, bursts=bursts, sizes=() if table is BURSTS else amounts.sizes)
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stackd-bench-")))
                settings = pool_settings(folder, amounts.pools) | (
                    node_port_settings(self.node_ports) if self._kubeconfig else {}
                )
            cluster, daemon = stack.enter_context(
                arena(self._kubeconfig, latency=latency, writes_per_second=self.writes_per_second, settings=settings)
            )
            bench = Bench(
                cluster=cluster,
                daemon=daemon,
                results=self._results,
                amounts=amounts,
                suffix=suffix,
                peer=self._peer,
            )
            for name in names:
                self._console.print(f"{label}: {name}{suffix}")
                table[name](bench)


def _notes() -> str:
    reader = "wrk" if wrk.available() else "the own loader (wrk is not installed)"
    return f"{len(CPUS)} CPUs: {processes.placement()}; reads with {reader}"


if __name__ == "__main__":
    main()

"""``python -m benchmarks``: measure every row beside its floor, several times, and print the ratios."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
from msgspec import json

from benchmarks import fairness, hostile, pools, processes, reads, spares, writes
from benchmarks.arena import ON_REAL_PORTS, QUICK, Amounts, Bench, Http, arena
from benchmarks.results import Results
from stackd.cli.rehearsal import print_tables

SLOW_MILLISECONDS = 10
FILE = click.Path(path_type=Path, dir_okay=False)
Rows = dict[str, Callable[[Bench], None]]
WRITES: Rows = {
    "create": writes.create_alone,
    "create20": writes.create_together,
    "delete": writes.delete_many,
    "peer": writes.beside_peer,
}
"""These begin with no stacks."""

STANDING: Rows = {
    "status": reads.status,
    "busy": reads.busy_status,
    "list": reads.list_all,
    "burst": fairness.burst,
    "idle": reads.idle,
    "restart": reads.restart,
}
"""These begin with the full number of stacks."""

POOLS: Rows = {"give": pools.give_alone, "steady": pools.give_steadily, "poolsidle": pools.pools_idle}
BURSTS: Rows = {"bursts": pools.give_bursts}
SPARES: Rows = {"spares": spares.spares}
SCALE: Rows = {
    "scale": reads.scale,
    "slowreaders": fairness.slow_readers,
    "holds": fairness.holds,
}
"""These are measured once."""

HOSTILE: Rows = {"hostile": hostile.hostile}
ALL = (*WRITES, *STANDING, *POOLS, *BURSTS, *SPARES, *SCALE, *HOSTILE)
"""The names, in the order in which they are run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which rows are measured, on what, and where the results go."""

    wanted: list[str]
    amounts: Amounts
    results: Results
    kubeconfig: Path | None
    embedded: list[str]
    node_ports: str | None
    peer: Http | None

    def run(self, rows: Rows, label: str, latency: str = "0", bursts: tuple[int, ...] = ()) -> None:
        """Run the wanted rows of a table on one cluster with one daemon, which has pools if there are ``bursts``."""
        names = [name for name in rows if name in self.wanted]
        if not names:
            return
        amounts = replace(self.amounts, bursts=bursts, sizes=() if rows is BURSTS else self.amounts.sizes)
        self.results.suffix = f", {latency} ms away" if float(latency) else ""
        embedded = [*self.embedded, "--latency", f"{float(latency) / 1e3:g}"]
        with tempfile.TemporaryDirectory(prefix="stackd-bench-") as folder:
            settings = pools.settings(Path(folder), amounts.pools, self.node_ports) if bursts else {}
            settings = hostile.settings(Path(folder)) if rows is HOSTILE else settings
            settings = spares.SETTINGS if rows is SPARES else settings
            with arena(self.kubeconfig, embedded, settings) as (cluster, kubeconfig, daemon):
                bench = Bench(cluster, kubeconfig, daemon, self.results, amounts, self.peer)
                for name in names:
                    click.echo(f"{label}: {name}{self.results.suffix}", err=True)
                    rows[name](bench)


@click.command(help=__doc__)
@click.option("--kubeconfig", type=FILE, help="A real cluster; by default an embedded one in a process of its own.")
@click.option("--rows", default=",".join(ALL), show_default=True, help="Which rows, separated by commas.")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1), help="How often each row is measured.")
@click.option("--quick", is_flag=True, help="Less of everything: to see that it works.")
@click.option("--set", "amounts", multiple=True, metavar="NAME=N[,N]",
              help=f"Another amount: {', '.join(one.name for one in fields(Amounts))}.")  # fmt: skip
@click.option("--latency", default=f"0,{SLOW_MILLISECONDS}", show_default=True,
              help="Milliseconds that the embedded cluster lets each request wait, for creates and deletes.")  # fmt: skip
@click.option("--writes-per-second", type=click.FloatRange(min=0, min_open=True),
              help="How many pods and services the embedded cluster creates and deletes, at most.")  # fmt: skip
@click.option("--node-ports", metavar="FIRST-LAST", default=pools.REAL_PORTS, show_default=True,
              help="With --kubeconfig: the node ports that the pools' rows may take.")  # fmt: skip
@click.option("--peer", metavar="URL", help="Another server that speaks the API, on the same cluster, to compare with.")
@click.option("--peer-key", envvar="BENCH_PEER_KEY", default="", help="The peer's API key, or $BENCH_PEER_KEY.")
@click.option("--json", "json_file", type=FILE, help="Write everything here.")
@click.option("--report", type=FILE, help="Write a page with the tables, and with charts of the latencies.")
def main(**options: Any) -> None:
    wanted, kubeconfig = options["rows"].split(","), options["kubeconfig"]
    if unknown := [name for name in wanted if name not in ALL]:
        raise click.UsageError(f"no such rows: {', '.join(unknown)}; there are {', '.join(ALL)}")
    rate = options["writes_per_second"]
    plan = Plan(
        wanted=wanted,
        amounts=_amounts(options),
        results=Results(),
        kubeconfig=kubeconfig,
        embedded=[] if rate is None else ["--writes-per-second", f"{rate:g}"],
        node_ports=options["node_ports"] if kubeconfig else None,
        peer=Http(options["peer"], options["peer_key"]) if options["peer"] else None,
    )
    processes.pinned = kubeconfig is None
    for number in range(1, options["runs"] + 1):
        for latency in ["0"] if kubeconfig else options["latency"].split(","):
            plan.run(WRITES, f"run {number}", latency)
        plan.run(STANDING, f"run {number}")
        plan.run(POOLS, f"run {number}", bursts=plan.amounts.bursts[:1])
        plan.run(BURSTS, f"run {number}", bursts=plan.amounts.bursts)
        if kubeconfig:  # an embedded cluster writes a Service as fast as it changes one
            plan.run(SPARES, f"run {number}")
    plan.run(SCALE, "scale")
    plan.run(HOSTILE, "hostile")
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "190")
    print_tables(plan.results.tables())
    if options["json_file"] is not None:
        options["json_file"].write_bytes(json.format(json.encode(plan.results.as_json()), indent=2))
    if options["report"] is not None:
        options["report"].write_text(plan.results.page(), encoding="utf-8")


def _amounts(options: dict[str, Any]) -> Amounts:
    usual = QUICK if options["quick"] else ON_REAL_PORTS if options["kubeconfig"] else Amounts()
    chosen: dict[str, Any] = {}
    for name, _, value in (text.partition("=") for text in options["amounts"]):
        kind = type(getattr(usual, name, None))
        if kind not in (int, float, tuple):
            raise click.UsageError(f"there is no amount {name}")
        chosen[name] = tuple(map(int, value.split(","))) if kind is tuple else kind(value)
    return replace(usual, **chosen)


if __name__ == "__main__":
    main()

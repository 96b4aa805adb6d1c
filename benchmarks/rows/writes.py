"""Creates and deletes beside the raw requests for the same work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.arena import NAMESPACE
from benchmarks.figures import Goal, percentile
from benchmarks.machine import Busy
from benchmarks.orders import BODY
from benchmarks.rows.bench import Bench

ALONE = Goal(name="create, one at a time", text="p50 to the raw pod + service + watch", bound=1.3, at_most=True)
TOGETHER = Goal(name="create, 20 at once", text="throughput to the raw one", bound=0.9, at_most=False)
DELETE = Goal(name="batch delete, sequential", text="deletes/s to two raw DELETEs in a row", bound=0.9, at_most=False)


def create_alone(bench: Bench) -> None:
    """One create at a time: p50."""
    turns = _take_turns(bench, bench.amounts.creates_alone, 1, rounds=6)
    _add(bench, ALONE, percentile(turns.ours, 0.5) * 1e3, percentile(turns.floor, 0.5) * 1e3, of="ms")
    _draw(bench, ALONE, turns)
    _forget(bench, turns.names)


def create_together(bench: Bench) -> None:
    """Twenty creates at a time: creates a second, and the CPU of each."""
    turns = _take_turns(bench, bench.amounts.creates_together, 20, rounds=4)
    ours, floor = len(turns.ours) / turns.seconds, len(turns.floor) / turns.floor_seconds
    _add(bench, TOGETHER, ours, floor, of="/s")
    _draw(bench, TOGETHER, turns)
    _say_costs(bench, "create", len(turns.ours), turns.cpu)
    _forget(bench, turns.names)


def delete_many(bench: Bench) -> None:
    """A batch delete, and raw deletes of the same number: half of them before it, half after."""
    count = bench.amounts.deletes // (4 if bench.suffix else 1)  # with a latency they take long
    names = bench.floor("create", count=count, concurrency=20)["names"]
    bench.daemon.fill(count)
    ids = bench.daemon.ids()[:count]
    meter = Meter(bench)
    before = bench.floor("delete", names=names[: count // 2])
    meter.lap()
    seconds, job = bench.daemon.batch_delete(ids)
    meter.lap()
    after = bench.floor("delete", names=names[count // 2 :])
    meter.lap()
    if job["deleted"] != len(ids):
        raise RuntimeError(f"the job did not delete all: {job}")
    _add(bench, DELETE, count / seconds, count / (before["seconds"] + after["seconds"]), of="/s")
    (_, first), (used, under), (_, last) = meter.phase_timer
    cpu = Cpu(ours=used, floor=before["cpu"] + after["cpu"], cluster=under, cluster_floor=first + last)
    _say_costs(bench, "delete", count, cpu)


@dataclass(slots=True, kw_only=True)
class Cpu:
    """CPU seconds of stackd, of the raw client, and of the embedded cluster under each of them.

    Also how busy all CPUs of the machine were meanwhile.
    """

    ours: float = 0.0
    floor: float = 0.0
    cluster: float = 0.0
    cluster_floor: float = 0.0
    machine: Busy = field(default_factory=Busy)
    machine_floor: Busy = field(default_factory=Busy)


@dataclass(slots=True)
class Turns:
    """The results of creates in turn: latencies, seconds, CPU, and the names of the raw client's pods."""

    ours: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    seconds: float = 0.0
    floor_seconds: float = 0.0
    cpu: Cpu = field(default_factory=Cpu)


class Meter:
    """CPU seconds of the daemon and of the cluster, from lap to lap."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._last = self._now()
        self.phase_timer: list[tuple[float, float]] = []

    def lap(self) -> tuple[float, float]:
        """The CPU seconds since the last lap."""
        now = self._now()
        self.phase_timer.append((now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now
        return self.phase_timer[-1]

    def _now(self) -> tuple[float, float]:
        return self._bench.daemon.usage().cpu, self._bench.cluster.cpu()


def _take_turns(bench: Bench, count: int, concurrency: int, *, rounds: int) -> Turns:
    """The floor and stackd in turn, each first every other time.

    So both are equally affected by other load on the machine, and by the cluster's remaining work after the other's
    turn.
    """
    turns = Turns()
    for number in range(rounds):
        meter = Meter(bench)
        one_after_the_other = (_floor_turn, _our_turn) if number % 2 == 0 else (_our_turn, _floor_turn)
        for turn in one_after_the_other:
            turn(bench, turns, count // rounds, concurrency, meter)
    return turns


def _floor_turn(bench: Bench, turns: Turns, count: int, concurrency: int, meter: Meter) -> None:
    floor = bench.floor("create", count=count, concurrency=concurrency)
    turns.cpu.machine_floor += Busy(**floor["machine"])
    turns.cpu.cluster_floor += meter.lap()[1]
    turns.cpu.floor += floor["cpu"]
    turns.floor += floor["latencies"]
    turns.names += floor["names"]
    turns.floor_seconds += floor["seconds"]


def _our_turn(bench: Bench, turns: Turns, count: int, concurrency: int, meter: Meter) -> None:
    ours = _creates(bench, count, concurrency)
    turns.cpu.machine += Busy(**ours["machine"])
    used, under = meter.lap()
    turns.cpu.ours += used
    turns.cpu.cluster += under
    turns.ours += ours["latencies"]
    turns.seconds += ours["seconds"]


def _draw(bench: Bench, goal: Goal, turns: Turns) -> None:
    bench.results.distribution(goal.name + bench.suffix, "raw", turns.floor)
    bench.results.distribution(goal.name + bench.suffix, "stackd", turns.ours)


def _say_costs(bench: Bench, what: str, count: int, cpu: Cpu) -> None:
    costs = {"stackd": cpu.ours, "raw client": cpu.floor}
    if bench.cluster.process is not None:
        costs |= {"embedded cluster under stackd": cpu.cluster, "embedded cluster under raw": cpu.cluster_floor}
    for whose, seconds in costs.items():
        bench.results.cost(f"CPU per {what}, {whose} (ms){bench.suffix}", seconds / count * 1e3)
    for whose, machine, own in (("stackd", cpu.machine, cpu.ours), ("the raw client", cpu.machine_floor, cpu.floor)):
        if machine.all:
            bench.results.cost(f"all CPUs busy, {what} by {whose} (%){bench.suffix}", machine.share * 100)
            bench.results.cost(f"of that {whose} itself (%){bench.suffix}", own / machine.used * 100)


def _creates(bench: Bench, count: int, connections: int) -> dict[str, Any]:
    ours: dict[str, Any] = bench.daemon.load("POST", ["/stacks"], body=BODY, count=count, connections=connections)
    if ours["statuses"] != {"201": count}:
        raise RuntimeError(f"not all were created in {NAMESPACE}: {ours['statuses']}")
    bench.daemon.process.until(bench.daemon.settled, 600.0, every=0.1)
    return ours


def _add(bench: Bench, goal: Goal, measured: float, floor: float, *, of: str) -> None:
    named = Goal(name=goal.name + bench.suffix, text=goal.text, bound=goal.bound, at_most=goal.at_most)
    bench.results.add(named, measured, floor, of=of)


def _forget(bench: Bench, names: list[str]) -> None:
    """Delete the raw client's pods, and stackd's stacks."""
    bench.floor("delete", names=names)
    if ids := bench.daemon.ids():
        bench.daemon.batch_delete(ids)

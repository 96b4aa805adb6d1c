"""Who owns the stacks, and the troubles of ownership: lost, restored and second files; dead, stopped or paused owners.

Owns: invariant 9 at every moment: it sees each change of the Lease, each request that arrives at the cluster, and each
response that arrives at a client. Also owns ``settled``: whether the owner's file is known to have what the cluster
has.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

from stackd.embedded.resources import LEASES, PODS, SERVICES
from stackd.embedded.server import Exchange
from stackd.embedded.store import ObjectChange
from stackd.kube.lease import SEQUENCE
from tests.faults.file import StateFile
from tests.faults.machine import Machine
from tests.faults.oracle import InvariantMonitor
from tests.faults.processes import Process
from tests.faults.world import NAMESPACE, Outcome, World

LEASE = "stackd-default"
CHANGING = frozenset({"create", "update", "patch", "delete", "deletecollection"})
FREE = frozenset({"leases", "namespaces"})
"""Resources that a daemon may change without being the owner."""

SLACK_SECONDS = 0.5
"""How much later than it was sent a request or response may arrive: this machine is busy."""

EARLY_SECONDS = 0.02

BEAT_SECONDS = 0.02
STALL_SECONDS = 0.1
"""A longer pause between two beats means that this process did not run: what arrived meanwhile is seen later."""

HAND_OVER_SECONDS = 15.0
START_SECONDS = 20.0


class Pulse:
    """Knows when this process, which is also the cluster, did not run: nothing that happens then can be timed."""

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self._stalls: list[tuple[float, float]] = []
        self._beating = asyncio.create_task(self._run(), name="pulse")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self.beat(time.monotonic())

    def beat(self, now: float) -> None:
        """The process runs at this moment (monotonic seconds)."""
        if now - self._beat > STALL_SECONDS:
            self._stalls.append((self._beat, now))
        self._beat = now

    def running(self, since: float) -> float:
        """For how many seconds since then the process has run; negative before that moment."""
        now = time.monotonic()
        self.beat(now)
        stalled = sum(max(0.0, min(now, end) - max(since, start)) for start, end in self._stalls if end > since)
        return now - since - stalled

    async def stop(self) -> None:
        """End the task."""
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)


class Owners:
    """The owners of one world, one after the other; ``machine`` is that of the present owner, or of the last one."""

    def __init__(self, world: World, monitor: InvariantMonitor, lease_seconds: float) -> None:
        world.owners = self
        self.machine = world.machines[0]
        self.settled = False
        self._world = world
        self._monitor = monitor
        self._lease_seconds = lease_seconds
        self._holder: tuple[str, str] | None = None
        self._held: list[tuple[float, str]] = []
        self._renewed = 0.0
        self._renew_time: str | None = None
        self._copies: list[tuple[Path, int]] = []
        self._sequence = 0
        self._busy = asyncio.Lock()
        self._settling: asyncio.Task[None] | None = None
        self._pulse = Pulse()
        world.cluster.store.observe(self._see)
        world.cluster.server.audit = self._arrived

    async def do(self, what: str, how: dict[str, Any]) -> None:
        """Let one of them happen; never two at the same time."""
        async with self._busy:
            self._world.counts["faults"] += 1
            self._world.counts[f"fault {what}"] += 1
            self._world.note(f"owners: {what} {how}")
            await getattr(self, what)(**how)

    async def close(self) -> None:
        """Stop looking."""
        await self._pulse.stop()
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)

    def standby(self) -> Machine | None:
        """A machine whose daemon listens and does not own the stacks."""
        others = (machine for machine in self._world.machines if machine is not self.machine)
        return next((machine for machine in others if machine.up.is_set()), None)

    # ---- what is seen

    def _see(self, change: ObjectChange) -> None:
        if change.after.resource is not LEASES or change.after.key != (NAMESPACE, LEASE):
            return
        spec = change.after.obj["spec"]
        host, _, file_id = str(spec.get("holderIdentity") or "").partition("/")
        now = time.monotonic()
        before, silent = self._held[-1][1] if self._held else "", now - self._renewed
        if spec.get("renewTime") != self._renew_time:  # a request for a takeover is no renewal
            self._renew_time, self._renewed = spec.get("renewTime"), now
        self._sequence = int((change.after.obj["metadata"].get("annotations") or {}).get(SEQUENCE, 0))
        if change.type == "DELETED" or not host:
            self._held.append((now, ""))
            return
        if not self._held or self._held[-1][1] != host:
            self._world.note(f"{host} owns the stacks")
            early = before and silent < self._lease_seconds - EARLY_SECONDS
            self._world.checked("9 one owner", not early, f"{host} takes the Lease of {before} after {silent:.2f} s")
            self._world.counts["owners"] += 1
            self._held.append((now, host))
            self._watch_settling()
        self.machine = next(machine for machine in self._world.machines if machine.name == host)
        if self._holder not in (None, (host, file_id)):
            self.forget()
        self._holder = (host, file_id)

    def forget(self) -> None:
        """The owner's file is another one. It does not know a stack whose Service somebody has just deleted."""
        world = self._world
        recorded = {name.removeprefix("svc-") for name in world.ours("services")}
        world.ledger.forget()
        world.ledger.fleeting |= set(world.ledger.known()) - recorded
        self._monitor.forget()
        self.settled = False
        self._watch_settling()

    def _watch_settling(self) -> None:
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle(), name="settling")

    async def _settle(self) -> None:
        """Wait until the owner says that it is ready."""
        while not self.settled:
            machine, files = self.machine, self._world.ledger.files
            await self._look(machine)
            outcome = await self._world.call("GET", "/readyz", patience=5.0, machine=machine)
            if outcome.status == 200 and (machine, files) == (self.machine, self._world.ledger.files):
                self.settled = True
                self._monitor.settle()
                self._world.note(f"{machine.name} is ready")
                return
            await asyncio.sleep(0.01)

    async def _look(self, machine: Machine) -> None:
        """A client reads a stack that has to exist: the answer is the stack, or that nothing can be said yet."""
        world = self._world
        stays = [one for one in world.ledger.known() if not world.ledger.may_be_gone(one, world.skew.highest())]
        if not stays:
            return
        one = await world.call("GET", f"/stacks/{stays[0]}", patience=5.0, machine=machine)
        listed = await world.call("GET", "/stacks", patience=5.0, machine=machine)
        ids = [stack["stack_id"] for stack in listed.body["stacks"]] if listed.status == 200 else stays
        missing = [
            name for name in stays if name not in ids and not world.ledger.may_be_gone(name, world.skew.highest())
        ]
        lost = one.status == 404 and not world.ledger.may_be_gone(stays[0], world.skew.highest())
        world.checked("9 nobody notices", not lost, f"{machine.name}: GET {stays[0]}: {one}")
        world.checked("9 nobody notices", not missing, f"{machine.name}: {missing} are not listed")

    def _arrived(self, call: Exchange) -> None:
        """Check a request to the cluster: only the owner may change anything, and only while its Lease is valid."""
        if call.target is None or call.target.verb not in CHANGING or call.target.full_resource in FREE:
            return
        sender = call.user.name if call.user is not None else self._world.machines[0].name
        holder = self._held[-1][1] if self._held else ""
        late = self._pulse.running(self._renewed + self._lease_seconds)
        what = f"{sender} sends {call.method} {call.path}"
        self._world.checked("9 one owner", sender == holder, f"{what}, and {holder or 'nobody'} owns the stacks")
        self._world.checked("9 one owner", late < SLACK_SECONDS, f"{what} {late:.1f} s after the end of its Lease")

    def answered(self, machine: Machine, method: str, path: str, outcome: Outcome) -> None:
        """Check a response to a client: only the owner may say that something is done."""
        if method == "GET" or path == "/takeover" or outcome.status is None or outcome.status >= 300:
            return
        since = time.monotonic() - SLACK_SECONDS
        holders = {host for at, host in self._held if at >= since}
        holders |= {
            host for at, host in self._held if at < since and not any(at < later < since for later, _ in self._held)
        }
        late = self._pulse.running(self._renewed + self._lease_seconds)
        what = f"{machine.name} acknowledges {method} {path}"
        self._world.checked(
            "9 one owner acknowledges", machine.name in holders, f"{what}, and {holders} own the stacks"
        )
        self._world.checked("9 one owner acknowledges", late < SLACK_SECONDS, f"{what} {late:.1f} s after its Lease")

    # ---- what happens

    async def lose_file(self, *, kill: bool, pause: float = 0.0) -> None:
        """The machine returns with an empty disk."""
        machine = self.machine
        await machine.gone(kill=kill)
        await asyncio.sleep(pause)
        machine.lose_file()
        self._begin_anew(machine)

    async def back_up(self, *, snapshot: bool) -> None:
        """Copy the file; with ``snapshot`` as a snapshot of the disk, so that the copy does not know that it is one."""
        if not self.machine.file.path.exists() or not self.settled:
            return
        copy = self._world.folder / f"copy-{len(self._copies)}.db"
        await asyncio.to_thread(self.machine.copy_file, copy, snapshot=snapshot)
        self._copies.append((copy, StateFile(copy).sequence() if snapshot else -1))

    async def restore(self, *, pick: float, kill: bool) -> None:
        """Restore one of the copies; if there is none yet, the file is lost."""
        machine = self.machine
        await machine.gone(kill=kill)
        # A snapshot passes for the file itself until a renewal of the Lease tells of later changes (docs/operate.md).
        copies = [copy for copy, sequence in self._copies if sequence < self._sequence]
        if copies:
            copy = copies[min(int(pick * len(copies)), len(copies) - 1)]
            self._world.note(f"{copy.name} is put back")
            machine.restore_file(copy)
        else:
            machine.lose_file()
        self._begin_anew(machine)

    def _begin_anew(self, machine: Machine) -> None:
        if machine is self.machine:
            self.forget()
        machine.absent = False

    async def mistake(self, *, key: str, kill: bool) -> None:
        """The operator configures another namespace or instance: the start is refused, and the stacks do not change."""
        world, machine = self._world, self.machine
        await machine.gone(kill=kill)
        if machine.file.path.exists() and (rows := machine.file.rows()):
            before = _changes(world)
            process = machine.start(**{key: "mistaken"})
            async with asyncio.timeout(START_SECONDS):
                code = await process.exited
            said = [line for line in process.lines if line.strip()]
            good = code == 2 and len(said) == 1 and "mistaken" in said[0] and f"{len(rows)} stacks" in said[0]
            world.checked("9 whose stacks they are", good, f"{key}: it ended with {code}, and said {said}")
            same = machine.file.rows() == rows
            world.checked("9 whose stacks they are", same, "a start that was refused has changed rows")
            if len(world.machines) == 1:
                same = _changes(world) == before
                world.checked("9 whose stacks they are", same, "a start that was refused has asked the cluster")
        machine.absent = False

    async def hand_over(self, *, how: str) -> None:
        """Another machine takes over: the owner is dead or stopped, or the machine asks for it."""
        standby, machine = self.standby(), self.machine
        if standby is None or not machine.up.is_set():
            return
        if how == "takeover":
            await self._ask(standby, machine)
            return
        await machine.gone(kill=how == "kill")
        try:
            await self._until_owner(standby, "the owner is gone")
        finally:
            machine.absent = False

    async def _ask(self, standby: Machine, owner: Machine) -> None:
        world, process = self._world, owner.process
        asked = await world.call("POST", "/takeover", machine=standby)
        world.note(f"{standby.name} asks to take over: {asked}")
        world.checked("only documented answers", asked.status in (202, 409, 503, None), f"takeover: {asked}")
        if asked.status == 202:
            await self._until_owner(standby, "the owner was asked", process)

    async def _until_owner(self, standby: Machine, why: str, *others: Process) -> None:
        """Return when ``standby`` owns the stacks, or it or one of the ``others`` has died meanwhile."""
        processes, end = (standby.process, *others), time.monotonic() + HAND_OVER_SECONDS
        while self.machine is not standby and all(process.alive for process in processes):
            if time.monotonic() > end:
                self._world.violated("9 one owner", f"{why}, and {standby.name} does not take over")
                return
            await asyncio.sleep(0.01)

    async def freeze(self, *, seconds: float) -> None:
        """Pause the owner's process for this long; then it continues as if nothing had happened."""
        process = self.machine.process
        process.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        process.send(signal.SIGCONT)

    # ---- when all is quiet

    async def at_rest(self) -> None:
        """Check that one machine owns the stacks, and that the others become standbys."""
        world, end, wrong = self._world, time.monotonic() + START_SECONDS, ["?"]
        while wrong and time.monotonic() < end:
            wrong = []
            for machine in world.machines:
                told = await world.call("GET", "/owner", machine=machine)
                role = told.body["role"] if told.status == 200 else str(told)
                expected = "owner" if machine is self.machine else "standby"
                wrong += [] if role == expected else [f"{machine.name} is {role}, and should be {expected}"]
            await asyncio.sleep(0.05)
        world.checked("9 one owner", not wrong, f"{wrong}")


def _changes(world: World) -> int:
    """How many requests to change pods or Services the cluster has got."""
    counts = world.cluster.counts
    return sum(counts.total(verb, kind.plural) for verb in CHANGING for kind in (PODS, SERVICES))

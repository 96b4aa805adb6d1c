"""Who owns the stacks, and the faults of ownership: lost, restored and second files; dead, stopped or paused owners.

Owns: invariant 9 at every moment: it sees each change of the Lease, each request that arrives at the cluster, and each
response that arrives at a client. Also owns ``settled``: whether the owner's file has all that the cluster has.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

from stackd.embedded.resources import LEASES
from stackd.embedded.server import Exchange
from stackd.embedded.store import ObjectChange
from stackd.kube.lease import SEQUENCE
from tests.faults.file import StateFile
from tests.faults.machine import Machine
from tests.faults.oracle import InvariantMonitor
from tests.faults.plan import LEASE_SECONDS
from tests.faults.process import Process
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
ONE_OWNER, NOBODY_NOTICES, WHOSE = "9 one owner", "9 nobody notices", "9 whose stacks they are"


class Owners:
    """The owners of one world, one after the other; ``machine`` is that of the present owner, or of the last one."""

    def __init__(self, world: World, monitor: InvariantMonitor) -> None:
        world.owners = self
        self.machine = world.machines[0]
        self.settled = False
        self.world = world
        self._monitor = monitor
        self._identity: tuple[str, str] | None = None
        self._holders: list[tuple[float, str]] = []
        """Since when each machine has had the Lease; "" is nobody."""
        self._renewed = 0.0
        self._renew_time: str | None = None
        self._copies: list[tuple[Path, int]] = []
        self._sequence = 0
        self._busy = asyncio.Lock()
        self._settling: asyncio.Task[None] | None = None
        self._beat_at = time.monotonic()
        self._stalls: list[tuple[float, float]] = []
        self._beating = asyncio.create_task(self._keep_beating(), name="pulse")
        world.cluster.store.observe(self._see)
        world.cluster.server.audit = self._arrived

    async def do(self, what: str, how: dict[str, Any]) -> None:
        """Let one of them happen; never two at the same time."""
        async with self._busy:
            self.world.counts["faults"] += 1
            self.world.counts[f"fault {what}"] += 1
            self.world.note(f"owners: {what} {how}")
            await getattr(self, what)(**how)

    async def close(self) -> None:
        for task in filter(None, (self._beating, self._settling)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def standby(self) -> Machine | None:
        """A machine whose daemon listens and does not own the stacks."""
        others = (machine for machine in self.world.machines if machine is not self.machine)
        return next((machine for machine in others if machine.up.is_set()), None)

    def owns(self, machine: Machine) -> bool:
        """Whether this machine has the Lease: not before it took it, and not once it gave it back."""
        return bool(self._holders) and self._holders[-1][1] == machine.name

    # ---- when this process, which is also the cluster, does not run, nothing that happens can be timed

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self._beat()

    def _beat(self) -> float:
        now = time.monotonic()
        if now - self._beat_at > STALL_SECONDS:
            self._stalls.append((self._beat_at, now))
        self._beat_at = now
        return now

    def _overdue(self) -> float:
        """For how many seconds this process has run since the end of the Lease; negative before that."""
        now, since = self._beat(), self._renewed + LEASE_SECONDS
        return (
            now - since - sum(max(0.0, min(now, end) - max(since, start)) for start, end in self._stalls if end > since)
        )

    # ---- what is seen

    def _see(self, change: ObjectChange) -> None:
        if change.after.resource is not LEASES or change.after.key != (NAMESPACE, LEASE):
            return
        spec, now = change.after.obj["spec"], time.monotonic()
        host, _, file_id = str(spec.get("holderIdentity") or "").partition("/")
        before, silent = self._holders[-1][1] if self._holders else "", now - self._renewed
        if spec.get("renewTime") != self._renew_time:  # a request for a takeover is no renewal
            self._renew_time, self._renewed = spec.get("renewTime"), now
        self._sequence = int((change.after.obj["metadata"].get("annotations") or {}).get(SEQUENCE, 0))
        if change.type == "DELETED" or not host:
            self._holders.append((now, ""))
            return
        if not self._holders or before != host:
            self.world.note(f"{host} owns the stacks")
            early = before and silent < LEASE_SECONDS - EARLY_SECONDS
            self.world.checked(ONE_OWNER, not early, f"{host} takes the Lease of {before} after {silent:.2f} s")
            self.world.counts["owners"] += 1
            self._holders.append((now, host))
            self._watch_settling()
        self.machine = next(machine for machine in self.world.machines if machine.name == host)
        if self._identity not in (None, (host, file_id)):
            self._forget()
        self._identity = (host, file_id)

    def _forget(self) -> None:
        """The owner's file is another one. It does not know a stack whose Service somebody has just deleted."""
        world = self.world
        recorded = {name.removeprefix("svc-") for name in world.ours("services")}
        world.ledger.forget()
        world.ledger.fleeting |= world.ledger.by_id().keys() - recorded
        self._monitor.forget()
        self.settled = False
        self._watch_settling()

    def _watch_settling(self) -> None:
        if self._beating.done():  # closed; a daemon may still end
            return
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle(), name="settling")

    async def _settle(self) -> None:
        """Wait until the owner says that it is ready."""
        while not self.settled:
            machine, files = self.machine, self.world.ledger.files
            await self._read(machine)
            outcome = await self.world.call("GET", "/readyz", patience=5.0, machine=machine)
            if outcome.status == 200 and (machine, files) == (self.machine, self.world.ledger.files):
                self.settled = True
                self._monitor.settle()
                self.world.note(f"{machine.name} is ready")
                return
            await asyncio.sleep(0.01)

    async def _read(self, machine: Machine) -> None:
        """A client reads a stack that has to exist: the answer is the stack, or that nothing can be said yet."""
        world = self.world
        stay = [name for name in world.ledger.by_id() if not world.may_be_gone(name)]
        if not stay:
            return
        one = await world.call("GET", f"/stacks/{stay[0]}", patience=5.0, machine=machine)
        listed = await world.call("GET", "/stacks", patience=5.0, machine=machine)
        ids = [stack["stack_id"] for stack in listed.body["stacks"]] if listed.status == 200 else stay
        missing = [name for name in stay if name not in ids and not world.may_be_gone(name)]
        lost = one.status == 404 and not world.may_be_gone(stay[0])
        world.checked(NOBODY_NOTICES, not lost, f"{machine.name}: GET {stay[0]}: {one}")
        world.checked(NOBODY_NOTICES, not missing, f"{machine.name}: {missing} are not listed")

    def _arrived(self, call: Exchange) -> None:
        """Check a request to the cluster: only the owner may change anything, and only while its Lease is valid."""
        if call.target is None or call.target.verb not in CHANGING or call.target.full_resource in FREE:
            return
        sender = call.user.name if call.user is not None else self.world.machines[0].name
        holder = self._holders[-1][1] if self._holders else ""
        late, what = self._overdue(), f"{sender} sends {call.method} {call.path}"
        self.world.checked(ONE_OWNER, sender == holder, f"{what}, and {holder or 'nobody'} owns the stacks")
        self.world.checked(ONE_OWNER, late < SLACK_SECONDS, f"{what} {late:.1f} s after the end of its Lease")

    def answered(self, machine: Machine, method: str, path: str, outcome: Outcome) -> None:
        """Check a response to a client: only the owner may say that something is done."""
        if method == "GET" or path == "/takeover" or outcome.status is None or outcome.status >= 300:
            return
        since = time.monotonic() - SLACK_SECONDS
        earlier = [host for at, host in self._holders if at < since]
        holders = {host for at, host in self._holders if at >= since} | set(earlier[-1:])
        late, what = self._overdue(), f"{machine.name} acknowledges {method} {path}"
        self.world.checked(
            f"{ONE_OWNER} acknowledges", machine.name in holders, f"{what}, and {holders} own the stacks"
        )
        self.world.checked(f"{ONE_OWNER} acknowledges", late < SLACK_SECONDS, f"{what} {late:.1f} s after its Lease")

    # ---- what happens

    async def lose_file(self, *, kill: bool, pause: float = 0.0) -> None:
        machine = self.machine
        await machine.gone(kill=kill)
        await asyncio.sleep(pause)
        machine.lose_file()
        self._return_without(machine)

    async def back_up(self, *, snapshot: bool) -> None:
        """Copy the file; with ``snapshot`` as a snapshot of the disk, so that the copy does not know that it is one."""
        if not self.machine.file.path.exists() or not self.settled:
            return
        copy = self.world.folder / f"copy-{len(self._copies)}.db"
        await asyncio.to_thread(self.machine.copy_file, copy, snapshot=snapshot)
        self._copies.append((copy, StateFile(copy).sequence() if snapshot else -1))

    async def restore(self, *, pick: float, kill: bool) -> None:
        """Restore one of the copies; if there is none yet, the file is lost."""
        machine = self.machine
        await machine.gone(kill=kill)
        # A snapshot passes for the file itself until a renewal of the Lease reports later changes (docs/recovery.md).
        copies = [copy for copy, sequence in self._copies if sequence < self._sequence]
        if copies:
            copy = copies[min(int(pick * len(copies)), len(copies) - 1)]
            self.world.note(f"{copy.name} is put back")
            machine.restore_file(copy)
        else:
            machine.lose_file()
        self._return_without(machine)

    def _return_without(self, machine: Machine) -> None:
        """Let the machine start again, without the file that it had."""
        if machine is self.machine:
            self._forget()
        machine.absent = False

    async def mistake(self, *, key: str, kill: bool) -> None:
        """The operator configures another namespace or instance: the start is refused, and the stacks do not change."""
        world, machine = self.world, self.machine
        await machine.gone(kill=kill)
        if machine.file.path.exists() and (rows := machine.file.rows()):
            before = self._changes()
            process = machine.start(**{key: "mistaken"})
            async with asyncio.timeout(START_SECONDS):
                code = await process.exited
            lines = process.lines
            good = code == 2 and len(lines) == 1 and "mistaken" in lines[0] and f"{len(rows)} stack" in lines[0]
            world.checked(WHOSE, good, f"{key}: it ended with {code}, and said {lines}")
            same = machine.file.rows() == rows and (len(world.machines) > 1 or self._changes() == before)
            world.checked(WHOSE, same, "a start that was refused has changed rows, or asked the cluster")
        machine.absent = False

    def _changes(self) -> int:
        counts = self.world.cluster.counts
        return sum(counts.total(verb, kind) for verb in CHANGING for kind in ("pods", "services"))

    async def hand_over(self, *, how: str) -> None:
        """Another machine takes over: the owner is dead or stopped, or the machine asks for it."""
        world, standby, machine = self.world, self.standby(), self.machine
        if standby is None or not machine.up.is_set():
            return
        if how == "takeover":
            process = machine.process
            asked = await world.call("POST", "/takeover", machine=standby)
            world.note(f"{standby.name} asks to take over: {asked}")
            world.checked("only documented answers", asked.status in (202, 409, 503, None), f"takeover: {asked}")
            if asked.status == 202:
                await self._until_owner(standby, "the owner was asked", process)
            return
        await machine.gone(kill=how == "kill")
        try:
            await self._until_owner(standby, "the owner is gone")
        finally:
            machine.absent = False

    async def _until_owner(self, standby: Machine, why: str, *others: Process) -> None:
        """Return when ``standby`` owns the stacks, or it or one of the ``others`` has died meanwhile."""
        processes, end = (standby.process, *others), time.monotonic() + HAND_OVER_SECONDS
        while self.machine is not standby and all(process.alive for process in processes):
            if time.monotonic() > end:
                self.world.violated(ONE_OWNER, f"{why}, and {standby.name} does not take over")
                return
            await asyncio.sleep(0.01)

    async def freeze(self, *, seconds: float) -> None:
        process = self.machine.process
        process.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        process.send(signal.SIGCONT)

    # ---- when all is quiet

    async def at_rest(self) -> None:
        """Check that one machine owns the stacks, and that the others become standbys."""
        world, end = self.world, time.monotonic() + START_SECONDS
        expected = {machine.name: "owner" if machine is self.machine else "standby" for machine in world.machines}
        roles: dict[str, str] = {}
        while roles != expected and time.monotonic() < end:
            for machine in world.machines:
                answer = await world.call("GET", "/owner", machine=machine)
                roles[machine.name] = answer.body["role"] if answer.status == 200 else str(answer)
            await asyncio.sleep(0.05)
        world.checked(ONE_OWNER, roles == expected, f"the roles are {roles}, and should be {expected}")

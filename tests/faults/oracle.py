"""What has to be true when all faults are over: compares rows, objects and acknowledgements.

Owns: invariants 3, 4, 5 and 7 at the end. It reads the cluster itself, the state file and what clients were answered; of
the daemon it only reads the responses, which it compares, too. ``InvariantMonitor`` owns 1 and 2 at every moment.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Any

from stackd.codes import ErrorCode
from stackd.embedded.nodeports import node_ports
from stackd.embedded.resources import HTTP_ROUTES, NETWORK_POLICIES, PODS, SERVICES
from stackd.embedded.store import ObjectChange
from stackd.kube.records import Unrecoverable, parse_record
from stackd.model import RANGE_PREFIX
from tests.faults.file import Row
from tests.faults.ledger import RUNS_ON, Batch, Create
from tests.faults.world import NAMESPACE, OUR_NAME, STACK, TEMPLATE, World, is_ours, is_theirs

WATCHES = 4
LONGEST = 86_460 * 10**9
"""Nanoseconds, about a day: nothing may live longer (``stacks.max_ttl``)."""
FINISHED = ("completed", "failed")
WAITED_FOR = {ErrorCode.SHUTTING_DOWN, ErrorCode.NOT_OWNER, ErrorCode.STORE_UNAVAILABLE, ErrorCode.HELD}
"""What no job fails for: it goes on when that is over, in this process or the next one."""
CONFLICTS = {code for code in ErrorCode if code.status == 409}
ONCE = "7 each id counts once"
DURABLE = "3 acknowledged is durable"


class Oracle:
    """Compares. ``differences`` is empty once all has converged; then the other checks are made.

    Unless the faults may make it fail (``fails``), a job fails only what the state of a stack does not allow.
    """

    def __init__(self, world: World, *, fails: bool = True) -> None:
        self._world, self._fails = world, fails

    def differences(self) -> list[str]:
        """What is not (yet) as it has to be: rows against objects (4), promises (3), jobs (7)."""
        return list(self._differences())

    def _differences(self) -> Iterator[str]:
        world = self._world
        rows, pods, services = world.file.rows(), world.ours("pods"), world.ours("services")
        known = {name for row in rows.values() for name in (row.pod_name, *row.member_pods.values())}
        yield from (f"pod {name} has no row" for name in pods.keys() - known)
        yield from (f"Service {name} has no row" for name in services if name.removeprefix("svc-") not in rows)
        yield from (f"pod {name} was left" for name in world.objects("pods") if name.startswith("check-"))
        for row in rows.values():
            compare = self._spare if row.spare else self._row
            yield from compare(row, pods.get(row.pod_name), services.get(f"svc-{row.stack_id}"))
        if len(world.cluster.server.watches) < WATCHES:
            yield "the cluster is not being watched"
        holders = Counter(world.file.holders())
        wanted = {row.stack_id: len(row.ports) for row in rows.values() if row.ports_held and row.ports}
        if holders != wanted:
            yield f"ports are held by {dict(holders)}, and should be by {wanted}"
        yield from self._routes(rows)
        yield from self._promises(rows)
        yield from self._pool(rows, pods)
        jobs = [batch.job_id for batch in world.ledger.batches if batch.job_id is not None]
        yield from (f"{job_id} is not in the file" for job_id in jobs if world.file.job(job_id) is None)
        yield from (f"{job_id} has not finished" for job_id in world.file.unfinished_jobs())

    def _pool(self, rows: dict[str, Row], pods: dict[str, dict[str, Any]]) -> Iterator[str]:
        """The pool is full; each stack that was given away was requested, and its pod says so (11)."""
        world = self._world
        of_template = [row for row in rows.values() if row.template == TEMPLATE]
        waiting = [row for row in of_template if row.unassigned]
        if world.pool and [row.status for row in waiting] != ["running"] * world.pool:
            yield f"in the pool are {[(row.stack_id, row.status) for row in waiting]}, not {world.pool} that run"
        creates = [create for create in world.ledger.creates if create.template]
        answered = {stack_id for create in creates for stack_id in create.ids}
        of_jobs = {batch.marker for batch in world.ledger.batches if batch.creates}
        given = [row for row in of_template if not row.unassigned and row.marker not in of_jobs]
        nobodys = [row.stack_id for row in given if row.stack_id not in answered]
        unknown = sum(create.open for create in creates)
        if len(nobodys) > unknown:
            yield f"{nobodys} were given to nobody; of {unknown} creates nobody knows what became of them"
        for row in of_template:
            pod = pods.get(row.stack_id)
            if pod is not None and ("stackd.io/pool" in pod["metadata"]["labels"]) != row.unassigned:
                yield f"{row.stack_id}: unassigned is {row.unassigned}, and its pod says otherwise"

    def _spare(self, row: Row, pod: dict[str, Any] | None, service: dict[str, Any] | None) -> Iterator[str]:
        """It has nothing but its Service."""
        yield from self._service(row, service)
        if pod is not None:
            yield f"{row.stack_id}: it is a spare, and has a pod"

    def _row(self, row: Row, pod: dict[str, Any] | None, service: dict[str, Any] | None) -> Iterator[str]:
        name, wish = row.stack_id, self._world.ledger.wishes[row.stack_id]
        if row.deleting or not row.accepted:
            yield f"{name} is {'still being deleted' if row.deleting else 'not accepted'}"
            return
        if row.ttl_expires_at <= self._world.skew.now() and not row.unassigned and row.shared_pod is None:
            yield f"{name} has expired"
            return
        if row.desired not in wish.possible:
            yield f"{name} is to be {row.desired}, and was asked to be {wish.possible}"
        wanted = (row.ports, frozenset(row.names.values())) if row.ports_held else (frozenset(), frozenset())
        if (row.held, row.held_names) != wanted or row.ports_held == row.ended:
            yield f"{name}: it holds {[*row.held, *row.held_names]}, ended is {row.ended}, ports_held is {row.ports_held}"
        yield from self._service(row, service)
        if service is not None:
            yield from self._record(row, service, pod)
        if row.desired == "stopped":
            if pod is not None or row.ended or row.status != "stopped":
                yield f"{name} is stopped, its pod is {_phase(pod)}, and the file says {row}"
            return
        if not row.has_pod_uid and not row.ended:
            yield f"{name}: it has not been started yet"
            return
        if not row.ended and pod is not None and not is_ours(pod):
            yield f"{name}: labels are missing on its pod"
        yield from self._pods(row, pod)

    def _pods(self, row: Row, pod: dict[str, Any] | None) -> Iterator[str]:
        """They run, or the stack has ended; then none of several is left that runs."""
        name, pods = row.stack_id, self._world.ours("pods")
        others = [pods.get(each) for each in row.member_pods.values()]
        if row.members and row.ended:
            if any(one is not None and _phase(one) in ("Pending", "Running") for one in (pod, *others)):
                yield f"{name} has ended, and a pod of it runs"
            return
        ended = any(one is None or one["status"]["phase"] in ("Succeeded", "Failed") for one in (pod, *others))
        if ended != row.ended or row.status not in _statuses(pod, row.status):
            yield f"{name}: it is {row.status}, ended is {row.ended}, and its pod is {_phase(pod)}"

    def _service(self, row: Row, service: dict[str, Any] | None) -> Iterator[str]:
        """With its node ports, or of type ClusterIP once they were given back."""
        if service is None:
            yield f"{row.stack_id}: its Service is not there"
            return
        wanted = ("NodePort", row.ports) if row.ports_held and row.ports else ("ClusterIP", frozenset[int]())
        has = (service["spec"]["type"], node_ports(service["spec"]))
        if has != wanted:
            yield f"{row.stack_id}: its Service is {has}, and should be {wanted}"
        if not is_ours(service):
            yield f"{row.stack_id}: labels are missing on its Service"

    def _record(self, row: Row, service: dict[str, Any], pod: dict[str, Any] | None) -> Iterator[str]:
        """Whoever loses the file gets the same stack from the record of the Service."""
        pods = self._world.ours("pods")
        record = parse_record(service, pod, {name: pods[of] for name, of in row.member_pods.items() if of in pods})
        if isinstance(record, Unrecoverable):
            yield f"{row.stack_id}: no row can be made from its Service: {record.reason}"
            return
        one = (record.desired.value, record.ended, record.ports_held, record.ttl_expires_at, record.pod_spec)
        other = (row.desired, row.ended, row.ports_held, row.ttl_expires_at, row.pod_spec)
        if one != other or record.unassigned != row.unassigned:
            yield f"{row.stack_id}: its record says {one}, and the file {other}"

    def _routes(self, rows: dict[str, Row]) -> Iterator[str]:
        """Each row has its routes, with its names, and what connects its members' pods; and there are no others."""
        routes = {name: obj["spec"].get("hostnames", []) for name, obj in self._world.ours("routes").items()}
        wanted: dict[str, list[str]] = {}
        inner: set[str] = set()
        for row in [row for row in rows.values() if row.ports_held]:
            stack_id = row.stack_id
            wanted |= {name: [hostname] for name, hostname in row.names.items()}
            wanted |= {f"rt-{stack_id}": []} if row.names and row.ports else {}
            inner |= {f"{stack_id}-db", f"policy {stack_id}", f"policy {stack_id}-ingress"} if row.members else set()
        for has, should in ((routes, wanted), (self._world.ours("inner").keys(), inner)):
            if has != should:
                yield f"the routes or connections are {has}, and should be {should}"

    def _promises(self, rows: dict[str, Row]) -> Iterator[str]:
        world, ledger = self._world, self._world.ledger
        gone = [name for name, ending in ledger.endings.items() if ending.gone or ending.promised]
        yield from (f"{stack_id} has to be gone" for stack_id in gone if stack_id in rows)
        for stack_id, create in ledger.by_id().items():
            row = rows.get(stack_id)
            if row is None:
                if not world.may_be_gone(stack_id):
                    yield f"{stack_id} was acknowledged, and is gone"
                continue
            early = ledger.expires.get(stack_id, 0) - row.ttl_expires_at
            late = row.ttl_expires_at - world.skew.now() - LONGEST
            if max(early, late) > 0:
                yield f"{stack_id} is to end {max(early, late) / 1e9:.0f} s too {'early' if early > 0 else 'late'}"
            if row.ended and create.image == RUNS_ON and stack_id not in ledger.touched:
                yield f"{stack_id} has ended ({row.status}), and nobody touched it"
        for create in ledger.creates:
            yield from self._count(create, rows)

    def _count(self, create: Create, rows: dict[str, Row]) -> Iterator[str]:
        """One wish makes at most one stack, the one that was answered, and none if it was refused."""
        mine = {row.stack_id for row in rows.values() if f":{create.marker}\n" in row.pod_spec}
        if len(mine) > 1 or (mine and create.ids and not mine <= create.ids):
            yield f"{create.marker} has made {mine}, and {create.ids} was answered"
        if mine and not create.ids and not create.open:
            yield f"{create.marker} was refused, and has made {mine}"

    # ---- once, after convergence

    def final(self) -> None:
        world = self._world
        for invariant, wrong in (
            ("5 only ours", world.foreign.differences()),
            ("the file is intact", world.file.damage()),
            (f"{ONCE}, and is not extended or restarted twice", world.file.done_twice()),
        ):
            world.checked(invariant, not wrong, str(wrong))
        for batch in world.ledger.batches:
            if batch.job_id is not None:
                self._job(batch, batch.job_id)

    def _job(self, batch: Batch, job_id: str) -> None:
        world, job = self._world, self._world.file.job(job_id)
        assert job is not None
        counted = Counter(job.items.values())
        counted["not_found"] += job.total - len(job.items)  # those that were unknown from the beginning have no item
        same = {"done": job.done, "not_found": job.not_found, "failed": job.failed}
        good = job.total == batch.size == sum(same.values())
        good = good and (bool(batch.creates) or set(job.items) <= set(batch.ids))
        good = good and all(counted[state] == number for state, number in same.items())
        world.checked(ONCE, good, f"{job_id}: {job}")
        if batch.creates:
            self._creates(batch, {stack_id for stack_id, state in job.items.items() if state == "done"})
        fails = [code for code in job.errors if code in WAITED_FOR or not (self._fails or code in CONFLICTS)]
        world.checked("7 a stop fails nothing", not fails, f"{job_id}: {fails}")
        wrong = [name for name in batch.unknown if name in job.items]
        world.checked(ONCE, not wrong, f"{job_id}: {wrong} never existed, and are {job.items}")
        for stack_id in set(batch.ids) - batch.unknown:
            alone = world.ledger.endings[stack_id].asked == (batch.action == "delete")
            alone = alone and not world.ledger.expired(stack_id, world.skew.now())
            lost = alone and job.items.get(stack_id, "not_found") == "not_found"
            world.checked(ONCE, not lost, f"{job_id}: {stack_id} was there, and is not_found")

    def _creates(self, batch: Batch, done: set[str]) -> None:
        """The stacks with the job's label are those that it has counted; none of them is lost."""
        world = self._world
        there = {row.stack_id for row in world.file.rows().values() if row.marker == batch.marker}
        world.checked(ONCE, there <= done, f"{batch.job_id} has created {done}, and there are {there}")
        lost = [name for name in done - there if not world.may_be_gone(name) and not world.skew.leaps]
        world.checked(DURABLE, not lost, f"{batch.job_id} has created {lost}, which are gone")

    async def answers(self) -> None:
        """Check that reads return what is true."""
        world = self._world
        await world.ready()  # after a leap of the clock, only once the API server's time agrees
        rows = {stack_id: row for stack_id, row in world.file.rows().items() if not row.unassigned}
        listed = await world.call("GET", "/stacks")
        ids = [stack["stack_id"] for stack in listed.body["stacks"]] if listed.status == 200 else []
        world.checked("the list is true", sorted(ids) == sorted(rows), f"listed {ids}, there are {sorted(rows)}")
        for stack_id, row in rows.items():
            one = await world.call("GET", f"/stacks/{stack_id}")
            good = one.status == 200 and {port.get("node_port") for port in one.body["ports"]} - {None} == row.ports
            after = world.file.row(stack_id)  # the stack may have changed during the read
            good = good and one.body["status"] in {seen.status for seen in (row, after) if seen is not None}
            world.checked("the list is true", good, f"{stack_id}: {one.body}, and the row is {row}")
        for batch in world.ledger.batches:
            if batch.job_id is not None:
                job = await world.call("GET", f"{batch.route}/{batch.job_id}")
                done = "deleted" if batch.action == "delete" else "done"
                counts = [job.body.get(name, -1) for name in (done, "not_found", "failed")]
                world.checked(ONCE, job.body.get("total") == batch.size == sum(counts), f"{job.body}")


def _phase(pod: dict[str, Any] | None) -> str:
    return "gone" if pod is None else str(pod["status"]["phase"])


def _statuses(pod: dict[str, Any] | None, other: str) -> tuple[str, ...]:
    """The statuses that a stack with this pod may have; any ``other`` if that depends on more."""
    if pod is None:
        return ("stopped", "failed", "node_deleted")
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    running = ("running",) if ready else (other,)
    known = {"Succeeded": ("stopped",), "Failed": ("failed", "node_deleted"), "Running": running}
    return known.get(pod["status"]["phase"], (other,))


# ---- invariants 1 and 2 at run time: the state file is read whenever an object of stackd comes or goes


class InvariantMonitor:
    """Sees every change of pods, Services and routes."""

    def __init__(self, world: World) -> None:
        self._world = world
        world.cluster.store.observe(self._see)

    def _see(self, change: ObjectChange) -> None:
        record = change.after
        if change.type == "MODIFIED" or record.resource not in (PODS, SERVICES, HTTP_ROUTES, NETWORK_POLICIES):
            return
        if record.key[0] != NAMESPACE or not self._world.made_by_us(record.obj) or is_theirs(record.obj):
            return
        named = OUR_NAME.fullmatch(record.key[1])
        stack_id = named[1] if named is not None else str((record.obj["metadata"].get("labels") or {}).get(STACK))
        if stack_id.startswith(RANGE_PREFIX):
            return  # a probe for the port range belongs to no stack
        try:
            self._check(change, stack_id, record.obj)
        except sqlite3.Error as error:
            self._world.violated("1 intent first", f"{stack_id}: the file cannot be read: {error}")

    def _check(self, change: ObjectChange, stack_id: str, obj: dict[str, Any]) -> None:
        world, row, added = self._world, self._world.file.row(stack_id), change.type == "ADDED"
        what = f"{change.after.resource.kind} of {stack_id} {'comes' if added else 'goes'}"
        invariant = "1 intent first" if added else "3 rows outlive objects"
        if not world.checked(invariant, row is not None, f"{what} and has no row"):
            return
        assert row is not None
        if change.after.resource is SERVICES:
            ports = node_ports(obj["spec"])
            text = f"{what} with ports {sorted(ports)}, and the file holds {sorted(row.held)} for it"
            world.checked("2 one holder per port", ports <= row.held, text)

"""What has to be true when all troubles are over: compares rows, objects and acknowledgements.

Owns: invariants 3, 4, 5 and 7 at the end. It reads the cluster itself, the state file and what clients were told; of
the daemon it only reads the responses, which it compares, too. ``InvariantMonitor`` owns 1 and 2 at every moment.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from typing import Any

from stackd.embedded.nodeports import node_ports
from stackd.embedded.resources import HTTP_ROUTES, PODS, SERVICES
from stackd.embedded.store import ObjectChange
from stackd.kube.records import Unrecoverable, parse_record
from stackd.model import RANGE_PREFIX
from tests.faults.file import Row
from tests.faults.ledger import Batch, Create
from tests.faults.world import NAMESPACE, OUR_NAME, TEMPLATE, World, is_ours

WATCHES = 4
TRIES = 4
SETTLE_SECONDS = 0.5
SAME_SECONDS = 5.0
LONGEST = 86_460 * 10**9
"""Nanoseconds, about a day: nothing may live longer (``stacks.max_ttl``)."""
FINISHED = ("completed", "failed")
LATE_LEASES = 5
"""How often in a row a busy machine may renew a Lease too late while reads are checked."""


class Oracle:
    """Compares. ``differences`` is empty once all has converged; then the other checks are made."""

    def __init__(self, world: World) -> None:
        self._world = world

    def differences(self) -> list[str]:
        """What is not (yet) as it has to be: rows against objects (4), promises (3), jobs (7)."""
        world = self._world
        rows, pods, services = world.file.rows(), world.ours("pods"), world.ours("services")
        # a pod whose Service was lost together with the file is left to the operator
        unknown = {name for name in world.ledger.fleeting if f"svc-{name}" not in services}
        found = [f"pod {name} has no row" for name in pods.keys() - rows.keys() - unknown]
        found += [f"Service {name} has no row" for name in services if name.removeprefix("svc-") not in rows]
        found += self._routes(rows)
        found += [f"ConfigMap {name} was not retired" for name in world.objects("configmaps")]
        for row in rows.values():
            found += self._row(row, pods.get(row.stack_id), services.get(f"svc-{row.stack_id}"))
        if len(world.cluster.server.watches) < WATCHES:
            found.append("the cluster is not being watched")
        holders = Counter(world.file.holders().values())
        held = {row.stack_id: len(row.ports) for row in rows.values() if row.ports_held and row.ports}
        if holders != held:
            found.append(f"ports are held by {dict(holders)}, and should be by {held}")
        return found + self._promises(rows) + self._jobs() + self._pool(rows, pods)

    def _pool(self, rows: dict[str, Row], pods: dict[str, dict[str, Any]]) -> list[str]:
        """The pool is full; each stack that was given away was requested, and its pod says so (11)."""
        world, found = self._world, []
        of_template = [row for row in rows.values() if row.template == TEMPLATE]
        waiting = [row for row in of_template if row.unassigned]
        if world.pool and [row.status for row in waiting] != ["running"] * world.pool:
            found.append(
                f"in the pool are {[(row.stack_id, row.status) for row in waiting]}, not {world.pool} that run"
            )
        asked = [create for create in world.ledger.creates if create.template]
        told = {stack_id for create in asked for stack_id in create.told}
        nobodys = [row.stack_id for row in of_template if not row.unassigned and row.stack_id not in told]
        unknown = sum(create.open for create in asked)
        if len(nobodys) > unknown:
            found.append(f"{nobodys} were given to nobody; of {unknown} creates nobody knows what became of them")
        for row in of_template:
            pod = pods.get(row.stack_id)
            if pod is not None and ("stackd.io/pool" in pod["metadata"]["labels"]) != row.unassigned:
                found.append(f"{row.stack_id}: unassigned is {row.unassigned}, and its pod says otherwise")
        return found

    def _row(self, row: Row, pod: dict[str, Any] | None, service: dict[str, Any] | None) -> list[str]:
        name, found = row.stack_id, []
        if row.deleting or not row.accepted:
            return [f"{name} is {'still being deleted' if row.deleting else 'not accepted'}"]
        if row.ttl_expires_at <= self._world.skew.now() and not row.unassigned:
            return [f"{name} has expired"]
        wish = self._world.ledger.wish(name)
        if row.desired not in wish.possible:
            found.append(f"{name} is to be {row.desired}, and was asked to be {wish.possible}")
        found += self._service(row, service)
        wanted = (row.ports, frozenset(row.names.values())) if row.ports_held else (frozenset(), frozenset())
        if (row.held, row.held_names) != wanted or row.ports_held == row.ended:
            held = [*sorted(row.held), *row.held_names]
            found.append(f"{name}: it holds {held}, ended is {row.ended}, ports_held is {row.ports_held}")
        # if somebody else's pod has its pod's name, a stack can neither start nor be stopped completely
        stuck = name in self._world.ledger.usurped and not row.has_pod_uid
        if stuck:
            return found
        if service is not None:
            found += self._record(row, service, pod)
        if row.stopped:
            return found + self._stopped(row, pod)
        if not row.has_pod_uid and not row.ended:  # one that was adopted without its pod has ended
            return [*found, f"{name}: it has not been started yet"]
        if not row.ended:
            found += [f"{name}: labels are missing on its pod"] if pod is not None and not is_ours(pod) else []
        over = pod is None or pod["status"]["phase"] in ("Succeeded", "Failed")
        if over != row.ended:
            found.append(f"{name}: ended is {row.ended}, and its pod is {_phase(pod)}")
        if (expected := _status(pod)) and row.status not in expected:
            found.append(f"{name}: it is {row.status}, and its pod is {_phase(pod)}")
        return found

    def _service(self, row: Row, service: dict[str, Any] | None) -> list[str]:
        """Each row has a Service: with its node ports, or of type ClusterIP once they were given back."""
        name = row.stack_id
        if service is None:
            return [f"{name}: its Service is not there"]
        wanted = ("NodePort", row.ports) if row.ports_held and row.ports else ("ClusterIP", frozenset[int]())
        has = (service["spec"]["type"], node_ports(service["spec"]))
        found = [] if has == wanted else [f"{name}: its Service is {has}, and should be {wanted}"]
        return found if is_ours(service) else [*found, f"{name}: labels are missing on its Service"]

    def _routes(self, rows: dict[str, Row]) -> list[str]:
        """Each row has its routes, with its names, and there are no others."""
        world, services = self._world, self._world.ours("services")
        # those of which nothing else is left, and the file is lost, too, are left to the operator
        unknown = {name for name in world.ledger.fleeting if name not in rows and f"svc-{name}" not in services}
        has = {
            name: obj["spec"].get("hostnames", [])
            for name, obj in world.ours("routes").items()
            if obj["metadata"]["labels"]["stackd.io/stack"] not in unknown
        }
        wanted: dict[str, list[str]] = {}
        for row in rows.values():
            if row.ports_held:
                wanted |= {name: [hostname] for name, hostname in row.names.items()}
                wanted |= {f"rt-{row.stack_id}": []} if row.names and row.ports else {}
        return [] if has == wanted else [f"the routes are {has}, and should be {wanted}"]

    def _record(self, row: Row, service: dict[str, Any], pod: dict[str, Any] | None) -> list[str]:
        """Whoever loses the file gets the same stack from the record of the Service."""
        told = parse_record(service, pod)
        if isinstance(told, Unrecoverable):
            return [f"{row.stack_id}: no row can be made from its Service: {told.reason}"]
        # an ended stack's ports are nobody's; how it ended is read from the pod where the record lacks it
        one = (told.desired.value, told.ended, told.ports_held, told.ttl_expires_at, told.pod_spec, told.unassigned)
        # the end of a stack in a pool means nothing until it is given
        ends = told.ttl_expires_at if row.unassigned else row.ttl_expires_at
        other = (row.desired, row.ended, row.ports_held, ends, row.pod_spec, row.unassigned)
        return [] if one == other else [f"{row.stack_id}: its record says {one}, and the file {other}"]

    def _stopped(self, row: Row, pod: dict[str, Any] | None) -> list[str]:
        name, found = row.stack_id, []
        if pod is not None:
            found.append(f"{name} is stopped, and its pod is {_phase(pod)}")
        if row.ended or row.status != "stopped":
            found.append(f"{name} is stopped, and the file says {row}")
        return found

    def _promises(self, rows: dict[str, Row]) -> list[str]:
        world = self._world
        found = [f"{stack_id} has to be gone" for stack_id in rows if world.ledger.must_be_gone(stack_id)]
        for stack_id, create in world.ledger.told().items():
            row = rows.get(stack_id)
            if row is None:
                if not world.ledger.may_be_gone(stack_id, world.skew.highest()):
                    found.append(f"{stack_id} was acknowledged, and is gone")
            elif text := self._end(row):
                found.append(text)
            elif row.ended and create.stays and not world.ledger.may_have_ended(stack_id):
                found.append(f"{stack_id} has ended ({row.status}), and nobody touched it")
        return found + [text for create in world.ledger.creates if (text := self._count(create, rows))]

    def _end(self, row: Row) -> str:
        """Compare the expiry with what clients were told, by the API server's time."""
        world = self._world
        if row.stack_id in world.ledger.fleeting:
            return ""  # it had no pod that could carry its expiry
        early = world.ledger.expires.get(row.stack_id, 0) - row.ttl_expires_at
        late = row.ttl_expires_at - world.skew.now() - LONGEST
        if early <= 0 and late <= 0:
            return ""
        return f"{row.stack_id} is to end {max(early, late) / 1e9:.0f} s too {'early' if early > 0 else 'late'}"

    def _count(self, create: Create, rows: dict[str, Row]) -> str:
        """One wish makes at most one stack, the one that was told, and none if it was refused."""
        mine = [row.stack_id for row in rows.values() if f":{create.marker}\n" in row.pod_spec]
        told = {answer["stack_id"] for answer in create.answers}
        if create.loose or (create.since and create.key):
            return ""  # an earlier file may have known others
        if len(mine) > 1:
            return f"{create.marker} has made {mine}"
        if mine and told and mine[0] not in told:
            return f"{create.marker} has made {mine}, and {told} was told"
        if mine and not told and not create.open:
            return f"{create.marker} was refused, and has made {mine}"
        return ""

    def _jobs(self) -> list[str]:
        found = []
        for batch in self._world.ledger.batches:
            if batch.job_id is None:
                continue
            job = self._world.file.job(batch.job_id)
            if job is None and batch.forgotten:
                continue
            if job is None or job.status not in FINISHED:
                found.append(f"{batch.job_id} has not finished: {job}")
        return found

    def final(self) -> None:
        """The checks that are made once, after convergence."""
        world = self._world
        for text in world.foreign.differences():
            world.violated("5 only ours", text)
        world.counts["checked 5 only ours"] += 1
        damage = world.file.damage()
        world.checked("the file is whole", not damage, damage)
        for batch in world.ledger.batches:
            if batch.job_id is not None:
                self._job(batch, batch.job_id)
        twice = world.file.done_twice() if world.ledger.files == 1 else []
        world.checked("7 each id counts once", not twice, f"jobs have extended or restarted these twice: {twice}")

    def _job(self, batch: Batch, job_id: str) -> None:
        world, ids, unknown, forgotten = self._world, batch.ids, batch.unknown, batch.forgotten
        job = world.file.job(job_id)
        if job is None:
            return
        counted = Counter(job.items.values())
        same = {"done": job.done, "not_found": job.not_found, "failed": job.failed}
        good = set(job.items) == set(ids) and job.total == len(ids) == sum(same.values())
        good = good and all(counted[state] == number for state, number in same.items())
        world.checked("7 each id counts once", good, f"{job_id}: {job}")
        wrong = [name for name in unknown if job.items[name] != "not_found"]
        world.checked("7 each id counts once", not wrong, f"{job_id}: {wrong} never existed, and are {job.items}")
        latest = world.skew.highest()
        for stack_id in set(ids) - unknown:
            asked = 1 if batch.action == "delete" else 0
            alone = world.ledger.ending(stack_id).asked == asked and not world.ledger.expired(stack_id, latest)
            lost = alone and job.items[stack_id] == "not_found" and not forgotten
            world.checked("7 each id counts once", not lost, f"{job_id}: {stack_id} was there, and is not_found")

    async def stacks(self) -> dict[str, Any]:
        """All stacks as the API shows them."""
        listed = await self._world.call("GET", "/stacks")
        if listed.status != 200:
            return {}
        ones = [await self._world.call("GET", f"/stacks/{stack['stack_id']}") for stack in listed.body["stacks"]]
        return {one.body["stack_id"]: one.body for one in ones if one.status == 200}

    async def same(self, before: dict[str, Any]) -> None:
        """Check that the API shows the same as before, without the times of the last change."""
        world, end = self._world, time.monotonic() + SAME_SECONDS
        while (found := self._differ(before, await self.stacks())) and time.monotonic() < end:
            await asyncio.sleep(SETTLE_SECONDS)
        for text in found:
            world.violated("9 nobody notices", text)
        world.counts["checked 9 nobody notices"] += 1

    def _differ(self, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
        ledger, now = self._world.ledger, self._world.skew.now()
        found = []
        for stack_id in before.keys() | after.keys():
            if stack_id in ledger.fleeting or ledger.expired(stack_id, now):
                continue
            one, other = before.get(stack_id), after.get(stack_id)
            create = ledger.told().get(stack_id)
            if other is None and (create is None or ledger.may_be_gone(stack_id, now)):
                continue  # a refused create was undone, or a stack that may be gone is gone
            if one is None or other is None:
                found.append(f"{stack_id} was {one and one['status']}, and is {other and other['status']}")
                continue
            wish = ledger.wish(stack_id)
            open_ = create is None or not create.stays or len(wish.possible) > 1
            found += [
                f"{stack_id}: {key} was {one.get(key)!r}, and is {other.get(key)!r}"
                for key in one.keys() | other.keys()
                if key != "updated_at"
                and one.get(key) != other.get(key)
                # What may have changed: how a pod that does not stay has ended, and the effect of a stop or an
                # extension without an acknowledgement.
                and not (open_ and key.startswith("status"))
                and not (key == "ttl_expires_at" and one[key] < other[key])
            ]
        return found

    async def answers(self) -> None:
        """Check that reads return what is true, and send the cluster no request (invariant 6)."""
        world = self._world
        await world.ready()  # after a leap of the clock, only once the API server's time agrees
        asked: Counter[tuple[str, str]] = Counter()
        for _ in range(TRIES):  # the daemon may have sent a request of its own
            before = self._asked()
            await self._read_all()
            asked = self._asked() - before
            if not asked:
                break
            await asyncio.sleep(SETTLE_SECONDS)
        world.checked("6 reads ask the cluster nothing", not asked, f"while all was read, it was asked {dict(asked)}")

    async def _read_all(self) -> None:
        world = self._world
        rows = {stack_id: row for stack_id, row in world.file.rows().items() if not row.unassigned}
        listed = await world.call("GET", "/stacks")
        ids = [stack["stack_id"] for stack in listed.body["stacks"]] if listed.status == 200 else []
        world.checked(
            "the list is true", sorted(ids) == sorted(rows), f"listed {sorted(ids)}, there are {sorted(rows)}"
        )
        for stack_id, row in rows.items():
            one = await world.call("GET", f"/stacks/{stack_id}")
            good = one.status == 200 and {port.get("node_port") for port in one.body["ports"]} - {None} == row.ports
            after = world.file.row(stack_id)  # the stack may have changed during the read
            good = good and one.body["status"] in {seen.status for seen in (row, after) if seen is not None}
            world.checked("the list is true", good, f"{stack_id}: {one.body}, and the row is {row}")
        for batch in world.ledger.batches:
            if batch.job_id is not None:
                job = await world.call("GET", f"{batch.route}/{batch.job_id}")
                if job.status == 404 and batch.forgotten:
                    continue
                done = "deleted" if batch.action == "delete" else "done"
                counts = [job.body.get(name, -1) for name in (done, "not_found", "failed")]
                good = job.body.get("total") == len(batch.ids) == sum(counts)
                world.checked("7 each id counts once", good, f"{job.body}")
        for path in ("/stats", "/healthz", "/readyz"):
            outcome = await world.call("GET", path)
            for _ in range(LATE_LEASES if world.owners is not None else 0):
                if outcome.status == 200:
                    break
                await world.ready()  # a busy machine may be late with its Lease of one second
                outcome = await world.call("GET", path)
            world.checked("6 reads are answered", outcome.status == 200, f"GET {path}: {outcome}")

    def _asked(self) -> Counter[tuple[str, str]]:
        """The requests that the cluster has got so far, without watches and the Lease."""
        requests = self._world.cluster.counts.requests
        asked: Counter[tuple[str, str]] = Counter()
        for (verb, resource, _), count in requests.items():
            if verb != "watch" and resource != "leases":
                asked[verb, resource] += count
        return asked


def _phase(pod: dict[str, Any] | None) -> str:
    return "gone" if pod is None else str(pod["status"]["phase"])


def _status(pod: dict[str, Any] | None) -> tuple[str, ...]:
    """The statuses that a stack with this pod may have; empty if that depends on more."""
    if pod is None:
        return ("stopped", "failed", "node_deleted")
    if pod["status"]["phase"] == "Succeeded":
        return ("stopped",)
    if pod["status"]["phase"] == "Failed":
        return ("failed", "node_deleted")
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    return ("running",) if pod["status"]["phase"] == "Running" and ready else ()


# ---- invariants 1 and 2 at run time: the state file is read whenever an object of stackd comes or goes


STACK = "stackd.io/stack"


class InvariantMonitor:
    """Sees every change of pods and Services.

    With ``late``, a call may take effect while its row is being deleted, or after that.
    """

    def __init__(self, world: World, *, late: bool) -> None:
        self._world = world
        self._late = late
        self._strays: set[str] = set()
        world.cluster.store.observe(self._see)

    def excuse(self, uid: str) -> None:
        """Accept that this object has no row, for example since an earlier daemon left it behind."""
        self._strays.add(uid)

    def forget(self) -> None:
        """The owner's file is another one, which may lack what the cluster has: accept all objects that exist."""
        for kind in ("pods", "services", "routes"):
            self._strays |= {obj["metadata"]["uid"] for obj in self._world.ours(kind).values()}

    def settle(self) -> None:
        """Expect rows again for all objects whose stack the owner's file has by now."""
        rows = self._world.file.rows()
        for kind in ("pods", "services", "routes"):
            for obj in self._world.ours(kind).values():
                if obj["metadata"]["labels"][STACK] in rows and not obj["metadata"].get("deletionTimestamp"):
                    self._strays.discard(obj["metadata"]["uid"])

    def _see(self, change: ObjectChange) -> None:
        obj = change.after.obj
        if (
            change.after.resource not in (PODS, SERVICES, HTTP_ROUTES)
            or change.after.key[0] != NAMESPACE
            or not self._world.made_by_us(obj)
        ):
            return
        if change.type == "MODIFIED":
            return
        stack_id = _stack_of(obj)
        if stack_id.startswith(RANGE_PREFIX):
            return  # a probe for the port range belongs to no stack
        try:
            self._check(change, stack_id, obj)
        except sqlite3.Error as error:
            self._world.violated("1 intent first", f"{stack_id}: the file cannot be read: {error}")

    def _check(self, change: ObjectChange, stack_id: str, obj: dict[str, Any]) -> None:
        world, uid, kind = self._world, obj["metadata"]["uid"], change.after.resource.kind
        row = world.file.row(stack_id)
        born = change.type == "ADDED"
        if born and self._late and (row.deleting if row is not None else self._was_known(stack_id)):
            self._strays.add(uid)
        if row is None and uid in self._strays:
            return
        when = "comes" if born else "goes"
        invariant = "1 intent first" if born else "3 rows outlive objects"
        if not world.checked(invariant, row is not None, f"{kind} of {stack_id} {when} and has no row"):
            return
        assert row is not None
        if change.after.resource is SERVICES and uid not in self._strays:
            ports = node_ports(obj["spec"])
            text = (
                f"Service of {stack_id} {when} with ports {sorted(ports)}, and the file holds {sorted(row.held)} for it"
            )
            if self._late and not row.held:  # its ports were released before the call took effect
                self._strays.add(uid)
                return
            if uid in world.drifted or (born and world.drifting):
                world.drifted.add(uid)
                return
            world.checked("2 one holder per port", ports <= row.held, text)

    def _was_known(self, stack_id: str) -> bool:
        return any(stack_id in line for process in self._world.processes for line in process.lines)


def _stack_of(obj: dict[str, Any]) -> str:
    named = OUR_NAME.fullmatch(obj["metadata"]["name"])
    return named[1] if named is not None else str(obj["metadata"]["labels"][STACK])

"""What clients and others do, and what is checked at the moment at which the response arrives.

Owns: which responses are allowed, and what a response promises (invariant 3) at the moment at which it arrives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from stackd.embedded.nodeports import node_ports
from stackd.embedded.resources import PODS, SERVICES
from tests.faults.file import StateFile
from tests.faults.ledger import RUNS_ON, Batch, Create
from tests.faults.machine import Machine
from tests.faults.world import NAMESPACE, TEMPLATE, Outcome, World, is_ours
from tests.harness import request_for

KEYED_TRIES = 6
TRY_AGAIN_SECONDS = 0.1
READ_SECONDS = 8.0
TTLS = {None: 7200 * 10**9, "1s": 10**9, "10m": 600 * 10**9, "3h": 10_800 * 10**9}
"""The times to live that a create or an extension may request, in nanoseconds; None is the configured default."""
NOT_OWNER = "another stackd may own the stacks now"
ROUTES = ("both", "only", "")
"""Which ports of the creates have names, in turn: one of two, the only one, none."""

ANSWERS = {"create": {201, 503}, "delete": {200, 404, 503}, "batch": {202, 503}}


class Operations:
    """The operations of one world, by their names in a plan."""

    def __init__(self, world: World, *, prefix: str = "", routes: Sequence[str] = ROUTES) -> None:
        self._world = world
        self._routes = routes
        self._prefix = prefix
        self._number = 0

    async def do(self, what: str, how: dict[str, Any]) -> None:
        """Do the operation of this name."""
        self._world.counts["operations"] += 1
        await getattr(self, {"delete_and_leave": "delete"}.get(what, what))(**how)

    # ---- creates

    async def create(self, image: str, ttl: str | None = None) -> None:
        """A create whose client waits."""
        await self.attempt(self.new_create(image, ttl=ttl))

    async def create_and_leave(self, image: str, patience: float) -> None:
        """A create whose client disconnects early."""
        await self.attempt(self.new_create(image), patience)

    async def create_with_key(self, image: str, patience: float) -> None:
        """A create under an Idempotency-Key: the client disconnects once, and then repeats it until it is answered."""
        create = self.new_create(image, keyed=True)
        await self.attempt(create, patience)
        for _ in range(KEYED_TRIES):
            if (await self.attempt(create)).status == 201:
                return
            await asyncio.sleep(TRY_AGAIN_SECONDS)

    async def create_of_template(self, patience: float | None = None, *, keyed: bool = False) -> None:
        """A create from the template, which may get a stack of its pool; with a key, repeated until it succeeds."""
        create = self.new_create(RUNS_ON, keyed=keyed, template=TEMPLATE)
        await self.attempt(create, patience)
        for _ in range(KEYED_TRIES if keyed else 0):
            if (await self.attempt(create)).status == 201:
                return
            await asyncio.sleep(TRY_AGAIN_SECONDS)

    async def create_elsewhere(self, image: str) -> None:
        """A create at a machine that does not own the stacks, if there is one."""
        owners = self._world.owners
        if owners is not None and (standby := owners.standby()) is not None:
            await self.attempt(self.new_create(image), machine=standby)

    def new_create(self, image: str, *, keyed: bool = False, ttl: str | None = None, template: str = "") -> Create:
        """A new wish, whose marker no other create has."""
        self._number += 1
        marker = self._marker()
        key = self.key("create") if keyed else None
        route = "" if template else self._routes[self._number % len(self._routes)]
        create = Create(marker=marker, image=image, key=key, ttl=ttl, template=template, route=route)
        self._world.ledger.creates.append(create)
        return create

    def _marker(self) -> str:
        """A word that belongs to the present operation only."""
        return f"{self._prefix}op{self._number}x"

    def key(self, what: str) -> str:
        """An Idempotency-Key that no other operation of any round uses."""
        return f"{what}-{self._marker()}"

    async def attempt(
        self,
        create: Create,
        patience: float | None = None,
        *,
        may_be_invalid: bool = False,
        machine: Machine | None = None,
    ) -> Outcome:
        """Send the create (again), to the owner or to ``machine``.

        ``may_be_invalid``: the cluster has been told to refuse the pod.
        """
        world = self._world
        create.attempts += 1
        create.asked_at = create.asked_at or world.skew.now()
        create.open += 1
        began = time.monotonic()
        what = {"template": create.template} if create.template else _wanted(create)
        body = what | {"labels": {"op": create.marker}} | ({"ttl": create.ttl} if create.ttl else {})
        outcome = await world.call("POST", "/stacks", body, key=create.key, patience=patience, machine=machine)
        world.note(f"create {create.marker}{' with key' if create.key else ''}: {self._short(outcome)}")
        # A Lease that ended just before the answer makes it unknown to the client what came of the create.
        unknown = NOT_OWNER in str(outcome) if outcome.status is not None else outcome.sent
        if not unknown:
            create.open -= 1
        if outcome.status is None or unknown:
            return outcome
        expected = outcome.status in ANSWERS["create"] or (may_be_invalid and outcome.status == 400)
        world.checked("only documented answers", expected, f"create: {outcome}")
        if outcome.status == 201:
            self._created(create, outcome.body, outcome.file)
        else:
            create.refused += 1
            self._refused(create, outcome.file, began)
            room = self._moved_nodes() or "no node has" not in str(outcome)
            world.checked("a reason is a true one", room, f"{create.marker}: {outcome}, and all nodes are there")
        return outcome

    def _created(self, create: Create, answer: dict[str, Any], file: StateFile) -> None:
        world, stack_id = self._world, answer["stack_id"]
        again = stack_id in create.told
        same = all(first == answer for first in create.answers[create.since :])
        world.checked("a key has one answer", same, f"{create.marker}: {create.answers[:1]} and then {answer}")
        others = [other.marker for other in world.ledger.creates if other is not create and stack_id in other.told]
        world.checked("11 given once", not others, f"{stack_id} is {create.marker}'s, and was given to {others}")
        create.answers.append(answer)
        row = file.row(stack_id)
        if not again:
            # the daemon may not have noticed a leap of the clock yet
            began = min(create.asked_at, world.skew.now())  # the clock may have been set back since
            world.ledger.accepted(stack_id, began - world.skew.leaps, TTLS[create.ttl])
        if again or world.ledger.may_be_gone(stack_id, world.skew.highest()):
            return
        good = row is not None and row.accepted and _node_ports(answer) <= row.ports
        world.checked("3 acknowledged is durable", good, f"201 for {stack_id}, and the file has {row}")
        quiet = not world.ledger.wish(stack_id).asked and stack_id not in world.ledger.touched
        if create.stays and quiet and row is not None and not row.deleting:
            pod = world.objects("pods").get(stack_id)
            world.checked("3 acknowledged is durable", pod is not None, f"201 for {stack_id}, and there is no pod")
            service = world.objects("services").get(f"svc-{stack_id}")
            ports = node_ports(service["spec"]) if service is not None else frozenset()
            told = _node_ports(answer)
            world.checked("ports are the Service's", ports == told, f"201 for {stack_id} at {told}, it has {ports}")
            names = {f"{stack_id}-{port['container_port']}" for port in answer["ports"] if "url" in port}
            lacking = names - world.objects("routes").keys()
            world.checked("3 acknowledged is durable", not lacking, f"201 for {stack_id}, and there is no {lacking}")
            marked = [obj["metadata"]["name"] for obj in (pod, service) if obj is not None and not is_ours(obj)]
            world.checked("5 only ours", not marked, f"201 for {stack_id}, and {marked} lack our labels")
            if create.template and pod is not None:
                env = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
                world.checked("11 given whole", env == answer["values"], f"{stack_id}: {answer['values']}, not {env}")
                world.checked("11 given once", not row.unassigned, f"201 for {stack_id}, and it waits in the pool")
                selector = service["spec"]["selector"] if service is not None else {"": ""}
                reachable = selector.items() <= pod["metadata"]["labels"].items()
                world.checked("11 given whole", reachable, f"201 for {stack_id}, and its port answers nobody")

    def _moved_nodes(self) -> bool:
        return any(self._world.counts[f"fault {what}"] for what in ("remove_node", "cordon"))

    def _refused(self, create: Create, file: StateFile, began: float) -> None:
        """Check that a failed create has left nothing, or a committed intent to delete what it has left."""
        world = self._world
        if create.open or create.loose or create.answers or world.disk.was_in_trouble_since(began):
            return
        rows = [row.stack_id for row in file.marked(create.marker) if not row.deleting]
        world.checked("a refused create leaves nothing", not rows, f"{create.marker} was refused, and {rows} remain")

    # ---- deletes

    async def delete(self, pick: float, patience: float | None = None) -> None:
        """Delete one of the known stacks."""
        stack_id = self._one(pick)
        if stack_id is not None:
            await self.delete_one(stack_id, patience)

    async def delete_one(self, stack_id: str, patience: float | None = None) -> Outcome:
        """Delete this stack."""
        world = self._world
        ending = world.ledger.ending(stack_id)
        alone = not world.ledger.may_be_gone(stack_id, world.skew.highest())
        ending.asked += 1
        outcome = await world.call("DELETE", f"/stacks/{stack_id}", patience=patience)
        world.note(f"delete {stack_id}: {self._short(outcome)}")
        if outcome.status is None:
            return outcome
        world.checked("only documented answers", outcome.status in ANSWERS["delete"], f"delete: {outcome}")
        if outcome.status == 404:
            lost = alone and ending.asked == 1 and not world.ledger.expired(stack_id, world.skew.highest())
            world.checked("3 acknowledged is durable", not lost, f"{stack_id} is unknown, and nobody ended it")
        elif outcome.status == 200:
            ending.gone = True
            self._is_gone(stack_id, outcome.file)
        elif "; stackd keeps trying: " in str(outcome):
            ending.promised = True
        return outcome

    def _is_gone(self, stack_id: str, file: StateFile) -> None:
        world = self._world
        left = [name for kind in ("pods", "services") for name in world.ours(kind) if stack_id in name]
        world.checked("3 acknowledged is durable", not left, f"{stack_id} is said to be deleted, and {left} remain")
        row = file.row(stack_id)
        world.checked("3 acknowledged is durable", row is None, f"{stack_id} is said to be deleted, and has a row")

    async def batch(
        self,
        picks: list[float],
        unknown: int,
        patience: float | None = None,
        *,
        keyed: bool = False,
        action: str = "delete",
    ) -> None:
        """Delete, extend or restart several of the known stacks, and some that do not exist, as one job."""
        world = self._world
        self._number += 1
        nobodys = [f"stack-{self._number:08x}{number:08x}" for number in range(unknown)]
        ids = list(dict.fromkeys([*(one for pick in picks if (one := self._one(pick))), *nobodys]))
        if not ids:
            return
        batch = Batch(ids=ids, unknown=frozenset(nobodys), key=self.key("batch") if keyed else None, action=action)
        world.ledger.batches.append(batch)
        for stack_id in ids:
            world.ledger.ending(stack_id).asked += action == "delete"
            world.ledger.wish(stack_id).asked += action == "restart"
        outcome = await self.submit(batch, patience)
        for _ in range(KEYED_TRIES if keyed else 0):
            if outcome.status == 202:
                return
            await asyncio.sleep(TRY_AGAIN_SECONDS)
            outcome = await self.submit(batch)

    async def batch_with_key(self, picks: list[float], unknown: int, patience: float | None = None) -> None:
        """The same under an Idempotency-Key, repeated until it is answered."""
        await self.batch(picks, unknown, patience, keyed=True)

    async def submit(self, batch: Batch, patience: float | None = None) -> Outcome:
        """Send the batch job (again)."""
        world = self._world
        outcome = await world.call("POST", batch.route, batch.body, key=batch.key, patience=patience)
        world.note(f"{batch.action} of {len(batch.ids)}{' with key' if batch.key else ''}: {self._short(outcome)}")
        if outcome.status is None:
            return outcome
        world.checked("only documented answers", outcome.status in ANSWERS["batch"], f"batch: {outcome}")
        if outcome.status == 202:
            job_id = outcome.body["job_id"]
            same = batch.job_id in (None, job_id) or batch.forgotten
            world.checked("a key has one answer", same, f"{batch.key}: {batch.job_id} and then {job_id}")
            batch.job_id = job_id
            for stack_id in batch.ids if batch.action == "delete" else ():
                world.ledger.ending(stack_id).promised = True
                world.ledger.ending(stack_id).asked += batch.forgotten  # an earlier job may have deleted it
            batch.forgotten = False
            job = outcome.file.job(job_id)
            whole = job is not None and set(job.items) == set(batch.ids)
            world.checked("3 acknowledged is durable", whole, f"202 for {job_id}, and the file has {job}")
        return outcome

    # ---- changes

    async def stop(self, pick: float) -> None:
        """Stop a stack: its pod is deleted, it keeps its Service and ports."""
        await self._change(pick, "stop", "stopped")

    async def start(self, pick: float) -> None:
        """Start a stack."""
        await self._change(pick, "start", "running")

    async def restart(self, pick: float) -> None:
        """Give a stack a new pod."""
        await self._change(pick, "restart", "running")

    async def _change(self, pick: float, verb: str, desired: str) -> None:
        stack_id = self._one(pick)
        if stack_id is None or (desired == "running" and stack_id in self._world.ledger.usurped):
            return
        world, wish = self._world, self._world.ledger.wish(stack_id)
        wish.under_way += 1
        wish.asked += 1
        mine = wish.asked
        wish.possible.add(desired)
        outcome = await world.call("POST", f"/stacks/{stack_id}/{verb}")
        world.note(f"{verb} {stack_id}: {self._short(outcome)}")
        if outcome.status is None:
            return  # the result stays unknown
        wish.under_way -= 1
        world.checked("only documented answers", self._expected(stack_id, outcome), f"{verb}: {outcome}")
        if outcome.status == 200 and not wish.under_way and wish.asked == mine:
            wish.possible = {desired}
            self._changed(stack_id, desired, outcome.file)

    def _changed(self, stack_id: str, desired: str, file: StateFile) -> None:
        """Check that the file has the acknowledged state, and that a stopped stack has no pod and keeps its Service."""
        world, row = self._world, file.row(stack_id)
        if row is None or world.ledger.may_be_gone(stack_id, world.skew.highest()):
            return
        world.checked("3 acknowledged is durable", row.desired == desired, f"{stack_id} is to be {desired}, not {row}")
        gone = desired == "running" or stack_id not in world.ours("pods")
        world.checked("3 acknowledged is durable", gone, f"{stack_id} is said to be stopped, and its pod remains")

    async def extend(self, pick: float, ttl: str, *, keyed: bool = False) -> None:
        """Extend a stack."""
        stack_id = self._one(pick)
        if stack_id is None:
            return
        world, before = self._world, self._world.file.row(stack_id)
        self._number += 1
        key = self.key("extend") if keyed else None
        outcome = await world.call("POST", f"/stacks/{stack_id}/extend", {"ttl": ttl}, key=key)
        world.note(f"extend {stack_id} by {ttl}: {self._short(outcome)}")
        if outcome.status is None:
            return
        world.checked("only documented answers", self._expected(stack_id, outcome), f"extend: {outcome}")
        after = outcome.file.row(stack_id)
        if outcome.status == 200 and before is not None and after is not None:
            # a stack that was created while the clock was ahead gets an earlier expiry when the clock is set back
            longer = world.skew.changes > 0 or after.ttl_expires_at > before.ttl_expires_at
            world.checked("3 acknowledged is durable", longer, f"{stack_id} was extended, and ends as before")
            world.ledger.extended(stack_id, TTLS[ttl])

    def _expected(self, stack_id: str, outcome: Outcome) -> bool:
        """Whether this response to a change of a stack is allowed."""
        gone = self._world.ledger.may_be_gone(stack_id, self._world.skew.highest())
        return outcome.status in {200, 409, 503} or (outcome.status == 404 and gone)

    # ---- reads

    async def read(self, pick: float, route: str) -> None:
        """A read has to be answered soon, whatever else happens, unless there is no daemon."""
        world = self._world
        path, may_miss = self._path(pick, route)
        process = world.process
        starved, incomplete = process.starved(), world.file.incomplete
        outcome = await world.call("GET", path)
        starved = max(0.0, process.starved() - starved)
        if outcome.status is None:
            up = process.alive and process is world.process and not world.expect_stop and outcome.sent
            await asyncio.sleep(0.05)  # a kill is noticed a moment after the connection is lost
            world.checked("6 reads are answered", not (up and process.alive), f"GET {path}: {outcome}")
            return
        away = outcome.status == 503 and (outcome.unsettled or incomplete)
        good = outcome.status == 200 or away or (outcome.status == 404 and may_miss())
        world.checked("6 reads are answered", good, f"GET {path}: {outcome}")
        slow = f"GET {path} took {outcome.seconds:.1f} s, {starved:.1f} s of it without a CPU"
        world.checked("6 reads are answered", outcome.seconds - starved < READ_SECONDS, slow)

    def _path(self, pick: float, route: str) -> tuple[str, Callable[[], bool]]:
        world = self._world
        if route == "job":
            jobs = [batch for batch in world.ledger.batches if batch.job_id]
            if jobs:
                batch = jobs[min(int(pick * len(jobs)), len(jobs) - 1)]
                return f"{batch.route}/{batch.job_id}", lambda: batch.forgotten
        stack_id = self._one(pick)
        if stack_id is None or route in ("list", "stats", "job"):
            return ("/stats" if route == "stats" else "/stacks"), lambda: False
        tail = "/status" if route == "status" else ""
        return f"/stacks/{stack_id}{tail}", lambda: world.ledger.may_be_gone(stack_id, world.skew.highest())

    # ---- others

    async def delete_pod_by_hand(self, pick: float) -> None:
        """Somebody deletes a pod of stackd."""
        stack_id = self._one(pick)
        if stack_id is None:
            return
        self._world.ledger.touched.add(stack_id)
        removed = self._remove_by_hand("pods", stack_id)
        self._world.note(f"pod of {stack_id} deleted by hand: {removed}")

    async def delete_service_by_hand(self, pick: float) -> None:
        """Somebody deletes a Service of stackd."""
        stack_id = self._one(pick)
        if stack_id is not None:
            removed = self._remove_by_hand("services", f"svc-{stack_id}")
            if self._world.unsettled:
                self._world.ledger.fleeting.add(stack_id)  # the new owner finds no record of it
            self._world.note(f"Service of {stack_id} deleted by hand: {removed}")

    async def usurp(self, pick: float) -> None:
        """Somebody replaces a pod of stackd with their own, which stackd must not touch."""
        stack_id = self._one(pick)
        if stack_id is None:
            return
        self._world.ledger.touched.add(stack_id)
        if self._remove_by_hand("pods", stack_id):
            self._world.ledger.usurped.add(stack_id)
            self._world.foreign.put_pod(stack_id)
            self._world.note(f"pod of {stack_id} replaced by somebody else's")

    async def confirm(self) -> None:
        """The operator confirms what is held, whether or not anything is."""
        outcome = await self._world.call("POST", "/reconcile/confirm")
        if outcome.status is not None:
            self._world.checked("only documented answers", outcome.status in (200, 503), f"confirm: {outcome}")

    def _remove_by_hand(self, kind: str, name: str) -> bool:
        store = self._world.cluster.store
        record = store.of(PODS if kind == "pods" else SERVICES).records.get((NAMESPACE, name))
        if record is not None and name in self._world.ours(kind):
            store.remove(record)
            return True
        return False

    def _one(self, pick: float) -> str | None:
        known = self._world.ledger.known()
        return known[min(int(pick * len(known)), len(known) - 1)] if known else None

    def _short(self, outcome: Outcome) -> str:
        if outcome.status == 201:
            return f"201 {outcome.body['stack_id']}"
        return f"202 {outcome.body['job_id']}" if outcome.status == 202 else str(outcome)


def _wanted(create: Create) -> dict[str, Any]:
    """The body of a create that names no template."""
    body = request_for(f"{create.image}:{create.marker}")
    port = {"container_port": 80, "protocol": "TCP"}
    if create.route == "only":
        body["target_port"] = [port | {"route": "https"}]
    elif create.route == "both":
        body["target_port"] = [port, port | {"container_port": 81, "route": "https"}]
        declared = "\n        - containerPort: "
        body["pod_spec"] = body["pod_spec"].replace(f"{declared}80", f"{declared}81{declared}80")
    return body


def _node_ports(answer: dict[str, Any]) -> set[int]:
    return {port["node_port"] for port in answer["ports"] if "node_port" in port}

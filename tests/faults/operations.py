"""What clients and others do, and what is checked at the moment at which the response arrives.

Owns: which responses are allowed, and what a response promises (invariant 3) at that moment.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from stackd.embedded.nodeports import node_ports
from tests.faults.ledger import RUNS_ON, Batch, Create
from tests.faults.plan import OPERATIONS
from tests.faults.world import Outcome, World, is_ours
from tests.harness import request_for

KEYED_TRIES = 6
TRY_AGAIN_SECONDS = 0.1
TTLS = {None: 7200 * 10**9, "1s": 10**9, "10m": 600 * 10**9, "3h": 10_800 * 10**9}
"""The times to live that a create or an extension may request, in nanoseconds; None is the configured default."""
ROUTES = ("both", "only", "")
"""Which ports of the creates have names, in turn: one of two, the only one, none."""

ANSWERS = {"create": {201, 409, 503}, "delete": {200, 404, 503}, "batch": {202, 503}, "confirm": {200, 503}}
DURABLE = "3 acknowledged is durable"


async def _repeated(send: Callable[..., Awaitable[Outcome]], patience: float | None, times: int) -> None:
    """Send; whatever the answer, send it again until it is a success, at most so many times."""
    await send(patience)
    for _ in range(times):
        if (await send()).status in (201, 202):
            return
        await asyncio.sleep(TRY_AGAIN_SECONDS)


class Operations:
    """The operations of one world, by their names in a plan."""

    def __init__(self, world: World, *, routes: Sequence[str] = ROUTES) -> None:
        self._world = world
        self._routes = routes
        self._number = 0

    async def do(self, what: str, how: dict[str, Any]) -> None:
        self._world.counts["operations"] += 1
        await getattr(self, OPERATIONS[what].method)(**how)

    # ---- creates

    async def create(self, image: str = RUNS_ON, patience: float | None = None, **wish: Any) -> None:
        """A client may leave after its patience; under a key, it repeats the request until it is answered."""
        create = self.new_create(image, **wish)
        await _repeated(partial(self.attempt, create), patience, KEYED_TRIES if create.key else 0)

    def new_create(
        self, image: str = RUNS_ON, *, keyed: bool = False, ttl: str | None = None, template: str = ""
    ) -> Create:
        marker = self._marker()
        key = f"create-{marker}" if keyed else None
        route = "" if template else self._routes[self._number % len(self._routes)]
        create = Create(marker=marker, image=image, key=key, ttl=ttl, template=template, route=route)
        self._world.ledger.creates.append(create)
        return create

    def _marker(self) -> str:
        self._number += 1
        return f"op{self._number}x"

    async def attempt(self, create: Create, patience: float | None = None) -> Outcome:
        world = self._world
        create.asked_at = create.asked_at or world.skew.now()
        create.open += 1
        body = _body(create) | {"labels": {"op": create.marker}} | ({"ttl": create.ttl} if create.ttl else {})
        outcome = await world.call("POST", "/stacks", body, key=create.key, patience=patience)
        world.note(f"create {create.marker}{' with key' if create.key else ''}: {outcome}")
        if outcome.status is not None or not outcome.sent:
            create.open -= 1
        if outcome.status is None or not self._documented("create", outcome):
            return outcome
        if outcome.status == 201:
            self._created(create, outcome.body)
        else:
            self._refused(create)
            moved = any(world.counts[f"fault {what}"] for what in ("remove_node", "cordon"))
            room = moved or "no node has" not in str(outcome)
            world.checked("a reason is a true one", room, f"{create.marker}: {outcome}, and all nodes are there")
        return outcome

    def _created(self, create: Create, answer: dict[str, Any]) -> None:
        world, stack_id = self._world, answer["stack_id"]
        again = stack_id in create.ids
        same = all(first["stack_id"] == stack_id for first in create.answers)
        world.checked("a key has one answer", same, f"{create.marker}: {create.answers[:1]} and then {answer}")
        others = [other.marker for other in world.ledger.creates if other is not create and stack_id in other.ids]
        world.checked("11 given once", not others, f"{stack_id} is {create.marker}'s, and was given to {others}")
        create.answers.append(answer)
        row = world.file.row(stack_id)
        if not again:
            # the daemon may not have noticed a leap of the clock yet
            world.ledger.accepted(stack_id, create.asked_at - world.skew.leaps + TTLS[create.ttl])
        if again or world.may_be_gone(stack_id):
            return
        node_ports_answered = {port["node_port"] for port in answer["ports"] if "node_port" in port}
        good = row is not None and row.accepted and node_ports_answered <= row.ports
        world.checked(DURABLE, good, f"201 for {stack_id}, and the file has {row}")
        quiet = not world.ledger.wishes[stack_id].asked and stack_id not in world.ledger.touched
        if create.image != RUNS_ON or not quiet or row is None or row.deleting:
            return
        pod, service = world.objects("pods").get(stack_id), world.objects("services").get(f"svc-{stack_id}")
        world.checked(DURABLE, pod is not None, f"201 for {stack_id}, and there is no pod")
        ports = node_ports(service["spec"]) if service is not None else frozenset()
        same = ports == node_ports_answered
        world.checked("ports are the Service's", same, f"201 for {stack_id}: {answer['ports']}, it has {ports}")
        names = {f"{stack_id}-{port['container_port']}" for port in answer["ports"] if "url" in port}
        lacking = names - world.objects("routes").keys()
        world.checked(DURABLE, not lacking, f"201 for {stack_id}, and there is no {lacking}")
        unmarked = [obj["metadata"]["name"] for obj in (pod, service) if obj is not None and not is_ours(obj)]
        world.checked("5 only ours", not unmarked, f"201 for {stack_id}, and {unmarked} lack our labels")
        if create.template and pod is not None:
            env = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
            world.checked("11 given complete", env == answer["values"], f"{stack_id}: {answer['values']}, not {env}")
            world.checked("11 given once", not row.unassigned, f"201 for {stack_id}, and it waits in the pool")
            selector = service["spec"]["selector"] if service is not None else {"": ""}
            reachable = selector.items() <= pod["metadata"]["labels"].items()
            world.checked("11 given complete", reachable, f"201 for {stack_id}, and its port answers nobody")

    def _refused(self, create: Create) -> None:
        """Check that a failed create has left nothing, or a committed intent to delete what it has left."""
        world = self._world
        if create.open or create.answers:
            return
        rows = [row.stack_id for row in world.file.marked(create.marker) if not row.deleting]
        world.checked("a refused create leaves nothing", not rows, f"{create.marker} was refused, and {rows} remain")

    # ---- deletes

    async def delete(self, pick: float, patience: float | None = None) -> None:
        if stack_id := self._one(pick):
            await self.delete_one(stack_id, patience)

    async def delete_one(self, stack_id: str, patience: float | None = None) -> None:
        world = self._world
        ending, alone = world.ledger.endings[stack_id], not world.may_be_gone(stack_id)
        ending.asked += 1
        outcome = await world.call("DELETE", f"/stacks/{stack_id}", patience=patience)
        world.note(f"delete {stack_id}: {outcome}")
        if outcome.status is None or not self._documented("delete", outcome):
            return
        if outcome.status == 404:
            lost = alone and ending.asked == 1 and not world.ledger.expired(stack_id, world.skew.now())
            world.checked(DURABLE, not lost, f"{stack_id} is unknown, and nobody ended it")
        elif outcome.status == 200:
            ending.gone = True
            ours = [obj["metadata"] for kind in ("pods", "services") for obj in world.ours(kind).values()]
            remaining = [one["name"] for one in ours if stack_id in one["name"]]
            gone = not remaining and world.file.row(stack_id) is None
            world.checked(DURABLE, gone, f"{stack_id} is said to be deleted, and has a row or {remaining}")
        elif "; stackd keeps trying: " in str(outcome):
            ending.promised = True

    async def batch(
        self,
        pick: float,
        several: int,
        unknown: int,
        patience: float | None = None,
        *,
        keyed: bool = False,
        action: str = "delete",
    ) -> None:
        """Delete, extend or restart several of the stacks, and some that do not exist, as one job."""
        picked = [self._one((pick + 0.38 * number) % 1) for number in range(several)]
        batch = self.new_batch(picked, unknown, keyed=keyed, action=action)
        if batch.ids:
            await _repeated(partial(self.submit, batch), patience, KEYED_TRIES if keyed else 0)

    async def create_many(self, several: int, patience: float | None = None, *, keyed: bool = False) -> None:
        """A job that creates so many stacks from the template."""
        marker = self._marker()
        key = f"batch-{marker}" if keyed else None
        batch = Batch(ids=[], unknown=frozenset(), creates=several, marker=marker, key=key, action="create")
        self._world.ledger.batches.append(batch)
        await _repeated(partial(self.submit, batch), patience, KEYED_TRIES if keyed else 0)

    def new_batch(self, ids: Sequence[str], unknown: int, *, keyed: bool, action: str) -> Batch:
        """A wish for a job with these stacks, and so many that do not exist."""
        world, marker = self._world, self._marker()
        nobodys = [f"stack-{self._number:08x}{number:08x}" for number in range(unknown)]
        batch = Batch(
            ids=[*dict.fromkeys(filter(None, ids)), *nobodys],
            unknown=frozenset(nobodys),
            key=f"batch-{marker}" if keyed else None,
            action=action,
        )
        if batch.ids:
            world.ledger.batches.append(batch)
        for stack_id in batch.ids:
            world.ledger.endings[stack_id].asked += action == "delete"
            if action in ("restart", "renew"):
                wish = world.ledger.wishes[stack_id]
                wish.asked += 1
                wish.under_way += 1  # nobody knows when its turn comes
                wish.possible.add("running")
        return batch

    async def submit(self, batch: Batch, patience: float | None = None) -> Outcome:
        world = self._world
        outcome = await world.call("POST", batch.route, batch.body, key=batch.key, patience=patience)
        world.note(f"{batch.action} of {batch.size}{' with key' if batch.key else ''}: {outcome}")
        if outcome.status is None or not self._documented("batch", outcome):
            return outcome
        if outcome.status == 202:
            job_id = outcome.body["job_id"]
            same = batch.job_id in (None, job_id)
            world.checked("a key has one answer", same, f"{batch.key}: {batch.job_id} and then {job_id}")
            batch.job_id = job_id
            for stack_id in batch.ids if batch.action == "delete" else ():
                world.ledger.endings[stack_id].promised = True
            job = world.file.job(job_id)
            complete = job is not None and job.total == batch.size
            complete = complete and (batch.creates > 0 or set(job.items if job else ()) <= set(batch.ids))
            world.checked(DURABLE, complete, f"202 for {job_id}, and the file has {job}")
        return outcome

    # ---- changes

    async def change(self, pick: float, verb: str) -> None:
        world, stack_id = self._world, self._one(pick)
        desired = "stopped" if verb == "stop" else "running"
        if not stack_id:
            return
        wish = world.ledger.wishes[stack_id]
        wish.under_way += 1
        wish.asked += 1
        mine = wish.asked
        wish.possible.add(desired)
        outcome = await world.call("POST", f"/stacks/{stack_id}/{verb}")
        world.note(f"{verb} {stack_id}: {outcome}")
        if outcome.status is None:
            return  # the result stays unknown
        wish.under_way -= 1
        self._documented(verb, outcome, stack_id)
        if outcome.status != 200 or wish.under_way or wish.asked != mine:
            return
        wish.possible = {desired}
        row = world.file.row(stack_id)
        if row is not None and not world.may_be_gone(stack_id):
            world.checked(DURABLE, row.desired == desired, f"{stack_id} is to be {desired}, not {row}")
            gone = desired == "running" or stack_id not in world.ours("pods")
            world.checked(DURABLE, gone, f"{stack_id} is said to be stopped, and its pod remains")

    async def extend(self, pick: float, ttl: str, *, keyed: bool = False) -> None:
        world, stack_id = self._world, self._one(pick)
        if not stack_id:
            return
        before, marker = world.file.row(stack_id), self._marker()
        key = f"extend-{marker}" if keyed else None
        outcome = await world.call("POST", f"/stacks/{stack_id}/extend", {"ttl": ttl}, key=key)
        world.note(f"extend {stack_id} by {ttl}: {outcome}")
        if outcome.status is None:
            return
        self._documented("extend", outcome, stack_id)
        after = world.file.row(stack_id)
        if outcome.status == 200 and before is not None and after is not None:
            longer = after.ttl_expires_at > before.ttl_expires_at
            world.checked(DURABLE, longer, f"{stack_id} was extended, and ends as before")
            world.ledger.extended(stack_id, TTLS[ttl])

    async def relabel(self, pick: float) -> None:
        world, stack_id, seat = self._world, self._one(pick), self._marker()
        if not stack_id:
            return
        outcome = await world.call("PATCH", f"/stacks/{stack_id}", {"labels": {"seat": seat}})
        world.note(f"relabel {stack_id}: {outcome}")
        if outcome.status is None or not self._documented("relabel", outcome, stack_id) or outcome.status != 200:
            return
        service = world.ours("services").get(f"svc-{stack_id}", {"metadata": {}})
        record = json.loads((service["metadata"].get("annotations") or {}).get("stackd.io/record", "{}"))
        kept = record.get("labels", {}).get("seat") == seat or world.file.row(stack_id) is None
        world.checked(DURABLE, kept, f"{stack_id} has a new label, which its record lacks")

    def _documented(self, what: str, outcome: Outcome, stack_id: str = "") -> bool:
        """Check that this response is allowed; that to a change of a stack depends on the stack."""
        allowed = ANSWERS.get(what, {200, 409, 503} | ({404} if self._world.may_be_gone(stack_id) else set()))
        return self._world.checked("only documented answers", outcome.status in allowed, f"{what}: {outcome}")

    # ---- others

    async def lose_pod(self, pick: float) -> None:
        if stack_id := self._one(pick):
            self._world.ledger.touched.add(stack_id)
            self._world.note(f"pod of {stack_id} deleted by hand: {self._world.remove('pods', stack_id)}")

    async def lose_service(self, pick: float) -> None:
        if stack_id := self._one(pick):
            removed = self._world.remove("services", f"svc-{stack_id}")
            self._world.note(f"Service of {stack_id} deleted by hand: {removed}")

    async def confirm(self) -> None:
        """The operator confirms what is held back, whether or not anything is."""
        outcome = await self._world.call("POST", "/reconcile/confirm")
        if outcome.status is not None:
            self._documented("confirm", outcome)

    def _one(self, pick: float) -> str:
        """The stack at this position of the list; "" if there is none."""
        ids = list(self._world.ledger.by_id())
        return ids[min(int(pick * len(ids)), len(ids) - 1)] if ids else ""


_PORTS = "      ports:\n        - containerPort: 80\n          protocol: TCP\n"


def _body(create: Create) -> dict[str, Any]:
    if create.template:
        return {"template": create.template}
    body = request_for(f"{create.image}:{create.marker}")
    port = {"container_port": 80, "protocol": "TCP"}
    if create.route == "members":
        pod = body["pod_spec"]
        body["members"] = {"db": {"pod_spec": pod}, "mail": {"pod_spec": pod.replace(_PORTS, "")}}
    if create.route == "only":
        body["target_port"] = [port | {"route": "https"}]
    elif create.route == "both":
        body["target_port"] = [port, port | {"container_port": 81, "route": "https"}]
        declared = "\n        - containerPort: "
        body["pod_spec"] = body["pod_spec"].replace(f"{declared}80", f"{declared}81{declared}80")
    return body

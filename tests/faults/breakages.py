"""The deliberate breakages: what each one breaks, and the exact text that it replaces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakage:
    """Replaces ``text``, which is in ``file`` exactly once, by ``instead``.

    ``also`` is another breakage that is applied too, where one alone would have no effect. ``first`` names the tests to
    try first.
    """

    name: str
    file: str
    text: str
    instead: str
    also: Breakage | None = None
    first: str = ""

    def check(self, root: Path) -> None:
        """Raise LookupError if ``file`` does not contain the text exactly once."""
        if self.also is not None:
            self.also.check(root)
        count = (root / self.file).read_text().count(self.text)
        if count != 1:
            raise LookupError(f"mutation {self.name!r}: its text is {count} times in {self.file}")

    def apply(self, root: Path) -> None:
        """Apply the replacement."""
        self.check(root)
        if self.also is not None:
            self.also.apply(root)
        path = root / self.file
        path.write_text(path.read_text().replace(self.text, self.instead))


_OWNERS = "test_owners.py"

OWNER_BREAKAGES = (
    Breakage(
        name="what a lost file does not know is removed",
        file="stackd/lifecycle/plan.py",
        text="    return orphan.stack_id in seen.removed and not _is_handled(seen, orphan)\n",
        instead="    return orphan.stack_id in seen.looked_up and not _is_handled(seen, orphan)\n",
        first=_OWNERS,
    ),
    Breakage(
        name="the fence never closes",
        file="stackd/kube/guards.py",
        text="        return self.now() < self.valid_until\n",
        instead="        return True\n",
        first=_OWNERS,
    ),
    Breakage(
        name="a standby takes the Lease without waiting",
        file="stackd/lifecycle/lease_rules.py",
        text="    return max(0.0, watched.since + wait - now)\n",
        instead="    return 0.0\n",
        first=_OWNERS,
    ),
    Breakage(
        name="whoever is asked for the stacks does not give the Lease back",
        file="stackd/daemon.py",
        text="        await context.ownership.release()\n",
        instead="        pass\n",
        first=_OWNERS,
    ),
    Breakage(
        name="labels are not taken over",
        file="stackd/kube/records.py",
        text='        labels={str(key): str(value) for key, value in record["labels"].items()},\n',
        instead="        labels={},\n",
        first=_OWNERS,
    ),
    Breakage(
        name="an end that was put off is not taken over",
        file="stackd/kube/records.py",
        text='metadata["annotations"].get(labels.EXPIRES) or record["ttl_expires_at"]',
        instead='record["ttl_expires_at"]',
        first=_OWNERS,
    ),
    Breakage(
        name="the records of stopped stacks are not read",
        file="stackd/lifecycle/rebuild.py",
        text='    records = {raw["metadata"]["name"]: raw for raw in await cluster.list_raw(CONFIG_MAPS)}\n',
        instead="    records: dict[str, JsonObject] = {}\n",
        first=_OWNERS,
    ),
    Breakage(
        name="a restored file is believed",
        file="stackd/lifecycle/lease_rules.py",
        text="    if last.sequence > identity.sequence:\n",
        instead="    if False:\n",
        also=Breakage(
            name="nor by the number of its starts",
            file="stackd/lifecycle/lease_rules.py",
            text="    if last.epoch > identity.epoch or (",
            instead="    if False and (",
        ),
        first=_OWNERS,
    ),
    Breakage(
        name="rows of a restored file are not brought up to date",
        file="stackd/lifecycle/rebuild.py",
        text="    for stack_id, why in await context.store.stacks.renew(records):\n",
        instead="    for stack_id, why in list[tuple[str, str]]():\n",
        first=_OWNERS,
    ),
    Breakage(
        name="what was deleted since a backup comes back",
        file="stackd/lifecycle/rebuild.py",
        text="    await context.store.stacks.remove(gone)  # first",
        instead="    # first",
        first=_OWNERS,
    ),
    Breakage(
        name="a file of other stacks is begun with",
        file="stackd/store/identity.py",
        text="        if stacks and (contradiction := self.contradiction(namespace, instance)):\n",
        instead="        if False and (contradiction := self.contradiction(namespace, instance)):\n",
        first=_OWNERS,
    ),
    Breakage(
        name="stacks are told of before they were taken over",
        file="stackd/web/app.py",
        text="            if store.incomplete and not early:\n",
        instead="            if False:\n",
        first=_OWNERS,
    ),
)

NO_PROOF = Breakage(
    name="a deletion that is told is believed",
    file="stackd/lifecycle/observe.py",
    text="        if not absent:\n            return assessed\n",
    instead="        return assessed\n",
)
NO_QUESTION = Breakage(
    name="no pod is asked for before it is said that no node has taken it",
    file="stackd/lifecycle/create.py",
    text="        return await _asked_for(context, stack, exc)\n",
    instead='        raise NoRoom("no node has taken the stack within so long") from exc\n',
)
OF_THE_WIRE = (
    NO_PROOF,
    NO_QUESTION,
    Breakage(
        name="a page with 404 counts as gone",
        file="stackd/kube/responses.py",
        text="""    if status is None:
        return f"a {answer.status} that is not from Kubernetes"
""",
        instead="""    if status is None:
        return "" if answer.status == NOT_FOUND else "not from Kubernetes"
""",
    ),
    Breakage(
        name="an older list is believed",
        file="stackd/kube/watch.py",
        text="        if is_older(version, self.newest):\n",
        instead="        if False:\n",
        also=NO_PROOF,
    ),
    Breakage(
        name="an older event is believed",
        file="stackd/kube/watch.py",
        text="            if is_older(event.resource_version, position.version):\n",
        instead="            if False:\n",
        also=NO_PROOF,
    ),
    Breakage(
        name="what lacks our labels is not ours",
        file="stackd/kube/client.py",
        text="    if labels.is_ours(found, instance):\n        return True\n",
        instead="    return labels.is_ours(found, instance)\n",
    ),
    Breakage(
        name="labels that were taken off a pod stay off",
        file="stackd/lifecycle/observe.py",
        text="            context.repairs.add(Repair(kind=RepairKind.LABELS, stack_id=stack.stack_id))\n",
        instead="            pass\n",
    ),
    Breakage(
        name="what a policy has taken the labels off is taken for made",
        file="stackd/kube/client.py",
        text="    if missing:\n        raise ClusterRefused(\n",
        instead="    if False:\n        raise ClusterRefused(\n",
    ),
    Breakage(
        name="other node ports of a Service are not noticed",
        file="stackd/lifecycle/plan.py",
        text="    if ours != theirs:\n",
        instead="    if False:\n",
    ),
    Breakage(
        name="a Service that was changed is left as it is",
        file="stackd/lifecycle/plan.py",
        text='    if service.type != "NodePort":\n',
        instead='    if service is not None:\n        return ""\n    if False:\n',
    ),
    Breakage(
        name="a Service that a policy has changed is acknowledged",
        file="stackd/lifecycle/objects.py",
        text="            await _require_as_asked(context, stack, service)\n",
        instead="",
    ),
    Breakage(
        name="any clock is believed",
        file="stackd/lifecycle/wall_clock.py",
        text="        if abs(skew) > SKEW_SECONDS:\n",
        instead="        if False:\n",
    ),
    Breakage(
        name="a stack that was made while the clock was ahead keeps its end",
        file="stackd/lifecycle/wall_clock.py",
        text="        if self._right is None or self._agrees(now):\n",
        instead="        if True:\n",
        also=Breakage(
            name="ends are not put right",
            file="stackd/store/changes.py",
            text="    return rows.save(tx, changed) if changed else []\n\n\ndef _warning",
            instead="    return []\n\n\ndef _warning",
        ),
    ),
    Breakage(
        name="times are written by a clock that is known to be wrong",
        file="stackd/lifecycle/wall_clock.py",
        text="        if self._right is None or self._agrees(now):\n",
        instead="        if True:\n",
    ),
    Breakage(
        name="a Retry-After is waited for to its end",
        file="stackd/kube/watch.py",
        text="position.backoff.pause(min(retry_after, timings.longest_pause))",
        instead="position.backoff.pause(retry_after)",
    ),
    Breakage(
        name="a silent watch is believed healthy",
        file="stackd/lifecycle/create.py",
        text="        if health.staleness() >= SUSPECT_SECONDS:\n",
        instead="        if False:\n",
        also=NO_QUESTION,
    ),
)
BREAKAGES = (
    Breakage(
        name="ports are free before the Service is gone",
        file="stackd/lifecycle/delete.py",
        text="""        await _delete_service(context, stack)
        crash_point("release.service_deleted")
        await context.store.ports.release([stack_id])
""",
        instead="""        await context.store.ports.release([stack_id])
        await _delete_service(context, stack)
""",
    ),
    Breakage(
        name="the row goes before the objects",
        file="stackd/lifecycle/delete.py",
        text="""        await _delete_or_tell(context, stack)
        await context.store.stacks.remove([stack_id])
""",
        instead="""        await context.store.stacks.remove([stack_id])
        await _delete_or_tell(context, stack)
""",
    ),
    Breakage(
        name="the row goes although the cluster has not confirmed",
        file="stackd/lifecycle/delete.py",
        text="            raise result\n",
        instead="            continue\n",
    ),
    Breakage(
        name="the row is written after the pod",
        file="stackd/lifecycle/create.py",
        text="""    stack = await context.store.stacks.reserve(
        _new_stack(context, stack_id, request),
""",
        instead="""    from stackd.store.reservations import _fresh

    await context.cluster.create_pod(pod_request(context, _fresh(_new_stack(context, stack_id, request), ()), request.spec))
    stack = await context.store.stacks.reserve(
        _new_stack(context, stack_id, request),
""",
    ),
    Breakage(
        name="a create is acknowledged before it is committed",
        file="stackd/lifecycle/create.py",
        text="""    stack = await context.store.stacks.accept(
        first_observation(context, stack, pod, service, node_exists=True),
        pod_uid=pod.uid,
        service_uid=service.uid,
        answer=request.answer,
        by=request.by,
    )
""",
        instead="""    accepting = context.store.stacks.accept(
        first_observation(context, stack, pod, service, node_exists=True),
        pod_uid=pod.uid,
        service_uid=service.uid,
        answer=request.answer,
        by=request.by,
    )
    context.tasks.spawn("accept", accepting)
""",
    ),
    Breakage(
        name="some commits are acknowledged and not made",
        file="stackd/store/writer.py",
        text="            self._finish(writes)\n        except BaseException:",
        instead="""            if writes and parts.connection.total_changes % 5 == 0:
                parts.connection.execute(transaction.ROLLBACK)
            else:
                self._finish(writes)
        except BaseException:""",
    ),
    Breakage(
        name="a failed create is not undone",
        file="stackd/lifecycle/create.py",
        text="        if await context.store.stacks.mark_deleting([stack_id], DeleteReason.UNDO):\n",
        instead="        if False:\n",
    ),
    Breakage(
        name="a failed create only loses its row",
        file="stackd/lifecycle/create.py",
        text="            await finish_delete(context, stack_id)\n    except StackdError as error:",
        instead="            await context.store.stacks.remove([stack_id])\n    except StackdError as error:",
    ),
    Breakage(
        name="a create goes on when its client has left",
        file="stackd/lifecycle/create.py",
        text="        if request.claim is None:\n            abandon.set()\n",
        instead="        if request.claim is None:\n            pass\n",
    ),
    Breakage(
        name="a job counts an id before it is deleted",
        file="stackd/jobs/batch_delete.py",
        text="                await delete_objects(context, current)\n",
        instead='                context.tasks.spawn("delete objects", delete_objects(context, current))\n',
    ),
    Breakage(
        name="a job forgets what was begun before a restart",
        file="stackd/store/jobs.py",
        text="""    " WHERE job_id = ? AND state IN ('pending', 'started') ORDER BY seq LIMIT ?"
""",
        instead="""    " WHERE job_id = ? AND state IN ('pending') ORDER BY seq LIMIT ?"
""",
    ),
    Breakage(
        name="jobs are not taken up again after a restart",
        file="stackd/jobs/batch_delete.py",
        text="            self._waiting.put_nowait(job.job_id)\n        while True:",
        instead="            pass\n        while True:",
    ),
    Breakage(
        name="the claim of an Idempotency-Key is not kept",
        file="stackd/store/reservations.py",
        text="    if claim is not None:\n        claims.insert(",
        instead="    if claim is None:\n        claims.insert(",
    ),
    Breakage(
        name="intended deletes are not taken up again",
        file="stackd/lifecycle/plan.py",
        text="""        return Action(kind=ActionKind.DELETE, name=name, why=f"its delete was requested ({stack.delete_reason})")
""",
        instead="        return None\n",
    ),
    Breakage(
        name="rows of creates that a crash cut short are kept",
        file="stackd/lifecycle/plan.py",
        text="""        return Action(kind=ActionKind.UNDO, name=name, why="its create was never completed")
""",
        instead="        return None\n",
    ),
    Breakage(
        name="whatever has the name is deleted",
        file="stackd/kube/client.py",
        text="        if found is None or not _is_ours(found, caller.instance, known):\n",
        instead="        if found is None:\n",
    ),
    Breakage(
        name="any answer is believed",
        file="stackd/kube/responses.py",
        text="    if trouble:\n        raise unexpected(call, answer, trouble)\n",
        instead="",
    ),
    Breakage(
        name="nobody's time is ever up",
        file="stackd/lifecycle/ttl.py",
        text="        return self._queue.take()\n",
        instead="        return []\n",
    ),
    Breakage(
        name="APScheduler is left alone when the clock is set",
        file="stackd/jobs/schedule.py",
        text="            if abs(self._ahead - before) >= JUMP_SECONDS:\n",
        instead="            if False:\n",
    ),
    Breakage(
        name="the brake on mass endings is off",
        file="stackd/lifecycle/brake.py",
        text="        if len(counted) <= FREE_ENDINGS or len(counted) <= max_share * len(counted | set(among)):\n",
        instead="        if True:\n",
    ),
    Breakage(
        name="another cluster is as good",
        file="stackd/lifecycle/bring_up.py",
        text="    elif known != found:\n",
        instead="    elif False:\n",
    ),
    Breakage(
        name="deletes do not wait until the cluster has said who it is",
        file="stackd/lifecycle/context.py",
        text="            await self.brake.identity_known(IDENTITY_SECONDS)\n",
        instead="            pass\n",
    ),
    Breakage(
        name="pods of removed stacks are not swept",
        file="stackd/lifecycle/plan.py",
        text="        orphan = Orphan(resource=PODS, name=name, uid=pod.uid)\n        if _was_removed(seen, orphan):\n",
        instead="        orphan = Orphan(resource=PODS, name=name, uid=pod.uid)\n        if False:\n",
    ),
    Breakage(
        name="a Service that was lost is not put back",
        file="stackd/lifecycle/repair.py",
        text='        _, service = await expose(context, stack, pod, replaced=lambda: crash_point("repair.port_replaced"))\n',
        instead="        return\n",
    ),
    Breakage(
        name="a Service of one's own is taken for somebody else's when its answer was lost",
        file="stackd/kube/client.py",
        text="        if not isinstance(error, ObjectExists | NodePortTaken):\n",
        instead="        if not isinstance(error, ObjectExists):\n",
    ),
    Breakage(
        name="a stop is acknowledged before the pod is gone",
        file="stackd/lifecycle/restart.py",
        text="""        await delete_objects(context, stack, for_good=False)
        crash_point("stop.cleared")
""",
        instead="""        context.tasks.spawn("delete objects", delete_objects(context, stack, for_good=False))
        crash_point("stop.cleared")
""",
    ),
    Breakage(
        name="a stack of a pool is given twice",
        file="stackd/store/reservations.py",
        text='    "UPDATE stacks SET unassigned = 0, labels',
        instead='    "UPDATE stacks SET unassigned = 1, labels',
    ),
    Breakage(
        name="a stack of a pool is given although its end has been decided",
        file="stackd/store/reservations.py",
        text=' AND ended = 0 AND deleting_since IS NULL"\n',
        instead=' AND ended = 0"\n',
    ),
    Breakage(
        name="a stack of a pool is given although its node does not answer",
        file="stackd/lifecycle/assign.py",
        text="        and node.ready\n",
        instead="",
    ),
    Breakage(
        name="the answer of a create from a pool is not kept",
        file="stackd/store/reservations.py",
        text="        claims.insert(tx, kept)\n",
        instead="        pass\n",
    ),
    Breakage(
        name="a create from a pool is answered before its stack is reachable",
        file="stackd/lifecycle/annotations.py",
        text="            if stack is not None and (pod is None or pod.pool):\n",
        instead="            if False:\n",
    ),
    Breakage(
        name="what has failed in a pool is kept",
        file="stackd/lifecycle/refill.py",
        text="        chosen = [*work.failing, ",
        instead="        chosen = [",
    ),
    *OWNER_BREAKAGES,
    Breakage(
        name="a read asks Kubernetes",
        file="stackd/web/stacks.py",
        text="""    return ReadyAnswer(await call.api.bodies.detail(stack_of(call)))
""",
        instead="""    await call.api.context.cluster.get_pod(stack_of(call).pod_name)
    return ReadyAnswer(await call.api.bodies.detail(stack_of(call)))
""",
    ),
    *OF_THE_WIRE,
)

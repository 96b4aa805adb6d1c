"""The deliberate breakages: what each one breaks, and the exact text that it replaces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakage:
    """In ``file``, ``text`` (which is there exactly once) becomes ``instead``."""

    name: str
    file: str
    text: str
    instead: str

    def check(self, root: Path) -> None:
        """Raise if the text is not there any more, or more than once."""
        count = (root / self.file).read_text().count(self.text)
        if count != 1:
            raise LookupError(f"mutation {self.name!r}: its text is {count} times in {self.file}")

    def apply(self, root: Path) -> None:
        """Break it."""
        self.check(root)
        path = root / self.file
        path.write_text(path.read_text().replace(self.text, self.instead))


BREAKAGES = (
    Breakage(
        name="ports are free before the Service is gone",
        file="stackd/lifecycle/retire.py",
        text="""        await room.cluster.delete_service(stack.service_name, _uid(stack.service_uid, service))
        reached("release.service_deleted")
        await room.store.release_ports([stack_id])
""",
        instead="""        await room.store.release_ports([stack_id])
        await room.cluster.delete_service(stack.service_name, _uid(stack.service_uid, service))
""",
    ),
    Breakage(
        name="the row goes before the objects",
        file="stackd/lifecycle/retire.py",
        text="""        await clear(room, stack)
        await room.store.remove([stack_id])
""",
        instead="""        await room.store.remove([stack_id])
        await clear(room, stack)
""",
    ),
    Breakage(
        name="the row goes although the cluster has not confirmed",
        file="stackd/lifecycle/retire.py",
        text="            raise result\n",
        instead="            continue\n",
    ),
    Breakage(
        name="the row is written after the pod",
        file="stackd/lifecycle/create.py",
        text="""    stack = await room.store.reserve(
        _new_stack(room, stack_id, order),
""",
        instead="""    from stackd.store.reservations import _fresh

    await room.cluster.create_pod(pod_request(room, _fresh(_new_stack(room, stack_id, order), ()), order.spec))
    stack = await room.store.reserve(
        _new_stack(room, stack_id, order),
""",
    ),
    Breakage(
        name="a create is acknowledged before it is committed",
        file="stackd/lifecycle/create.py",
        text="""        stack = await room.store.accept(
            stack_id,
            first_sight(room, stack, pod, node_exists=True),
            pod_uid=pod.uid,
            service_uid=service.uid,
            answer=order.answer,
            by=order.by,
        )
""",
        instead="""        accepting = room.store.accept(
            stack_id,
            first_sight(room, stack, pod, node_exists=True),
            pod_uid=pod.uid,
            service_uid=service.uid,
            answer=order.answer,
            by=order.by,
        )
        room.tasks.errand("accept", accepting)
""",
    ),
    Breakage(
        name="some commits are acknowledged and not made",
        file="stackd/store/writer.py",
        text="            self._finish(writes)\n        except BaseException:",
        instead="""            if writes and parts.connection.total_changes % 5 == 0:
                parts.connection.execute(queries.ROLLBACK)
            else:
                self._finish(writes)
        except BaseException:""",
    ),
    Breakage(
        name="a failed create is not undone",
        file="stackd/lifecycle/create.py",
        text="        if await room.store.mark_deleting([stack_id], DeleteReason.UNDO):\n",
        instead="        if False:\n",
    ),
    Breakage(
        name="a failed create only loses its row",
        file="stackd/lifecycle/create.py",
        text="            await retire(room, stack_id)\n    except StackdError as error:",
        instead="            await room.store.remove([stack_id])\n    except StackdError as error:",
    ),
    Breakage(
        name="a create goes on when its client has left",
        file="stackd/lifecycle/create.py",
        text="        if order.claim is None:\n            abandon.set()\n",
        instead="        if order.claim is None:\n            pass\n",
    ),
    Breakage(
        name="a job counts an id before it is deleted",
        file="stackd/lifecycle/batch.py",
        text="                await clear(room, current)\n",
        instead='                room.tasks.errand("clear", clear(room, current))\n',
    ),
    Breakage(
        name="a job forgets what was begun before a restart",
        file="stackd/store/queries.py",
        text="""    " WHERE job_id = ? AND state IN ('pending', 'started') ORDER BY seq LIMIT ?"
""",
        instead="""    " WHERE job_id = ? AND state IN ('pending') ORDER BY seq LIMIT ?"
""",
    ),
    Breakage(
        name="jobs are not taken up again after a restart",
        file="stackd/jobs/queue.py",
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
        file="stackd/lifecycle/reconcile.py",
        text="""        return Action(kind=Kind.RETIRE, name=name, why=f"a delete is intended ({stack.delete_reason})")
""",
        instead="        return None\n",
    ),
    Breakage(
        name="rows of creates that a crash cut short are kept",
        file="stackd/lifecycle/reconcile.py",
        text="""            return Action(kind=Kind.UNDO, name=name, why="its create was never completed")
""",
        instead="            return None\n",
    ),
    Breakage(
        name="whatever has the name is deleted",
        file="stackd/kube/removal.py",
        text="        if found is None or not labels.is_ours(found, caller.instance):\n",
        instead="        if found is None:\n",
    ),
    Breakage(
        name="after a gap in a watch everything counts as gone",
        file="stackd/kube/watch.py",
        text="""            version = ""
            pulse.relists += 1
""",
        instead="""            version = ""
            pulse.relists += 1
            yield Listed(items=())
""",
    ),
    Breakage(
        name="nobody's time is ever up",
        file="stackd/lifecycle/expire.py",
        text="        while self._heap and self._heap[0][0] <= now:\n",
        instead="        while False:\n",
    ),
    Breakage(
        name="APScheduler is left alone when the clock is set",
        file="stackd/jobs/schedule.py",
        text="            if abs(ahead - before) >= JUMP_SECONDS:\n",
        instead="            if False:\n",
    ),
    Breakage(
        name="the brake on mass endings is off",
        file="stackd/lifecycle/brake.py",
        text="        if self._released or count <= FREE_ENDINGS or count <= max_share * of:\n",
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
        file="stackd/lifecycle/room.py",
        text="            await self.brake.identity_known(IDENTITY_SECONDS)\n",
        instead="            pass\n",
    ),
    Breakage(
        name="pods without a row are not swept",
        file="stackd/lifecycle/reconcile.py",
        text="        if _is_orphan(room, name, pods[name]):\n",
        instead="        if False:\n",
    ),
    Breakage(
        name="a Service that was lost is not put back",
        file="stackd/lifecycle/reconcile.py",
        text="            if name in self._without_service:\n",
        instead="            if False:\n",
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
        text="""        await take_down(room, stack)
        reached("stop.cleared")
""",
        instead="""        room.tasks.errand("take down", take_down(room, stack))
        reached("stop.cleared")
""",
    ),
    Breakage(
        name="a read asks Kubernetes",
        file="stackd/web/stacks.py",
        text="""    return ReadyAnswer(call.api.answers.detail(stack_of(call)))
""",
        instead="""    await call.api.room.cluster.get_pod(stack_of(call).pod_name)
    return ReadyAnswer(call.api.answers.detail(stack_of(call)))
""",
    ),
)

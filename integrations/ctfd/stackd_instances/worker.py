"""Does what the rows of instances ask for: creates, extends, restarts and stops stacks, and reads their status.

One thread in each process of CTFd finds the work, a few others ask stackd. They hold no database session meanwhile. A
claim in the row keeps two processes apart; each request may be repeated, so a process may die at any time.
"""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from CTFd.cache import cache
from CTFd.models import db

from . import access, answers, batches, recipe, settings
from .client import Stackd
from .instances import ERROR_KEPT, MESSAGES, SHARED, ended, now, stop
from .models import StackdChallenge, StackdInstance
from .steps import carry_out, claim, note_problem, note_silence, settle, write_stack

log = logging.getLogger("stackd_instances")

AT_ONCE = 8
"""Requests to stackd of one process at a time."""
BUSY_PAUSE, IDLE_PAUSE = 0.5, 1.0
ACCOUNTS = 5  # seconds between two looks for accounts that are gone
REFRESH = 15
"""Seconds after which a stack is looked at that has not changed."""
LOOKED = "stackd_look_at_shared"
FIELDS = "stack_id,status,status_reason,status_message,node_id,ports,ttl_expires_at,updated_at,addresses,problem"
ACTS = {"extended": "extend", "restart_requested": "restart"}
LINES = 20
"""Of the log of a stack that has failed: for organisers."""


class Worker:
    def __init__(self, app) -> None:
        self._app = app
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._process = 0
        self._busy: set[int] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._seen: dict[str, dict] = {}  # the stacks as they were when this process looked at them last
        self._reads = {
            "stackd_refresh": (1, self._refresh),
            LOOKED: (REFRESH, self._look_at_shared),
            "stackd_listen": (1, self._listen),
            "stackd_batches": (1, self._follow_batches),
        }

    def ensure_running(self) -> None:
        """Start the thread once in each process: not while CTFd is loaded, since gunicorn may fork after that."""
        if self._process == os.getpid():
            return
        with self._lock:
            if self._process != os.getpid():
                self._process = os.getpid()
                self._busy = set()
                self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="stackd")
                threading.Thread(target=self._run, name="stackd-instances", daemon=True).start()

    def wake(self) -> None:
        """There is work."""
        self._wake.set()

    def _run(self) -> None:
        while True:
            pause = IDLE_PAUSE
            try:
                pause = self._round()
            except Exception:  # the thread must outlive an outage of the database
                log.exception("the instances were not looked after; the next attempt follows")
            self._wake.wait(pause)
            self._wake.clear()

    def _round(self) -> float:
        with self._app.app_context():
            due = self._due()
            waiting = db.session.query(StackdInstance.id).filter(StackdInstance.todo.isnot(None)).first()
        for task_id in due:
            self._busy.add(task_id)
            self._pool.submit(self._carry_out, task_id)
        with self._app.app_context():
            if is_time("stackd_accounts", ACCOUNTS):
                stop_of_what_is_gone()
            is_used = waiting is not None or StackdChallenge.query.first() is not None
            # One process reads for all; if two do, nothing is harmed.
            reads = [read for name, (seconds, read) in self._reads.items() if is_used and is_time(name, seconds)]
        for read in reads:
            read()
        return IDLE_PAUSE if waiting is None else BUSY_PAUSE

    def _due(self) -> list[int]:
        """The rows with work that nobody has claimed."""
        is_over = (
            StackdInstance.todo.is_(None),
            StackdInstance.slot.is_(None),
            (StackdInstance.challenge_key.is_(None)) | (StackdInstance.since < now() - ERROR_KEPT),
        )
        # By the id: MariaDB locks each row that a delete looks at, and a press would end in a deadlock.
        for (row_id,) in db.session.query(StackdInstance.id).filter(*is_over).all():
            StackdInstance.query.filter(StackdInstance.id == row_id, *is_over).delete(synchronize_session=False)
            db.session.commit()
        rows = db.session.query(StackdInstance.id).filter(
            StackdInstance.todo.isnot(None),
            StackdInstance.not_before <= now(),
            StackdInstance.claimed_until < now(),
            StackdInstance.batch.is_(None),
        )
        return [row.id for row in rows.order_by(StackdInstance.id) if row.id not in self._busy]

    def _carry_out(self, row_id: int) -> None:
        """Do one step of a row's work."""
        try:
            with self._app.app_context():
                task, stackd, site = claim(row_id), settings.stackd(), settings.site()
            if task is None:
                return
            reply = carry_out(stackd, task, site)
            with self._app.app_context():
                settle(task, reply)
        except Exception:  # the claim lapses, and the work is repeated
            log.exception("instance %s: the work was not finished; it is repeated", row_id)
        finally:
            self._busy.discard(row_id)
            self.wake()

    def _refresh(self) -> None:
        """Read the status of all stacks, and note what has changed."""
        with self._app.app_context():
            settled = (
                StackdInstance.stack_id.isnot(None), StackdInstance.todo.is_(None), StackdInstance.slot.isnot(None),
            )  # fmt: skip
            before = dict(db.session.query(StackdInstance.id, StackdInstance.stack_id).filter(*settled).all())
            stackd, site, all_of_them = settings.stackd(), settings.site(), is_time("stackd_look_at_all", REFRESH)
        if not before:
            return
        reply = stackd.call("GET", "/stacks", query=[("label", f"ctfd={site}"), ("fields", FIELDS)])
        stacks = reply.data.get("stacks")
        broken, changed = [], []
        with self._app.app_context():
            note_silence(reply)
            if not reply.ok or not isinstance(stacks, list):
                note_problem("read the stacks", reply)
                return
            by_id = {stack["stack_id"]: stack for stack in stacks if isinstance(stack, dict) and "stack_id" in stack}
            look_at = {
                row_id
                for row_id, stack_id in before.items()
                if all_of_them or self._seen.get(stack_id) != by_id.get(stack_id)
            }
            self._seen = {stack_id: by_id.get(stack_id) for row_id, stack_id in before.items() if row_id not in look_at}
            for row in StackdInstance.query.filter(StackdInstance.id.in_(look_at), StackdInstance.todo.is_(None)):
                if row.slot is None:
                    continue
                if row.stack_id in by_id:
                    was, updated, ran = row.problem, row.updated, row.status == "running"
                    self._seen[row.stack_id] = by_id[row.stack_id]
                    write_stack(row, by_id[row.stack_id])
                    if ran and updated not in (None, row.updated) and not row.problem:
                        changed.append((row.id, row.stack_id, updated))
                    broken += [(row.id, by_id[row.stack_id])] if row.problem and row.problem != was else []
                else:
                    ended(row, "expired" if row.expires is not None and row.expires <= now() + REFRESH else "lost")
            db.session.commit()
        for row_id, stack in broken[:AT_ONCE]:
            self._keep_log(stackd, row_id, stack)
        for each in changed:
            self._pool.submit(self._note_act, stackd, *each)

    def _look_at_shared(self) -> None:
        """Read the stacks that all players have together."""
        with self._app.app_context():
            stackd = settings.stackd()
        reply = stackd.call("GET", "/stacks", query=[("label", "shared"), ("fields", f"{FIELDS},template,shared")])
        shared = {one["template"]: one for one in reply.data.get("stacks") or [] if one.get("shared")}
        with self._app.app_context():
            if reply.ok:
                cache.set(SHARED, shared, timeout=20 * REFRESH)
            else:
                cache.delete(LOOKED)  # the next round looks again

    def _listen(self) -> None:
        """Read what organisers say to players."""
        with self._app.app_context():
            stackd = settings.stackd()
        reply = stackd.call("GET", "/messages")
        if reply.ok:
            with self._app.app_context():
                cache.set(MESSAGES, reply.data.get("messages") or [], timeout=60)

    def _follow_batches(self) -> None:
        """Begin the jobs of instances that are made beforehand, and read what has become of them."""
        with self._app.app_context():
            work = [(batch_id, *batches.read(batch_id)) for batch_id in batches.unfinished()]
            stackd = settings.stackd()
        for batch_id, job, once, wanted in work:
            reply = batches.ask(stackd, job, once, wanted)
            with self._app.app_context():
                batches.note(batch_id, job, once, reply)

    def _note_act(self, stackd: Stackd, row_id: int, stack_id: str, since: str) -> None:
        """Note what somebody else than this CTFd has done with a running stack since then."""
        events = stackd.call("GET", f"/stacks/{stack_id}/timeline").data.get("events") or []
        acts = [
            one for one in events if one["kind"] in ACTS and recipe.moment(one["at"]) > recipe.moment(since)
        ]  # fmt: skip
        if acts and acts[-1]["by"] != stackd.call("GET", "/key").data.get("name"):
            act = "renew" if acts[-1]["message"] and acts[-1]["kind"] == "restart_requested" else ACTS[acts[-1]["kind"]]
            with self._app.app_context():
                values = {"organiser": act, "organiser_at": now()}
                StackdInstance.query.filter_by(id=row_id, todo=None).update(values, synchronize_session=False)
                db.session.commit()

    def _keep_log(self, stackd: Stackd, row_id: int, stack: dict[str, Any]) -> None:
        """Note the last lines of the pod of a stack that has failed, for organisers."""
        stack_id, member = stack["stack_id"], answers.member(stack.get("status_message") or "")
        query = [("tail", LINES), *([("member", member)] if member else [])]
        lines = stackd.call("GET", f"/stacks/{stack_id}/logs", query=query).data.get("text")
        if lines:
            with self._app.app_context():
                row = StackdInstance.query.filter_by(id=row_id, stack_id=stack_id).first()
                if row is not None and row.problem:
                    row.detail = f"{row.detail or ''}\n{lines}"[-4000:]
                    db.session.commit()


def is_time(name: str, seconds: int) -> bool:
    """Whether no process has done this for so long. Cache.add() would never see that a file of the cache has expired."""
    if cache.get(name) is not None:
        return False
    cache.set(name, 1, timeout=seconds)
    return True


def stop_of_what_is_gone() -> None:
    """Stop the instances of accounts that are deleted or banned, or whose event is over, and those of deleted challenges."""
    access.note_end_of_event()
    accounts = [row.account for row in db.session.query(StackdInstance.account).distinct()]
    for account, why in access.stopped_for(accounts):
        if stop(StackdInstance.account == account, why=why):
            log.warning("the instances of %s are stopped: it is deleted or banned, or the event is over", account)
    gone = db.session.query(StackdInstance.challenge_key).filter(
        StackdInstance.slot.isnot(None),
        StackdInstance.challenge_key.notin_(db.session.query(StackdChallenge.stackd_key)),
    )
    for (key,) in gone.distinct().all():
        count = stop(StackdInstance.challenge_key == key, why="organiser")
        log.warning("%d instances are stopped: their challenge is deleted", count)
    for challenge in StackdChallenge.query.filter(StackdChallenge.stackd_closes != ""):
        if recipe.over(challenge.stackd_closes, now()) and stop(
            StackdInstance.challenge_key == challenge.stackd_key, why="over"
        ):
            log.warning("the instances of %s are stopped: it is closed", challenge.name)

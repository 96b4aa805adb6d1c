"""Does what the rows of instances ask for: creates, extends, restarts and stops stacks, and reads their status.

One thread in each process of CTFd finds the work, a few others ask stackd. They hold no database session meanwhile. A
claim in the row keeps two processes apart; each request may be repeated, so a process may die at any time.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from CTFd.cache import cache
from CTFd.models import db

from . import access, answers, flags, recipe, settings
from .client import Reply, Stackd
from .instances import CLAIM, ERROR_KEPT, NO_PROBLEM, SHARED, SILENT, ended, now, stop
from .models import StackdChallenge, StackdFlag, StackdInstance, random_name

log = logging.getLogger("stackd_instances")

AT_ONCE = 8
"""Requests to stackd of one process at a time."""
PATIENCE = {"create": 60, "extend": 30, "grant": 30, "restart": 10}
"""Seconds that an attempt may be repeated before the player reads why it failed. A stop is repeated until it is done."""
SETTLED = 30
"""Seconds after a stop until no create of ours can still be on its way in stackd."""
BUSY_PAUSE, STARTING_PAUSE, IDLE_PAUSE = 0.5, 1.5, 5.0
REFRESH = 15
"""Seconds between two looks at stacks of which none starts."""
PROBLEM = "stackd_problem"
FIELDS = "stack_id,status,status_reason,status_message,node_id,ports,node_public_ip,ttl_expires_at,labels"
NO_NEWER = ("no_template", "template_gone")
"""Codes of a restart that asks for the newest version of a template where there is none."""
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
            pause = self._pause()
        for task_id in due:
            self._busy.add(task_id)
            self._pool.submit(self._carry_out, task_id)
        with self._app.app_context():
            # One process reads for all; if two do, nothing is harmed.
            mine = is_time(f"stackd_refresh_{pause}", max(1, int(pause) if pause < IDLE_PAUSE else REFRESH))
            if is_time("stackd_accounts", int(IDLE_PAUSE)):
                stop_of_what_is_gone()
            shares = is_time("stackd_look_at_shared", REFRESH)
        if mine:
            self._refresh()
        if shares:
            self._look_at_shared()
        return pause

    def _due(self) -> list[int]:
        """The rows with work that nobody has claimed."""
        StackdInstance.query.filter(
            StackdInstance.todo.is_(None),
            StackdInstance.slot.is_(None),
            (StackdInstance.challenge_key.is_(None)) | (StackdInstance.since < now() - ERROR_KEPT),
        ).delete(synchronize_session=False)
        db.session.commit()
        rows = db.session.query(StackdInstance.id).filter(
            StackdInstance.todo.isnot(None),
            StackdInstance.not_before <= now(),
            StackdInstance.claimed_until < now(),
        )
        return [row.id for row in rows.order_by(StackdInstance.id) if row.id not in self._busy]

    def _pause(self) -> float:
        waiting = db.session.query(StackdInstance.id).filter(StackdInstance.todo.isnot(None)).first()
        if waiting is not None:
            return BUSY_PAUSE
        creating = db.session.query(StackdInstance.id).filter(StackdInstance.status == "creating").first()
        return STARTING_PAUSE if creating is not None else IDLE_PAUSE

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
        """Read the status of all stacks."""
        with self._app.app_context():
            settled = (
                StackdInstance.stack_id.isnot(None), StackdInstance.todo.is_(None), StackdInstance.slot.isnot(None),
            )  # fmt: skip
            before = [row.id for row in db.session.query(StackdInstance.id).filter(*settled)]
            stackd, site = settings.stackd(), settings.site()
        if not before:
            return
        reply = stackd.call("GET", "/stacks", query=[("label", f"ctfd={site}"), ("fields", FIELDS)])
        stacks = reply.data.get("stacks")
        broken = []
        with self._app.app_context():
            note_silence(reply)
            if not reply.ok or not isinstance(stacks, list):
                note_problem("read the stacks", reply)
                return
            by_id = {stack["stack_id"]: stack for stack in stacks if isinstance(stack, dict) and "stack_id" in stack}
            for row in StackdInstance.query.filter(StackdInstance.id.in_(before), StackdInstance.todo.is_(None)):
                if row.slot is None:
                    continue
                if row.stack_id in by_id:
                    was = row.problem
                    write_stack(row, by_id[row.stack_id])
                    broken += [(row.id, row.stack_id)] if row.problem and row.problem != was else []
                else:
                    ended(row, "expired" if row.expires is not None and row.expires <= now() + REFRESH else "lost")
            db.session.commit()
        for row_id, stack_id in broken[:AT_ONCE]:
            self._keep_log(stackd, row_id, stack_id)

    def _look_at_shared(self) -> None:
        """Read the stacks that all players have together."""
        with self._app.app_context():
            if StackdChallenge.query.first() is None:
                return
            stackd = settings.stackd()
        query = [("label", "shared"), ("fields", f"{FIELDS},updated_at,template")]
        reply = stackd.call("GET", "/stacks", query=query)
        if reply.ok:
            shared = {one["labels"]["shared"]: one for one in reply.data.get("stacks") or []}
            with self._app.app_context():
                cache.set(SHARED, shared, timeout=20 * REFRESH)

    def _keep_log(self, stackd: Stackd, row_id: int, stack_id: str) -> None:
        """Note the last lines of a stack that has failed, for organisers."""
        lines = stackd.call("GET", f"/stacks/{stack_id}/logs", query=[("tail", LINES)]).data.get("text")
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


def claim(row_id: int) -> StackdInstance | None:
    """Take the row for this process, and return it as it is now; None if another was faster."""
    query = StackdInstance.query.filter(
        StackdInstance.id == row_id, StackdInstance.todo.isnot(None), StackdInstance.claimed_until < now()
    )
    taken = query.update({"claimed_until": now() + CLAIM}, synchronize_session=False)
    db.session.commit()
    row = StackdInstance.query.filter_by(id=row_id).first() if taken else None
    if row is None or row.todo is None:
        return None
    db.session.expunge(row)
    return row


def carry_out(stackd: Stackd, task: StackdInstance, site: str) -> Reply:
    """Ask stackd for what the row wants. The same request again creates and extends nothing twice."""
    if task.todo == "create":
        key = task.fields["stackd_key"]
        labels = {
            "ctfd": site, "player": task.account, "challenge": key, "instance": task.name,
            "player_challenge": f"{task.account}-{key[:12]}",
        }  # fmt: skip
        return stackd.call("POST", "/stacks", recipe.body(task.fields, labels), once=task.once)
    if task.todo in ("extend", "grant"):
        more = {"ttl": (task.todo == "grant" and task.amount) or task.fields["stackd_extension"] or "30m"}
        return stackd.call("POST", f"/stacks/{task.stack_id}/extend", more, once=task.once)
    if task.todo == "restart":
        reply = stackd.call("POST", f"/stacks/{task.stack_id}/restart", {"template": "latest"})
        return stackd.call("POST", f"/stacks/{task.stack_id}/restart") if reply.code in NO_NEWER else reply
    # A stop deletes whatever the id: a create without an answer may have made the stack. Then it sees it gone.
    mine = ("label", f"instance={task.name}")
    if task.attempts % 8 == 0:
        reply = stackd.call("DELETE", "/stacks", query=[mine, ("label", f"ctfd={site}")])
        if not reply.ok:
            return reply
    return stackd.call("GET", "/stacks", query=[mine, ("fields", "stack_id")])


def settle(task: StackdInstance, reply: Reply) -> None:
    """Write down what stackd has answered."""
    # Written before it is read: on every database nobody can press Stop between this and the commit.
    query = StackdInstance.query.filter_by(id=task.id)
    query.update({"claimed_until": 0}, synchronize_session=False)
    note_silence(reply)
    row = query.first()
    if row is None:
        return
    same = row.todo == task.todo and row.once == task.once  # otherwise somebody has pressed Stop meanwhile
    if task.todo == "stop":
        settle_stop(row, task, reply)
    elif not reply.ok:
        note_problem(f"{task.todo} an instance of {task.account} ({task.fields['name']})", reply)
        if same:
            refuse(row, task, reply)
    else:
        if task.todo == "create":
            row.stack_id = reply.data.get("stack_id")
            keep_flag(row, task, reply)
        if task.todo == "extend":
            row.extensions += 1
        if same and row.todo == task.todo:  # keep_flag may have refused it
            row.todo, row.message, row.problem, row.attempts = None, "", None, 0
            write_stack(row, reply.data | ({"status": "creating"} if task.todo == "restart" else {}))
    db.session.commit()


def keep_flag(row: StackdInstance, task: StackdInstance, reply: Reply) -> None:
    """Keep the hash of the flag that stackd generated. Without one the challenge cannot be solved, so it ends."""
    fields = task.fields
    if fields["stackd_flag_source"] != recipe.FROM_STACK:
        return
    values = reply.data.get("values") or {}
    value = values.get(fields["stackd_value"] or "FLAG")
    if not isinstance(value, str) or not value.strip():
        log.error(
            "%s: template %s generates no value %s", fields["name"], fields["stackd_template"], fields["stackd_value"]
        )
        if row.todo == "create":
            give_up(row, answers.Verdict("broken"), f"the template generates no value {fields['stackd_value']}")
        return
    hashed = flags.hashed(fields["stackd_key"], value)
    if StackdFlag.query.filter_by(stack_id=row.stack_id, hash=hashed).first() is not None:
        return  # a repeated create
    flag = StackdFlag(
        account=row.account, account_name=row.account_name, challenge_key=fields["stackd_key"],
        challenge_name=fields["name"][:80], stack_id=row.stack_id, created=now(), hash=hashed,
    )  # fmt: skip
    db.session.add(flag)


def refuse(row: StackdInstance, task: StackdInstance, reply: Reply) -> None:
    """Try again later, or tell the player why not."""
    found = answers.verdict(task.todo, reply.status, reply.code, reply.player_message)
    # A restart is not repeated after a lost answer: it may have happened.
    retry = found.retry and now() - task.since < PATIENCE[task.todo] and (task.todo != "restart" or reply.status > 0)
    row.detail = f"{reply.status} {reply.detail}"[:2000]
    row.attempts = task.attempts + 1
    row.problem, row.message = found.key[:64], found.sentence[:255]
    if retry:
        row.not_before = now() + answers.pause(task.attempts, reply.retry_after)
    elif task.todo == "create":
        give_up(row, found, row.detail)
    else:
        row.todo = None


def give_up(row: StackdInstance, why: answers.Verdict, detail: str) -> None:
    """End a start: the player keeps the reason, and whatever stackd may have made is deleted."""
    row.todo, row.slot, row.once = "stop", None, random_name()
    row.problem, row.message, row.detail, row.attempts, row.not_before = why.key, why.sentence, detail, 0, 0


def settle_stop(row: StackdInstance, task: StackdInstance, reply: Reply) -> None:
    """Remove the row once nothing of the instance is left."""
    gone = reply.ok and reply.data.get("stacks") == []
    # A create without an answer may still arrive in stackd.
    settled = task.stack_id is not None or now() - task.since > SETTLED
    if not reply.ok:  # the same step again: a delete that was refused must not count as sent
        note_problem(f"stop an instance of {task.account} ({task.fields['name']})", reply)
        row.detail = f"{reply.status} {reply.detail}"[:2000]
        row.not_before = now() + answers.pause(3, reply.retry_after)
    elif not (gone and settled):
        row.attempts = task.attempts + 1
        row.not_before = now() + answers.pause(task.attempts)
    elif row.challenge_key is not None and row.problem:  # the player has not read yet why it ended
        row.todo, row.since = None, now()
    else:
        db.session.delete(row)


def write_stack(row: StackdInstance, stack: dict[str, Any]) -> None:
    """Note in the row what stackd says about the stack. Only changes are written."""
    shown = recipe.texts(row.fields["stackd_connection"] or "")
    opened = [port for port in stack.get("ports") or [] if isinstance(port, dict) and "container_port" in port]
    phase = answers.phase(stack)
    new = {
        "status": str(stack.get("status") or row.status)[:16],
        "addresses": json.dumps(recipe.addresses(shown, stack.get("node_public_ip") or "", opened)),
        "expires": recipe.seconds_since_1970(stack.get("ttl_expires_at")) or row.expires,
        "phase": phase,
        "phase_since": row.phase_since if phase == row.phase else now(),
        "running_since": row.running_since or (now() if stack.get("status") == "running" else None),
    }
    if "status_reason" in stack:
        problem = answers.failure(stack)
        why = ": ".join(filter(None, (stack.get("status_reason"), stack.get("status_message"))))
        if problem and problem != row.problem:
            new |= {"problem": problem, "message": answers.TEXTS[problem]}
        elif not problem and row.problem in answers.REASONS.values():
            new |= NO_PROBLEM
        if why and not (row.detail or "").startswith(why):  # with the lines of its log behind it
            new["detail"] = why[:2000]
        elif not why:
            new["detail"] = None
    for name, value in new.items():
        if getattr(row, name) != value:
            setattr(row, name, value)


def note_silence(reply: Reply) -> None:
    """Remember for a while that stackd does not answer: it keeps those waiting, too, that it has not been asked for yet."""
    if reply.status == 0:
        cache.set(SILENT, 1, timeout=20)
    elif cache.get(SILENT):
        cache.delete(SILENT)


def note_problem(what: str, reply: Reply) -> None:
    """Log a refusal with its detail, and show it on the admin page."""
    text = f"{what}: {answers.diagnosis(reply.status, reply.detail, reply.code)}"
    log.warning("stackd did not %s", text)
    at = datetime.now(UTC).strftime("%H:%M:%S UTC")
    cache.set(PROBLEM, f"{at}: stackd did not {text}"[:1000], timeout=300)

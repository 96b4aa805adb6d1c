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
from .client import SECONDS, Reply, Stackd
from .instances import ERROR_KEPT, now, stop
from .models import StackdFlag, StackdInstance, random_name

log = logging.getLogger("stackd_instances")

AT_ONCE = 8
"""Requests to stackd of one process at a time."""
CLAIM = 3 * int(SECONDS)
PATIENCE = {"create": 60, "extend": 30, "grant": 30, "restart": 10}
"""Seconds that an attempt may be repeated before the player reads why it failed. A stop is repeated until it is done."""
SETTLED = 30
"""Seconds after a stop until no create of ours can still be on its way in stackd."""
BUSY_PAUSE, STARTING_PAUSE, IDLE_PAUSE = 0.5, 1.5, 15.0
PROBLEM = "stackd_problem"
FIELDS = "stack_id,status,ports,node_public_ip,ttl_expires_at,labels"


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
            mine = is_time(f"stackd_refresh_{pause}", max(1, int(pause)))
            if is_time("stackd_accounts", int(IDLE_PAUSE)):
                stop_of_lost_accounts()
        if mine:
            self._refresh()
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
        with self._app.app_context():
            if not reply.ok or not isinstance(stacks, list):
                note_problem("read the stacks", reply)
                return
            by_id = {stack["stack_id"]: stack for stack in stacks if isinstance(stack, dict) and "stack_id" in stack}
            for row in StackdInstance.query.filter(StackdInstance.id.in_(before), StackdInstance.todo.is_(None)):
                if row.stack_id in by_id:
                    write_stack(row, by_id[row.stack_id])
                else:  # it has expired, or somebody has deleted it
                    db.session.delete(row)
            db.session.commit()


def is_time(name: str, seconds: int) -> bool:
    """Whether no process has done this for so long. Cache.add() would never see that a file of the cache has expired."""
    if cache.get(name) is not None:
        return False
    cache.set(name, 1, timeout=seconds)
    return True


def stop_of_lost_accounts() -> None:
    """Stop the instances of accounts that are deleted or banned, or whose event is over."""
    for row in db.session.query(StackdInstance.account).distinct().all():
        if not access.may_go_on(row.account) and stop(StackdInstance.account == row.account):
            log.warning("the instances of %s are stopped: it is deleted or banned, or the event is over", row.account)


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
        more = {"ttl": task.fields["stackd_extension"] or "30m"}
        return stackd.call("POST", f"/stacks/{task.stack_id}/extend", more, once=task.once)
    if task.todo == "restart":
        return stackd.call("POST", f"/stacks/{task.stack_id}/restart")
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
            row.todo, row.message, row.attempts = None, "", 0
            write_stack(row, reply.data)
            if task.todo == "restart":
                row.status = "creating"
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
            give_up(row, answers.BROKEN, f"the template generates no value {fields['stackd_value']}")
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
    found = answers.verdict(task.todo, reply.status, reply.player_message)
    # A restart is not repeated after a lost answer: it may have happened.
    retry = found.retry and now() - task.since < PATIENCE[task.todo] and (task.todo != "restart" or reply.status > 0)
    row.detail = f"{reply.status} {reply.detail}"[:2000]
    row.attempts = task.attempts + 1
    if retry:
        row.not_before = now() + answers.pause(task.attempts, reply.retry_after)
        row.message = found.sentence if now() - task.since > SECONDS else ""
    elif task.todo == "create":
        give_up(row, found.sentence, row.detail)
    else:
        row.todo, row.message = None, found.sentence


def give_up(row: StackdInstance, sentence: str, detail: str) -> None:
    """End a start: the player keeps the reason, and whatever stackd may have made is deleted."""
    row.todo, row.slot, row.once = "stop", None, random_name()
    row.message, row.detail, row.attempts, row.not_before = sentence, detail, 0, 0


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
    elif row.challenge_key is not None and row.message:  # the player has not read yet why it failed
        row.todo, row.since = None, now()
    else:
        db.session.delete(row)


def write_stack(row: StackdInstance, stack: dict[str, Any]) -> None:
    """Note in the row what stackd says about the stack. Only changes are written."""
    shown = recipe.texts(row.fields["stackd_connection"] or "")
    opened = [port for port in stack.get("ports") or [] if isinstance(port, dict) and "container_port" in port]
    new = {
        "status": str(stack.get("status") or row.status)[:16],
        "addresses": json.dumps(recipe.addresses(shown, stack.get("node_public_ip") or "", opened)),
        "expires": _seconds(stack.get("ttl_expires_at")) or row.expires,
    }
    for name, value in new.items():
        if getattr(row, name) != value:
            setattr(row, name, value)


def _seconds(moment: Any) -> int | None:
    try:
        return int(datetime.fromisoformat(str(moment).replace("Z", "+00:00")).timestamp())
    except ValueError:
        return None


def note_problem(what: str, reply: Reply) -> None:
    """Log a refusal with its detail, and show it on the admin page."""
    text = f"{what}: {answers.diagnosis(reply.status, reply.detail, reply.code)}"
    log.warning("stackd did not %s", text)
    at = datetime.now(UTC).strftime("%H:%M:%S UTC")
    cache.set(PROBLEM, f"{at}: stackd did not {text}"[:1000], timeout=300)

"""One step of an instance's work: its request to stackd, and what is written after the answer.

Each is safe to repeat, since a process may die between any two of them.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from CTFd.cache import cache
from CTFd.models import db

from . import answers, flags, recipe
from .client import Reply, Stackd
from .instances import CLAIM, NO_PROBLEM, REFUSAL_KEPT, SILENT, now
from .models import StackdFlag, StackdInstance, random_name

log = logging.getLogger("stackd_instances")

PATIENCE = {"create": 60, "extend": 30, "grant": 30, "restart": 10}
"""Seconds that an attempt may be repeated before the player reads why it failed. A stop is repeated until it is done."""
SETTLED = 30
"""Seconds after a stop until no create of ours can still be on its way in stackd."""
PROBLEM = "stackd_problem"
NO_NEWER = ("no_template", "template_gone")
"""Codes of a restart that asks for the newest version of a template where there is none."""


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
        return stackd.call("POST", "/stacks", recipe.wanted(site, task), once=task.once)
    if task.todo in ("extend", "grant"):
        wanted = (task.todo == "grant" and task.amount) or task.fields["stackd_extension"] or "30m"
        more = {"ttl": recipe.length(wanted)}
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
        if same and row.todo == task.todo:  # keep_flag may have refused it
            row.extensions += task.todo == "extend"
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
    found = answers.verdict(reply.status, reply.code, reply.player_message)
    # A restart is not repeated after a lost answer: it may have happened.
    retry = found.retry and now() - task.since < PATIENCE[task.todo] and (task.todo != "restart" or reply.status > 0)
    row.detail = f"{reply.status} {reply.detail}"[:2000]
    row.attempts = task.attempts + 1
    row.problem, row.message, row.hopeless = found.key[:64], found.sentence[:255], None
    if retry:
        row.not_before = now() + answers.pause(task.attempts, reply.retry_after)
    elif task.todo == "create":
        give_up(row, found, row.detail)
    else:
        row.todo, row.since = None, now()


def give_up(row: StackdInstance, why: answers.Verdict, detail: str) -> None:
    """End a start: the player keeps the reason, and whatever stackd may have made is deleted."""
    row.todo, row.slot, row.once, row.since = "stop", None, random_name(), now()
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
    phase = answers.phase(stack)
    new = {
        "status": str(stack.get("status") or row.status)[:16],
        "addresses": json.dumps(recipe.addresses(shown, stack)),
        "updated": str(stack.get("updated_at") or "")[:40],
        "expires": recipe.seconds_since_1970(stack.get("ttl_expires_at")) or row.expires,
        "phase": phase,
        "phase_since": row.phase_since if phase == row.phase else now(),
        "running_since": row.running_since or (now() if stack.get("status") == "running" else None),
    }
    if "status_reason" in stack:
        found = answers.trouble(stack)
        problem = found.get("key", "")[:64]
        why = ": ".join(filter(None, (stack.get("status_reason"), stack.get("status_message"))))
        if problem and problem != row.problem:
            new |= {"problem": problem, "message": found["player_message"][:255], "hopeless": not found["restart"]}
        elif not problem and (row.hopeless is not None or now() - row.since >= REFUSAL_KEPT):
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

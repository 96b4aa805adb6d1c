"""Instances made beforehand: rows for many accounts at once, whose stacks one job of stackd creates.

The rows are written before stackd is asked, in one transaction, so that each account has its own at once. The job takes
over what exists (``if_exists``), so it may be asked for again at any time; the rows that it refuses are created as others are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from CTFd.models import db
from sqlalchemy import func
from sqlalchemy.exc import IntegrityError, OperationalError

from . import instances, recipe, settings
from .access import Account, Refused
from .answers import verdict
from .client import Reply, Stackd
from .models import StackdBatch, StackdChallenge, StackdInstance, random_name
from .steps import note_problem, note_silence, settle

SHOWN = 600
"""Seconds that organisers see a batch, at least."""
LOST = ("job_not_found", "answer_gone", "idempotency_key_reused")
"""Codes of a job that stackd does not keep any more."""


def begin(challenge: StackdChallenge, accounts: Collection[Account], ttl: str = "") -> tuple[int, dict[str, list[str]]]:
    """Have an instance made for each of the accounts that has none and room for one; returns how many, and the names of the
    others by the reason. Raises Refused.
    """
    if instances.shared(challenge) is not None:
        raise Refused("Everybody shares the instance of this challenge.", 409, "shared")
    fields = instances.fields_of(challenge) | ({"stackd_ttl": ttl} if ttl else {})
    challenge_id = challenge.id
    for _ in range(instances.TRIES):
        try:
            return _begun(fields, challenge_id, accounts)
        except (IntegrityError, OperationalError):  # a player has pressed Start at this moment
            db.session.rollback()
    raise Refused("Many instances are being started at this moment. Please try again.", 409, "busy")


def _begun(
    fields: dict[str, Any], challenge_id: int, accounts: Collection[Account]
) -> tuple[int, dict[str, list[str]]]:
    of_account, new, skipped = _by_account(), [], defaultdict(list)
    limit, budget = settings.number(settings.INSTANCES), settings.number(settings.COST)
    for account in accounts:
        rows = of_account[account.key]
        live = [row for row in rows if row.slot is not None]
        failed = [row for row in live if instances.status(row) == "failed"]
        mine = [row for row in live if row not in failed]
        same = next((row for row in rows if row.challenge_key == fields["stackd_key"]), None)
        places = instances.free_places(mine, failed)
        if same is not None and same.slot is not None:
            skipped["has one"].append(account.name)
        elif not places or instances.in_the_way(mine, instances.cost_of(fields), limit, budget) is not None:
            skipped["has no room for it"].append(account.name)
        else:
            slot, leaves = places[0]
            instances.forget(same)
            if leaves:
                instances.mark_stopped("replaced", StackdInstance.name == leaves)
            new.append(instances.to_create(account, slot, fields, challenge_id))
    if new:
        batch = StackdBatch(challenge_name=fields["name"][:80], total=len(new), created=instances.now())
        db.session.add(batch)
        db.session.flush()  # what makes room before what takes it
        for row in new:
            row.batch, row.unseen = batch.id, True
        db.session.add_all(new)
        db.session.commit()
    return len(new), dict(skipped)


def _by_account() -> defaultdict[str, list[StackdInstance]]:
    found = defaultdict(list)
    for row in StackdInstance.query.filter(StackdInstance.challenge_key.isnot(None)):
        found[row.account].append(row)
    return found


def listed() -> list[dict[str, Any]]:
    """How far those are that are not done, or were begun a short time ago."""
    left = dict(_left().all())
    recent = StackdBatch.query.filter(
        StackdBatch.id.in_(left) | (StackdBatch.created > instances.now() - SHOWN)
    ).order_by(StackdBatch.id)
    return [
        {
            "challenge": batch.challenge_name, "total": batch.total, "refused": batch.refused,
            "done": batch.total - left.get(batch.id, 0),
        }
        for batch in recent
    ]  # fmt: skip


def _left() -> Any:
    """The batches that are not done, each with how many rows are left."""
    counts = db.session.query(StackdInstance.batch, func.count()).filter(StackdInstance.batch.isnot(None))
    return counts.group_by(StackdInstance.batch)


def unfinished() -> list[int]:
    """The ids of those that are not done."""
    return [batch_id for batch_id, _ in _left()]


def read(batch_id: int) -> tuple[str | None, str, list[dict[str, Any]]]:
    """The job's id, the batch's Idempotency-Key, and without a job what it is to create."""
    batch, site = StackdBatch.query.filter_by(id=batch_id).one(), settings.site()
    rows = StackdInstance.query.filter_by(batch=batch_id).order_by(StackdInstance.id) if batch.job is None else ()
    return batch.job, batch.once, [recipe.wanted(site, row) for row in rows]


def ask(stackd: Stackd, job: str | None, once: str, wanted: list[dict[str, Any]]) -> Reply:
    """Begin the job, or read what has become of it. The same request again begins no other one."""
    if job is None:
        body = {"action": "create", "if_exists": "return", "each": wanted}
        return stackd.call("POST", "/stacks/batch", body, once=once)
    return stackd.call("GET", f"/stacks/batch/{job}", query=[("results", "true")])


def note(batch_id: int, job: str | None, once: str, reply: Reply) -> None:
    """Write down what stackd has answered, unless another process was faster."""
    note_silence(reply)
    batch = StackdBatch.query.filter_by(id=batch_id).one()
    if (batch.job, batch.once) != (job, once):
        return
    if not reply.ok:
        note_problem(f"make instances of {batch.challenge_name} beforehand", reply)
        if reply.code in LOST:
            batch.job, batch.once = None, random_name()
            db.session.commit()
        elif not verdict(reply.status, reply.code, reply.player_message).retry:
            _release(batch_id)
    elif job is None:
        batch.job = reply.data.get("job_id")
        db.session.commit()
    else:
        left = {name for (name,) in db.session.query(StackdInstance.name).filter_by(batch=batch_id)}
        for result in reply.data.get("results") or []:
            if (name := (result.get("labels") or {}).get("instance")) not in left:  # it was noted before
                continue
            if result["outcome"] == "done":
                _note_created(batch_id, name, result)
            elif result["outcome"] in ("failed", "not_found"):
                _release(batch_id, StackdInstance.name == name)
        if reply.data.get("status") in ("completed", "failed"):
            _release(batch_id)


def _note_created(batch_id: int, name: str, result: dict[str, Any]) -> None:
    # Written before it is read, as in ``settle``.
    query = StackdInstance.query.filter_by(name=name)
    if query.filter_by(batch=batch_id).update({"batch": None}, synchronize_session=False):
        row = query.one()
        row.stack_id = result["stack_id"]
        if row.todo == "create":
            settle(row, Reply(status=201, data={"status": "creating", **result}))
    db.session.commit()


def _release(batch_id: int, *conditions: Any) -> None:
    """Let the worker create these itself, which says why it cannot."""
    query = StackdInstance.query.filter(StackdInstance.batch == batch_id, *conditions)
    count = query.update({"batch": None, "since": instances.now()}, synchronize_session=False)
    StackdBatch.query.filter_by(id=batch_id).update({"refused": StackdBatch.refused + count}, synchronize_session=False)
    db.session.commit()

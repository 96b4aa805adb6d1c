"""What accounts do with their instances. Owns the rows; each function is one short transaction.

Nothing here asks stackd: a row says what is to be done, and the worker does it.
"""

from __future__ import annotations

import json
import time
from typing import Any

from CTFd.cache import cache
from CTFd.models import db
from sqlalchemy.exc import IntegrityError

from . import recipe, settings
from .access import Account, Refused
from .models import StackdChallenge, StackdInstance, random_name

LIMIT_MESSAGE = "You have as many instances as you may ({}). Stop one first."
ERROR_KEPT = 600
"""Seconds that the reason of a failed start is shown."""


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def of_account(account: Account) -> list[StackdInstance]:
    """The instances that the account sees, the oldest first."""
    mine = StackdInstance.query.filter_by(account=account.key).filter(StackdInstance.challenge_key.isnot(None))
    return mine.order_by(StackdInstance.id).all()


def named(account: Account, name: str) -> StackdInstance:
    """The account's instance of this name. Raises Refused."""
    found = StackdInstance.query.filter_by(account=account.key, name=name).first()
    if found is None or found.challenge_key is None:
        raise Refused("Your instance has ended.", 404)
    return found


def of_challenge(account: Account, challenge_id: int) -> StackdInstance | None:
    """The account's instance of a challenge, which may be hidden by now."""
    challenge = StackdChallenge.query.filter_by(id=challenge_id).first()
    if challenge is None:
        return None
    return StackdInstance.query.filter_by(account=account.key, challenge_key=challenge.stackd_key).first()


def start(account: Account, challenge: StackdChallenge) -> StackdInstance:
    """The account's instance of the challenge; a new one if it has none. Raises Refused."""
    fields = fields_of(challenge)
    key, challenge_id = challenge.stackd_key, challenge.id
    existing = StackdInstance.query.filter_by(account=account.key, challenge_key=key).first()
    if existing is not None and existing.slot is not None:
        return existing
    if existing is not None:  # its start has failed, and it still has the reason
        existing.challenge_key = None
        db.session.commit()
    count_start(account)
    limit = settings.number(settings.INSTANCES)
    for slot in range(limit):
        row = StackdInstance(
            name=random_name(), account=account.key, account_name=account.name, slot=slot, challenge_key=key,
            challenge_id=challenge_id, recipe=json.dumps(fields), todo="create", once=random_name(), since=now(),
            created=now(),
        )  # fmt: skip
        db.session.add(row)
        try:
            db.session.commit()
        except IntegrityError:  # the slot is taken, or another press was faster
            db.session.rollback()
            other = StackdInstance.query.filter_by(account=account.key, challenge_key=key).first()
            if other is not None:
                return other
        else:
            return row
    raise Refused(LIMIT_MESSAGE.format(limit), 409)


FIELDS = (
    "stackd_key", "stackd_template", "stackd_pod_spec", "stackd_ports", "stackd_ttl", "stackd_extension",
    "stackd_extensions", "stackd_connection", "stackd_stop_when_solved", "stackd_flag_source", "stackd_value",
)  # fmt: skip


def fields_of(challenge: StackdChallenge) -> dict[str, Any]:
    """What an instance keeps of its challenge."""
    return {column: getattr(challenge, column) for column in FIELDS} | {"name": challenge.name}


def count_start(account: Account) -> None:
    """Count a start or restart of the account. Raises Refused if it makes too many a minute."""
    key = f"stackd_starts_{account.key}_{now() // 60}"
    count = int(cache.get(key) or 0)
    if count >= settings.number(settings.STARTS):
        raise Refused("You start instances too often. Please wait a minute.", 429)
    cache.set(key, count + 1, timeout=120)


def ask(row: StackdInstance, todo: str, *conditions: Any) -> bool:
    """Note what is to be done with the instance, unless something else is under way."""
    values = {"todo": todo, "once": random_name(), "since": now(), "attempts": 0, "not_before": 0, "message": ""}
    query = StackdInstance.query.filter_by(id=row.id, todo=None).filter(*conditions)
    changed = query.update(values, synchronize_session=False)
    db.session.commit()
    return bool(changed)


def extend(row: StackdInstance) -> None:
    """Have the instance extended, as often as the challenge allows. Raises Refused."""
    most = row.fields["stackd_extensions"] or 0
    if row.extensions >= most:
        raise Refused("Your instance cannot be extended any further.", 409)
    ask(row, "extend", StackdInstance.extensions < most, StackdInstance.slot.isnot(None))


def restart(account: Account, row: StackdInstance) -> None:
    """Have the instance restarted. Raises Refused."""
    if row.todo is None and row.slot is not None:
        count_start(account)
        ask(row, "restart", StackdInstance.slot.isnot(None))


def stop(*conditions: Any) -> int:
    """Have these instances stopped, whatever is under way; returns how many."""
    values = {
        "todo": "stop", "slot": None, "challenge_key": None, "since": now(), "attempts": 0, "not_before": 0,
        "message": "", "status": "stopping",
    }  # fmt: skip
    query = StackdInstance.query.filter(*conditions, StackdInstance.challenge_key.isnot(None))
    count = query.update(values, synchronize_session=False)
    db.session.commit()
    return int(count)


def shown(row: StackdInstance) -> dict[str, Any]:
    """What its players see of an instance."""
    fields = row.fields
    failed = row.slot is None  # it never came to run; the row only keeps the reason
    running = row.status == "running" and not failed
    left = max(0, (fields["stackd_extensions"] or 0) - row.extensions)
    return {
        "name": row.name,
        "challenge_id": row.challenge_id,
        "challenge": fields["name"],
        "status": "none" if failed else _status(row),
        "addresses": json.loads(row.addresses or "[]") if running else [],
        "seconds_left": None if row.expires is None or failed else max(0, row.expires - now()),
        "extension": recipe.duration(recipe.seconds(fields["stackd_extension"], "Extension")) if left else "",
        "extensions_left": left,
        "message": row.message,
        "pending": row.todo is not None,
    }


def _status(row: StackdInstance) -> str:
    pending = {"create": "starting", "restart": "restarting", "stop": "stopping"}
    if row.todo in pending:
        return pending[row.todo]
    return {"creating": "starting", "running": "running"}.get(row.status, "failed")

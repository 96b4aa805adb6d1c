"""What accounts do with their instances. Owns the rows; each function is one short transaction.

Nothing here asks stackd: a row says what is to be done, and the worker does it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from CTFd.cache import cache
from CTFd.models import db
from CTFd.utils.user import is_admin
from sqlalchemy.exc import IntegrityError, OperationalError

from . import access, answers, recipe, settings
from .access import Account, Refused
from .models import StackdChallenge, StackdInstance, random_name

LIMIT_MESSAGE = "You have as many instances as you may ({}). Stop one first."
COST_MESSAGE = "You use {spent} of {budget}; this one costs {cost}."
ERROR_KEPT = 600
"""Seconds that the reason of a failed start, or of an end, is shown, and what an organiser did."""
REFUSAL_KEPT = 30
"""Seconds that players read why a press has changed nothing."""
NOTICE = 600
"""Seconds before everybody's instances of a challenge are stopped in which the box says so."""
SLOW = 3
"""Seconds after which a player reads what is in the way of the own press."""
CLAIM = 15
"""Seconds that a claim lasts: longer than any request to stackd."""
SILENT = "stackd_silent"
"""The cache has it while stackd does not answer."""
SHARED = "stackd_shared"
"""The cache has the stacks that all players share here, by their templates."""


MESSAGES = "stackd_messages"
"""The cache has what organisers say to players."""
TRIES = 5
"""How often a press begins again because others were at its rows at the same moment."""


def messages(account: Account, challenges: Collection[StackdChallenge]) -> list[dict[str, str]]:
    """What organisers say to the account, to all or about one of these challenges."""
    keys = ["", *(each.stackd_key for each in challenges)]
    own = [recipe.labels(settings.site(), account.key, key, "") for key in keys]
    templates = {"", *(each.stackd_template for each in challenges)}
    return [
        {"message_id": each["message_id"], "text": each["text"]}
        for each in cache.get(MESSAGES) or []
        if not each.get("links")  # which are none of CTFd's players
        and each["template"] in templates
        and any(each["labels"].items() <= labels.items() for labels in own)
    ]


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


SEEN = StackdInstance.unseen.isnot(True)


def of_account(account: Account) -> list[StackdInstance]:
    """The instances that the account sees, the oldest first."""
    mine = StackdInstance.query.filter_by(account=account.key).filter(StackdInstance.challenge_key.isnot(None), SEEN)
    return mine.order_by(StackdInstance.id).all()


def named(account: Account, name: str) -> StackdInstance:
    """The account's instance of this name. Raises Refused."""
    found = StackdInstance.query.filter_by(account=account.key, name=name).first()
    if found is None or found.challenge_key is None:
        raise Refused("Your instance has ended.", 404, "gone")
    return found


def of_challenge(account: Account, challenge_id: int) -> StackdInstance | None:
    """The account's instance of a challenge, which may be hidden by now."""
    challenge = StackdChallenge.query.filter_by(id=challenge_id).first()
    if challenge is None:
        return None
    return StackdInstance.query.filter_by(account=account.key, challenge_key=challenge.stackd_key).filter(SEEN).first()


def running(account: Account) -> tuple[list[StackdInstance], list[StackdInstance]]:
    """Those that count toward the account's limit, and those that have failed and make way, the oldest first."""
    query = StackdInstance.query.filter_by(account=account.key).filter(StackdInstance.slot.isnot(None))
    return counted(query.order_by(StackdInstance.id).all())


def counted(rows: Sequence[StackdInstance]) -> tuple[list[StackdInstance], list[StackdInstance]]:
    """Of an account's instances, those that count and those that make way, as ``running`` returns them."""
    failed = [row for row in rows if row.unseen or status(row) == "failed"]
    return [row for row in rows if row not in failed], failed


def cost_of(fields: Mapping[str, Any]) -> int:
    """What an instance costs with these fields of its challenge."""
    cost = fields.get("stackd_cost")
    return 1 if cost is None else int(cost)


def spent_on(rows: Iterable[StackdInstance]) -> int:
    """What these instances cost in all."""
    return sum(cost_of(row.fields) for row in rows)


def spending(accounts: Collection[str]) -> dict[str, int]:
    """What the instances of each of these accounts cost in all; empty where that has no limit."""
    if not settings.number(settings.COST):
        return {}
    rows = StackdInstance.query.filter(StackdInstance.account.in_(accounts), StackdInstance.slot.isnot(None))
    (mine, _), spent = counted(rows.all()), dict.fromkeys(accounts, 0)
    for row in mine:
        spent[row.account] += cost_of(row.fields)
    return spent


def in_the_way(mine: Sequence[StackdInstance], cost: int, limit: int, budget: int) -> list[StackdInstance] | None:
    """Each of which would make room for another one of this cost, the oldest first; None if there is room."""
    over = spent_on(mine) + cost - budget if budget else 0
    if over > 0:
        return [row for row in mine if cost_of(row.fields) >= over]
    return list(mine) if len(mine) >= limit else None


def allowance(account: Account, challenge: StackdChallenge | None = None) -> dict[str, Any]:
    """How many instances the account has and may have, and what they cost; where there is no room for one of the challenge,
    also which make some."""
    (mine, _), limit, budget = running(account), settings.number(settings.INSTANCES), settings.number(settings.COST)
    cost = cost_of(fields_of(challenge)) if challenge is not None else 1
    others = [
        {"name": row.name, "challenge": row.fields["name"], "challenge_id": row.challenge_id}
        for row in in_the_way(mine, cost, limit, budget) or ()
    ]
    makes_room = bool(settings.number(settings.MAKES_ROOM))
    spending = {"budget": budget, "spent": spent_on(mine), "cost": cost} if budget else {}
    return {"used": len(mine), "limit": limit, "others": others, "makes_room": makes_room, **spending}


def start(account: Account, challenge: StackdChallenge, instead_of: str = "", tries: int = TRIES) -> StackdInstance:
    """The account's instance of the challenge: the one that it has, also if that was made beforehand and counts from now on, or
    a new one. At a limit it takes the place of the one that is named, or of the oldest that makes room if the settings say so.
    Raises Refused.
    """
    fields, challenge_id = fields_of(challenge), challenge.id
    own = StackdInstance.query.filter_by(account=account.key, challenge_key=challenge.stackd_key)
    row = own.first()
    if tries == TRIES and (row is None or row.slot is None):
        count_start(account.key)
    access.lock(account)  # of presses at the same time, each sees what the one before it has started
    row = own.first()
    is_there = row is not None and row.slot is not None
    if is_there and not row.unseen:
        db.session.commit()
        return row
    slot, leaves = room_for(account, cost_of(row.fields if is_there else fields), row if is_there else None, instead_of)
    try:
        if leaves:
            mark_stopped("replaced", StackdInstance.name == leaves)
        if is_there:
            row.unseen = False
        else:
            forget(row)
            row = to_create(account, slot, fields, challenge_id)
            db.session.add(row)
        db.session.commit()
    except (IntegrityError, OperationalError):  # somebody else than the account itself is at its rows at this moment
        db.session.rollback()
        if tries == 1:
            raise
        return start(account, challenge, instead_of, tries - 1)
    return row


def forget(row: StackdInstance | None) -> None:
    """What has ended makes way for another one, without a commit; the worker may remove it at this moment."""
    if row is not None:
        query = StackdInstance.query.filter_by(id=row.id, slot=None)
        query.update({"challenge_key": None}, synchronize_session=False)


def room_for(account: Account, cost: int, made: StackdInstance | None, instead_of: str) -> tuple[int, str]:
    """The slot for another instance of this cost, and the name of what is stopped for it, or "". What was ``made`` beforehand
    has its slot. Raises Refused, and ends the transaction, if there is none.
    """
    (mine, failed), budget = running(account), settings.number(settings.COST)
    limit = len(mine) + 1 if made else settings.number(settings.INSTANCES)
    occupants = in_the_way(mine, cost, limit, budget)
    if occupants is not None:
        places = [(row.slot, row.name) for row in making_room(occupants, instead_of)]
    else:
        places = [(made.slot, "")] if made else free_places(mine, failed)
    if places:
        return places[0]
    spent = spent_on(mine)
    db.session.rollback()
    if budget and spent + cost > budget:
        values = {"spent": spent, "budget": budget, "cost": cost}
        raise Refused(COST_MESSAGE.format(**values), 409, "cost", **values)
    raise Refused(LIMIT_MESSAGE.format(limit), 409, "limit", limit=limit)


def making_room(occupants: Sequence[StackdInstance], instead_of: str) -> Sequence[StackdInstance]:
    """Which of these a start may stop: the one that is named, or the oldest if the settings say so."""
    chosen = [row for row in occupants if row.name == instead_of]
    return chosen or occupants[: 1 if settings.number(settings.MAKES_ROOM) else 0]


def free_places(mine: Sequence[StackdInstance], failed: Sequence[StackdInstance]) -> list[tuple[int, str]]:
    """The slots that nothing is in, and those of what has failed, with its name."""
    taken = {row.slot for row in (*mine, *failed)}
    free = [(slot, "") for slot in range(settings.number(settings.INSTANCES)) if slot not in taken]
    return free + [(row.slot, row.name) for row in failed]


def to_create(account: Account, slot: int, fields: Mapping[str, Any], challenge_id: int) -> StackdInstance:
    """A new row."""
    return StackdInstance(
        name=random_name(), account=account.key, account_name=account.name, slot=slot, todo="create",
        challenge_key=fields["stackd_key"], challenge_id=challenge_id, recipe=json.dumps(fields), once=random_name(),
        since=now(), created=now(),
    )  # fmt: skip


FIELDS = (
    "stackd_key", "stackd_template", "stackd_ttl", "stackd_extension", "stackd_cost",
    "stackd_extensions", "stackd_connection", "stackd_stop_when_solved", "stackd_flag_source", "stackd_value",
)  # fmt: skip


def fields_of(challenge: StackdChallenge) -> dict[str, Any]:
    """What an instance keeps of its challenge."""
    return {column: getattr(challenge, column) for column in FIELDS} | {"name": challenge.name}


def shared(challenge: StackdChallenge) -> dict[str, Any] | None:
    """What players see of the instance that all have together; None if each has one of its own."""
    stack = (cache.get(SHARED) or {}).get(challenge.stackd_template)
    if stack is None:
        return None
    problem = answers.trouble(stack)
    is_up = stack.get("status") == "running"
    texts = recipe.texts(challenge.stackd_connection or "")
    since = recipe.seconds_since_1970(stack.get("updated_at"))
    return {
        "challenge_id": challenge.id,
        "challenge": challenge.name,
        "status": "shared",
        "problem": problem or None,
        "doing": None if is_up or problem else {"key": answers.phase(stack), "seconds": 0},
        "addresses": recipe.addresses(texts, stack) if is_up else [],
        "since": max(0, now() - since) if is_up and since is not None else 0,
    }


def count_start(account: str) -> None:
    """Count a start or restart of the account with this key. Raises Refused if it makes too many a minute."""
    key = f"stackd_starts_{account}_{now() // 60}"
    count = int(cache.get(key) or 0)
    if count >= settings.number(settings.STARTS):
        raise Refused("You start instances too often. Please wait a minute.", 429, "too_often")
    cache.set(key, count + 1, timeout=120)


def ask(row: StackdInstance, todo: str, *conditions: Any, **more: Any) -> bool:
    """Note what is to be done with the instance, unless something else is under way."""
    values = {"todo": todo, "once": random_name(), "since": now(), "attempts": 0, "not_before": 0, **NO_PROBLEM}
    values |= {"organiser": None, **more}
    query = StackdInstance.query.filter_by(id=row.id, todo=None).filter(*conditions)
    changed = query.update(values, synchronize_session=False)
    db.session.commit()
    return bool(changed)


def extend(row: StackdInstance) -> None:
    """Have the instance extended, as often as the challenge allows. Raises Refused."""
    most = row.fields["stackd_extensions"] or 0
    if row.extensions >= most:
        raise Refused("Your instance cannot be extended any further.", 409, "no_more_extensions")
    ask(row, "extend", StackdInstance.extensions < most, StackdInstance.slot.isnot(None))


def restart(row: StackdInstance) -> None:
    """Have the instance restarted. Raises Refused."""
    if row.todo is None and row.slot is not None:
        count_start(row.account)
        take_challenge([row])
        ask(row, "restart", StackdInstance.slot.isnot(None))


def take_challenge(rows: Iterable[StackdInstance]) -> None:
    """Let the instances, which are to be restarted, follow their challenges' connections and extensions of now."""
    challenges = {one.stackd_key: one for one in StackdChallenge.query.all()}
    for row in rows:
        before, challenge = row.fields, challenges.get(row.challenge_key)
        if row.todo is None and challenge is not None and before["stackd_template"] == challenge.stackd_template:
            kept = {name: before[name] for name in ("stackd_flag_source", "stackd_value")}
            row.recipe = json.dumps(fields_of(challenge) | kept)
    db.session.commit()


NO_PROBLEM = {"message": "", "problem": None, "hopeless": None}


def mark_stopped(why: str, *conditions: Any) -> int:
    """Have these instances stopped, without a commit; returns how many. Their players read ``why``, if it is not empty."""
    values = {
        "todo": "stop", "slot": None, "since": now(), "attempts": 0, "not_before": 0, "status": "stopping",
        "message": "", "problem": why or None,
    } | ({} if why else {"challenge_key": None})  # fmt: skip
    query = StackdInstance.query.filter(*conditions, StackdInstance.challenge_key.isnot(None))
    if why:  # what has ended keeps its own reason
        query = query.filter(StackdInstance.slot.isnot(None))
    return int(query.update(values, synchronize_session=False))


def stop(*conditions: Any, why: str = "") -> int:
    """Have these instances stopped, whatever is under way; returns how many."""
    count = mark_stopped(why, *conditions)
    db.session.commit()
    return count


def ended(row: StackdInstance, why: str) -> None:
    """Note that the instance's stack is gone; the row keeps the reason for a while."""
    row.slot, row.todo, row.since, row.status = None, None, now(), "ended"
    row.problem, row.message = why, ""


def shown(row: StackdInstance) -> dict[str, Any]:
    """What its players see of an instance."""
    fields = row.fields
    over = row.slot is None  # the row only keeps the reason
    closes = closing(row)
    seen = "none" if over else status(row)
    left = 0 if closes else max(0, (fields["stackd_extensions"] or 0) - row.extensions)
    extension = recipe.seconds(fields["stackd_extension"], "Extension") if left else 0
    counts = row.expires is not None and row.running_since is not None and not over
    return {
        "name": row.name,
        "challenge_id": row.challenge_id,
        "challenge": fields["name"],
        "status": seen,
        "pending": row.todo is not None and not over,
        "doing": _doing(row) if seen in ("starting", "restarting", "stopping") else None,
        "problem": _problem(row, seen),
        "addresses": json.loads(row.addresses or "[]") if seen == "running" else [],
        "seconds_left": max(0, (closes or row.expires) - now()) if counts else None,
        "notice": NOTICE if closes else None,
        "extension": recipe.length(fields["stackd_extension"]) if left else "",
        "extension_seconds": extension,
        "extensions_left": left,
        "organiser": None if over or now() - (row.organiser_at or 0) > ERROR_KEPT else row.organiser,
    }


def closing(row: StackdInstance) -> int:
    """When it is stopped before its time is over: its challenge closes, or the event is over; 0 if that is not so."""
    challenge = StackdChallenge.query.get(row.challenge_id) if row.challenge_id else None
    ends = [] if challenge is None else [recipe.hours(challenge.stackd_opens, challenge.stackd_closes)[1]]
    ends += [] if is_admin() else [access.end_of_event()[1]]
    first = min(filter(None, ends), default=0)
    return first if row.expires is None or first < row.expires else 0


def status(row: Any) -> str:
    """The status of an instance that has not ended."""
    pending = {"create": "starting", "restart": "restarting", "stop": "stopping"}
    if row.todo in pending:
        return pending[row.todo]
    return {"creating": "starting", "running": "running"}.get(row.status, "failed")


def _doing(row: StackdInstance) -> dict[str, Any]:
    """What is being done, and since when."""
    if row.todo in ("create", "restart", "stop"):
        key, since = {"create": "queue"}.get(row.todo, row.todo), row.since
    else:
        key, since = row.phase or "place", row.phase_since or row.since
    return {"key": key, "seconds": max(0, now() - since)}


def _problem(row: StackdInstance, seen: str) -> dict[str, Any] | None:
    """What is wrong: the key of the sentence, the sentence, and whether a restart may help."""
    key, message = row.problem or "", row.message
    if row.todo is not None and row.slot is not None:
        if now() - row.since < SLOW:
            return None
        asked = row.claimed_until - CLAIM if row.claimed_until else now()
        if not key and (now() - asked >= SLOW or cache.get(SILENT)):
            key, message = "silent", ""
    elif seen == "failed" and not key:
        key, message = "failed", ""
    if not key:
        return None
    shown = {"key": key, "player_message": message, "restart": not row.hopeless}
    return shown | {"member": "" if row.todo or row.slot is None else answers.member(row.detail or "")}

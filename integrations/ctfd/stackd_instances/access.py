"""Who asks, and what CTFd lets them do. CTFd's own route of a challenge decides, not a copy of its rules."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from CTFd.api.v1.challenges import Challenge
from CTFd.models import Challenges, Fails, Teams, Users, db
from CTFd.utils import get_config, set_config
from CTFd.utils.challenges import get_all_challenges
from CTFd.utils.config import is_teams_mode
from CTFd.utils.dates import ctf_ended, ctf_paused, ctftime, view_after_ctf
from CTFd.utils.user import get_current_team, get_current_user, is_admin, is_verified
from flask import abort
from sqlalchemy import event, inspect, select
from werkzeug.exceptions import HTTPException

from . import recipe, settings
from .models import StackdChallenge, StackdLeft


class Refused(Exception):
    """A request that is not granted; the text is a sentence for players, ``code`` its key for their page."""

    def __init__(self, text: str, status: int = 403, code: str = "refused", **values: Any) -> None:
        super().__init__(text)
        self.status, self.code, self.values = status, code, values


@dataclass(frozen=True)
class Account:
    """A team, or a user; ``key`` is never somebody else's later, unlike a database id."""

    key: str
    name: str
    user_id: int
    user_name: str


def account() -> Account:
    """The account of this request. Raises Refused without one."""
    user = get_current_user()
    if user is None:
        raise Refused("Log in first.", 401, "login")
    team = get_current_team() if is_teams_mode() else None
    if team is None and is_teams_mode() and not is_admin():
        raise Refused("Join a team first.", 403, "team")
    owner = user if team is None else team
    return Account(key=key_of(owner), name=owner.name[:128], user_id=user.id, user_name=user.name[:128])


def key_of(owner: Users | Teams) -> str:
    """Ids come again on SQLite after a delete, so the time of the registration belongs to the key."""
    return _key("team" if isinstance(owner, Teams) else "user", owner.id, owner.created)


def _key(kind: str, number: int, created: datetime) -> str:
    return f"{kind}-{number}-{int(created.timestamp())}"


def helps() -> bool:
    """Whether the current user is one of the helpers that the settings name."""
    helpers = settings.helpers()
    user = get_current_user() if helpers else None
    return user is not None and not user.banned and key_of(user) in helpers


def helpers() -> list[Users]:
    """The users that the settings name as helpers, as far as they exist."""
    keys = settings.helpers()
    found = Users.query.filter(Users.id.in_([int(key.split("-")[1]) for key in keys]))
    return [user for user in found if key_of(user) in keys]


def named(model: Any, names: Collection[str]) -> list[Any]:
    """The users or teams with these names. Raises Refused for a name that nobody has, or several."""
    found = defaultdict(list)
    for owner in model.query.filter(model.name.in_(names)):
        found[owner.name].append(owner)
    for name in names:
        if len(found[name]) != 1:
            raise Refused(f"{len(found[name]) or 'None'} of CTFd's {model.__tablename__} is called {name!r}.", 400)
    return [found[name][0] for name in dict.fromkeys(names)]


def players(names: Collection[str] = ()) -> list[Account]:
    """Those with these names, or all that play: teams, or users. Raises Refused as ``named``."""
    model = Teams if is_teams_mode() else Users
    if names:
        owners = named(model, names)
    else:
        owners = [owner for owner in model.query.order_by(model.id) if not owner.hidden]
        if model is Users:
            owners = [
                owner
                for owner in owners
                if owner.type != "admin" and (owner.verified or not get_config("verify_emails"))
            ]
    return [Account(key_of(owner), owner.name[:128], 0, "") for owner in owners if not owner.banned]


@event.listens_for(Users, "before_update", propagate=True)
def note_leaving(mapper: Any, connection: Any, user: Users) -> None:
    """Remember that a user leaves a team: what that has until now is no secret to the user."""
    if inspect(user).attrs.team_id.history.has_changes():
        users, teams = Users.__table__, Teams.__table__
        before = select(teams.c.id, teams.c.created).where(users.c.id == user.id, teams.c.id == users.c.team_id)
        for number, created in connection.execute(before).fetchall():
            if number != user.team_id:
                left = {"user": key_of(user), "account": _key("team", number, created), "at": int(time.time())}
                connection.execute(StackdLeft.__table__.insert().values(left))


def has_left(team: str, since: int) -> bool:
    """Whether the current user has left the team, at this time or later."""
    mine = StackdLeft.query.filter_by(user=key_of(get_current_user()), account=team)
    return mine.filter(StackdLeft.at >= since).first() is not None


def lock(account: Account) -> None:
    """Begin a transaction. Until its end, every other one of the account that begins so waits; so nothing in it may wait for
    something other than the database."""
    kind, number, _ = account.key.split("-")
    model = Teams if kind == "team" else Users
    db.session.commit()
    model.query.filter_by(id=int(number)).update({"banned": model.banned}, synchronize_session=False)


def end_of_event() -> tuple[int, int]:
    """CTFd's end of the event, and when the instances of players are stopped, in seconds since 1970; 0: never. The organisers
    have the time between to correct the end, also if they have put it into the past."""
    end = 0 if view_after_ctf() else int(get_config("end") or 0)
    since = int(get_config(settings.OVER) or 0) or max(end, int(time.time()))
    return end, end and (since if ctf_ended() else end) + 60 * settings.number(settings.GRACE)


def note_end_of_event() -> None:
    """Remember since when the event has been over; an end that is corrected is forgotten."""
    over = bool(end_of_event()[0]) and ctf_ended()
    if over != bool(int(get_config(settings.OVER) or 0)):
        set_config(settings.OVER, int(time.time()) if over else 0)


def hours(challenge: StackdChallenge) -> tuple[int, int]:
    """From when until when the current user can start its instances, in seconds since 1970; 0: without such an end."""
    opens, closes = recipe.hours(challenge.stackd_opens, challenge.stackd_closes)
    if is_admin():  # who tries it before it opens
        return 0, closes
    end, _ = end_of_event()
    return max(opens, int(get_config("start") or 0)), min(filter(None, (closes, end)), default=0)


def closed(challenge: StackdChallenge) -> dict[str, Any]:
    """Why its instances cannot be started now, and in how many seconds it opens, or since how many it has been closed (below
    zero); empty if they can."""
    now, (opens, closes) = int(time.time()), hours(challenge)
    word, at = ("closed", closes) if 0 < closes <= now else ("opens", opens)
    if word == "opens" and now >= opens:
        return {}
    sentence = f"This {word} at {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC."
    return {"problem": {"key": "template_closed", "player_message": sentence}, "opens_in": at - now}


def stopped_for(keys: Collection[str]) -> Iterator[tuple[str, str]]:
    """The accounts that may have no instances any more, each with why: deleted, banned, or the event is over for it."""
    over = 0 < end_of_event()[1] <= time.time()
    ids = {"team": set(), "user": set()}
    for key in keys:
        ids[key.split("-")[0]].add(int(key.split("-")[1]))
    owners = {}
    for kind, model in (("team", Teams), ("user", Users)):
        numbers = sorted(ids[kind])
        for first in range(0, len(numbers), 500):  # SQLite takes 999 parameters
            found = model.query.filter(model.id.in_(numbers[first : first + 500]))
            owners.update((key_of(owner), owner) for owner in found)
    for key in keys:
        owner = owners.get(key)
        if owner is None or owner.banned:
            yield key, "organiser"
        elif over and not (isinstance(owner, Users) and owner.type == "admin"):
            yield key, "event_over"


def has_attempts(challenge: StackdChallenge) -> bool:
    """Whether the current account may still send an answer. A timeout of CTFd (3.8) passes, so it does not count."""
    if not challenge.max_attempts or get_config("max_attempts_behavior") == "timeout" or is_admin():
        return True
    fails = Fails.query.filter_by(account_id=get_current_user().account_id, challenge_id=challenge.id).count()
    return bool(fails < challenge.max_attempts)


def listed() -> set[int]:
    """The ids of the challenges that CTFd's list has for the current user, also of those that are not open yet."""
    return {one.id for one in get_all_challenges(admin=is_admin())}


def startable(challenge_id: int) -> StackdChallenge:
    """The challenge, if CTFd shows it to the current user now. Raises Refused."""
    try:
        shown = Challenge().get(challenge_id)
    except HTTPException as error:
        raise _refusal(error.code) from error
    if not isinstance(shown, dict) or shown["data"].get("type") == "hidden":
        raise _refusal(403)
    if ctf_paused() and not is_admin():
        raise Refused("The event is paused.", 403, "paused")
    challenge = Challenges.query.filter_by(id=challenge_id).first() or abort(404)
    if not isinstance(challenge, StackdChallenge):
        raise Refused("This challenge has no instances.", 404, "no_instances")
    return challenge


def _refusal(status: int | None) -> Refused:
    if status == 404:
        return Refused("There is no such challenge.", 404, "no_challenge")
    if ctf_ended():
        return Refused("The event has ended.", 403, "event_over")
    if not ctftime():
        return Refused("The event has not started yet.", 403, "not_started")
    if get_config("verify_emails") and not is_verified():
        return Refused("Confirm your email address first.", 403, "verify_email")
    return Refused("You may not start this challenge yet.", status or 403, "not_yet")

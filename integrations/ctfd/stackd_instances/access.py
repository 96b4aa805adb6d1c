"""Who asks, and what CTFd lets them do. CTFd's own route of a challenge decides, not a copy of its rules."""

from __future__ import annotations

from dataclasses import dataclass

from CTFd.api.v1.challenges import Challenge
from CTFd.models import Challenges, Teams, Users
from CTFd.utils import get_config
from CTFd.utils.config import is_teams_mode
from CTFd.utils.dates import ctf_ended, ctf_paused, ctftime, view_after_ctf
from CTFd.utils.user import get_current_team, get_current_user, is_admin, is_verified
from flask import abort
from werkzeug.exceptions import HTTPException

from .models import StackdChallenge


class Refused(Exception):
    """A request that is not granted; the text is a sentence for players."""

    def __init__(self, text: str, status: int = 403) -> None:
        super().__init__(text)
        self.status = status


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
        raise Refused("Log in first.", 401)
    team = get_current_team() if is_teams_mode() else None
    if team is None and is_teams_mode() and not is_admin():
        raise Refused("Join a team first.")
    owner = user if team is None else team
    return Account(key=key_of(owner), name=owner.name[:128], user_id=user.id, user_name=user.name[:128])


def key_of(owner: Users | Teams) -> str:
    """Ids come again on SQLite after a delete, so the time of the registration belongs to the key."""
    kind = "team" if isinstance(owner, Teams) else "user"
    return f"{kind}-{owner.id}-{int(owner.created.timestamp())}"


def may_go_on(key: str) -> bool:
    """Whether the account still exists, is not banned, and the event still runs for it."""
    kind, number, _ = key.split("-")
    owner = (Teams if kind == "team" else Users).query.filter_by(id=int(number)).first()
    if owner is None or owner.banned or key_of(owner) != key:
        return False
    if kind == "user" and owner.type == "admin":
        return True
    return not ctf_ended() or bool(view_after_ctf())


def startable(challenge_id: int) -> StackdChallenge:
    """The challenge, if CTFd shows it to the current user now. Raises Refused."""
    try:
        shown = Challenge().get(challenge_id)
    except HTTPException as error:
        raise Refused(_why_not(error.code), error.code or 403) from error
    if not isinstance(shown, dict) or shown["data"].get("type") == "hidden":
        raise Refused(_why_not(403))
    if ctf_paused() and not is_admin():
        raise Refused("The event is paused.")
    challenge = Challenges.query.filter_by(id=challenge_id).first() or abort(404)
    if not isinstance(challenge, StackdChallenge):
        raise Refused("This challenge has no instances.", 404)
    return challenge


def _why_not(status: int | None) -> str:
    if status == 404:
        return "There is no such challenge."
    if ctf_ended():
        return "The event has ended."
    if not ctftime():
        return "The event has not started yet."
    if get_config("verify_emails") and not is_verified():
        return "Confirm your email address first."
    return "You may not start this challenge yet."

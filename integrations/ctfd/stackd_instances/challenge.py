"""The challenge type "stackd": its form, and whether an answer is right. It never asks stackd."""

from __future__ import annotations

from CTFd.exceptions.challenges import ChallengeCreateException, ChallengeUpdateException
from CTFd.models import Flags, db
from CTFd.plugins.challenges import BaseChallenge
from CTFd.plugins.dynamic_challenges.decay import DECAY_FUNCTIONS
from CTFd.plugins.flags import BaseFlag
from CTFd.utils.user import is_admin
from flask import current_app, request
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from . import PLUGIN, access, flags, instances, recipe
from .models import StackdChallenge, StackdFlag, StackdInstance, StackdSharing

ASSETS = f"/plugins/{PLUGIN}/assets"
WHOLE = ("initial", "minimum", "decay", "stackd_extensions", "stackd_cost")
OWN = {column.name for column in StackdChallenge.__table__.columns} - {"id", "stackd_key"}
DEFAULTS = {"function": "static"} | {
    column.name: column.default.arg
    for column in StackdChallenge.__table__.columns
    if column.default is not None and column.default.is_scalar
}
"""For a form that leaves them out."""
SCORING = ("initial", "minimum", "decay", "function")
GENERATED = "stackd"
"""The type of the entry that stands for generated flags in CTFd's list."""


class StackdChallengeType(BaseChallenge):
    id = "stackd"
    name = "stackd"
    templates = {page: f"{ASSETS}/{page}.html" for page in ("create", "update", "view")}  # noqa: RUF012
    scripts = {"create": f"{ASSETS}/form.js", "update": f"{ASSETS}/form.js", "view": f"{ASSETS}/view.js"}  # noqa: RUF012
    challenge_model = StackdChallenge

    @classmethod
    def create(cls, request):
        try:
            fields = checked(request.form or request.get_json(), DEFAULTS)
        except ValueError as error:
            raise ChallengeCreateException(str(error)) from error
        if fields.get("initial") is not None:
            fields["value"] = fields["initial"]
        challenge = StackdChallenge(**fields)
        db.session.add(challenge)
        db.session.commit()
        list_flag(challenge)
        return calculate_value(challenge)

    @classmethod
    def read(cls, challenge):
        # `ctf challenge mirror` would replace "extra", where the fields of this type are, by the three of these.
        data = {name: value for name, value in super().read(challenge).items() if name not in WHOLE}
        return data | {name: getattr(challenge, name) for name in OWN if is_admin()}

    @classmethod
    def update(cls, challenge, request):
        before = {name: getattr(challenge, name) for name in (*OWN, *WHOLE, "function")}
        try:
            fields = checked(request.form or request.get_json(), before)
        except ValueError as error:
            raise ChallengeUpdateException(str(error)) from error
        for name, value in fields.items():
            setattr(challenge, name, value)
        db.session.commit()
        list_flag(challenge)
        return calculate_value(challenge)

    @classmethod
    def delete(cls, challenge):
        # The worker stops its instances: their rows do not need the challenge.
        StackdInstance.query.filter_by(challenge_key=challenge.stackd_key).update(
            {"challenge_id": None}, synchronize_session=False
        )
        super().delete(challenge)

    @classmethod
    def attempt(cls, challenge, request):
        answer = str((request.form or request.get_json()).get("submission") or "").strip()
        if not answer:
            return False, "Incorrect"
        if challenge.stackd_flag_source == recipe.FROM_CTFD:
            return super().attempt(challenge, request)
        account = access.account()
        mine = StackdFlag.query.filter_by(account=account.key, challenge_key=challenge.stackd_key)
        if flags.is_one_of(answer, [flag.hash for flag in mine], challenge.stackd_key):
            return True, "Correct"
        note_sharing(account, challenge, answer)
        return False, "Incorrect"

    @classmethod
    def solve(cls, user, team, challenge, request):
        stops, key, challenge_id = challenge.stackd_stop_when_solved, challenge.stackd_key, challenge.id
        super().solve(user, team, challenge, request)
        calculate_value(StackdChallenge.query.filter_by(id=challenge_id).first())
        if stops:
            owner = access.account().key
            instances.stop(StackdInstance.account == owner, StackdInstance.challenge_key == key, why="solved")
            current_app.stackd_worker.wake()


def checked(data, before):
    """The fields of the form with their types. Raises ValueError with a sentence for the admin."""
    scoring = {f"stackd_{name}": name for name in SCORING}  # as read() returns them
    fields = {scoring.get(name, name): value for name, value in data.items() if name != "stackd_key"}
    for name in WHOLE:
        if name in fields:
            try:
                fields[name] = int(float(fields[name])) if fields[name] not in (None, "") else None
            except (TypeError, ValueError):
                raise ValueError(f"{name}: write a number") from None
    if "stackd_stop_when_solved" in fields:
        fields["stackd_stop_when_solved"] = str(fields["stackd_stop_when_solved"]).lower() in ("true", "1", "on")
    if "scheduled_at" in fields:
        at = fields["scheduled_at"] = recipe.moment(fields["scheduled_at"])
        if not hasattr(StackdChallenge, "scheduled_at"):
            del fields["scheduled_at"]
            if at is not None:
                raise ValueError("Scheduled At: this CTFd cannot schedule challenges")
    fields = {name: value.strip() if isinstance(value, str) else value for name, value in fields.items()}
    together = {**before, **fields}
    recipe.check(together)
    if together.get("function") in DECAY_FUNCTIONS:
        missing = [name for name in ("initial", "minimum", "decay") if together.get(name) is None]
        if missing or not together["decay"]:
            raise ValueError(f"{(missing or ['decay'])[0]}: a dynamic value needs a number above zero here")
    return fields


class GeneratedFlag(BaseFlag):
    """An entry in CTFd's list of flags, so that it does not call the challenge unsolvable. No answer matches it."""

    name = GENERATED
    templates = dict.fromkeys(("create", "update"), f"{ASSETS}/flag.html")

    @staticmethod
    def compare(chal_key_obj, provided):
        return False


def list_flag(challenge):
    """Have CTFd list one entry for the generated flags of a challenge, and none if it has none."""
    StackdChallenge.query.filter_by(id=challenge.id).with_for_update().one()  # one form after the other
    listed = Flags.query.filter_by(challenge_id=challenge.id, type=GENERATED).all()
    wanted = challenge.stackd_flag_source == recipe.FROM_STACK
    if len(listed) != int(wanted):
        for flag in listed[int(wanted) :]:
            db.session.delete(flag)
        if not listed:
            content = "stackd generates a flag for each account"
            db.session.add(Flags(challenge_id=challenge.id, type=GENERATED, content=content, data=""))
        db.session.commit()


@event.listens_for(Flags, "after_insert")
def keep_one(mapper, connection, flag):
    """A challenge has one such entry, also if it is sent with a challenge as code."""
    if flag.type == GENERATED:
        table = Flags.__table__
        others = (table.c.challenge_id == flag.challenge_id) & (table.c.type == GENERATED) & (table.c.id != flag.id)
        connection.execute(table.delete().where(others))


def calculate_value(challenge):
    """Set the value of a challenge whose value decreases with its solves."""
    function = DECAY_FUNCTIONS.get(challenge.function)
    if function is not None:
        challenge.value = function(challenge)
        db.session.commit()
    return challenge


def note_sharing(account, challenge, answer):
    """If the answer is a flag that somebody else got, keep that for the organisers."""
    if request.args.get("preview") and is_admin():  # CTFd, too, ignores it for everybody else
        return
    sent = flags.hashed(challenge.stackd_key, answer)
    for flag in StackdFlag.query.filter_by(challenge_key=challenge.stackd_key, hash=sent):
        if access.has_left(flag.account, since=flag.created):
            continue
        sharing = StackdSharing(
            flag_id=flag.id, sender=account.key, sender_name=account.name, user_id=account.user_id,
            user_name=account.user_name, sent=instances.now(),
        )  # fmt: skip
        db.session.add(sharing)
        try:
            db.session.commit()
        except IntegrityError:  # sent before
            db.session.rollback()

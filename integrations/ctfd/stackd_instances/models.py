"""The plugin's tables. Times are whole seconds since 1970."""

from __future__ import annotations

import json
import secrets
from contextlib import suppress

from CTFd.models import Challenges, db
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError


def random_name() -> str:
    """A text that nobody guesses, and that is no database id: those come again after a delete."""
    return secrets.token_hex(16)


class StackdChallenge(Challenges):
    """A challenge with instances. ``stackd_key`` names it in labels and tables of the plugin."""

    __mapper_args__ = {"polymorphic_identity": "stackd"}  # noqa: RUF012 - as SQLAlchemy has it
    id = db.Column(db.Integer, db.ForeignKey("challenges.id", ondelete="CASCADE"), primary_key=True)
    stackd_key = db.Column(db.String(32), default=random_name, nullable=False)
    stackd_template = db.Column(db.String(128), default="")
    stackd_ttl = db.Column(db.String(32), default="")
    stackd_extension = db.Column(db.String(32), default="30m")
    stackd_extensions = db.Column(db.Integer, default=2)
    stackd_cost = db.Column(db.Integer, default=1)
    stackd_opens = db.Column(db.String(40), default="")
    stackd_closes = db.Column(db.String(40), default="")
    stackd_connection = db.Column(db.Text)
    stackd_stop_when_solved = db.Column(db.Boolean, default=True)
    stackd_flag_source = db.Column(db.String(16), default="stack")
    stackd_value = db.Column(db.String(64), default="FLAG")
    stackd_initial = db.Column(db.Integer)
    stackd_minimum = db.Column(db.Integer)
    stackd_decay = db.Column(db.Integer)
    stackd_function = db.Column(db.String(32), default="static")

    # CTFd 3.8 has these in its own table, 3.7 has not: with columns of its own the plugin survives an upgrade.
    initial = property(lambda self: self.stackd_initial, lambda self, value: setattr(self, "stackd_initial", value))
    minimum = property(lambda self: self.stackd_minimum, lambda self, value: setattr(self, "stackd_minimum", value))
    decay = property(lambda self: self.stackd_decay, lambda self, value: setattr(self, "stackd_decay", value))
    function = property(
        lambda self: self.stackd_function or "static", lambda self, value: setattr(self, "stackd_function", value)
    )


class StackdInstance(db.Model):
    """An account's instance of a challenge, from the press of Start until its stack is gone.

    ``todo`` is what the worker has to do next: create, extend, restart, stop, or nothing. ``slot`` and
    ``challenge_key`` are NULL once it is to stop: the unique constraints then no longer count it, and they decide
    races between two presses. With a ``challenge_key`` and no ``slot`` it has ended, and only keeps the reason:
    ``problem`` is its key, ``message`` the sentence for players, ``detail`` what organisers read; ``hopeless``: no restart
    ends it. ``recipe`` is the
    challenge as it was at the start, as JSON; ``amount`` by how much organisers extend it. ``batch``: whose job creates its
    stack; until that says what became of it, the worker does nothing else. ``unseen``: made beforehand, and the account has not
    pressed Start: it sees nothing of it, since the challenge may be hidden.
    ``organiser`` is what they did with it last, for its box; ``updated`` stackd's time of the last change that was written.
    """

    __tablename__ = "stackd_instances"
    __table_args__ = (db.UniqueConstraint("account", "slot"), db.UniqueConstraint("account", "challenge_key"))
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String(32), unique=True, nullable=False, default=random_name)
    account = db.Column(db.String(48), nullable=False)
    account_name = db.Column(db.String(128), default="")
    slot = db.Column(db.Integer)
    challenge_key = db.Column(db.String(32))
    challenge_id = db.Column(db.Integer)
    recipe = db.Column(db.Text, nullable=False)
    stack_id = db.Column(db.String(64))
    todo = db.Column(db.String(8), index=True)
    once = db.Column(db.String(32), default=random_name)
    attempts = db.Column(db.Integer, default=0, nullable=False)
    since = db.Column(db.Integer, default=0, nullable=False)
    not_before = db.Column(db.Integer, default=0, nullable=False)
    claimed_until = db.Column(db.Integer, default=0, nullable=False)
    created = db.Column(db.Integer, nullable=False)
    status = db.Column(db.String(16), default="", nullable=False)
    message = db.Column(db.String(255), default="", nullable=False)
    detail = db.Column(db.Text)
    addresses = db.Column(db.Text)
    expires = db.Column(db.Integer)
    extensions = db.Column(db.Integer, default=0, nullable=False)
    problem = db.Column(db.String(64))
    hopeless = db.Column(db.Boolean)
    phase = db.Column(db.String(16))
    phase_since = db.Column(db.Integer)
    running_since = db.Column(db.Integer)
    amount = db.Column(db.String(32))
    batch = db.Column(db.Integer)
    updated = db.Column(db.String(40))
    organiser = db.Column(db.String(16))
    organiser_at = db.Column(db.Integer)
    unseen = db.Column(db.Boolean)

    fields = property(lambda self: json.loads(self.recipe))


class StackdFlag(db.Model):
    """The hash of a flag that an account got with a stack. It stays valid for the account after the stack's end."""

    __tablename__ = "stackd_flags"
    id = db.Column(db.Integer, primary_key=True)
    account = db.Column(db.String(48), nullable=False)
    account_name = db.Column(db.String(128), default="")
    challenge_key = db.Column(db.String(32), nullable=False)
    challenge_name = db.Column(db.String(80), default="")
    stack_id = db.Column(db.String(64), nullable=False)
    hash = db.Column(db.String(64), nullable=False)
    created = db.Column(db.Integer, nullable=False)
    __table_args__ = (
        db.UniqueConstraint("stack_id", "hash"),
        db.Index("ix_stackd_flags_account", "account", "challenge_key"),
        db.Index("ix_stackd_flags_hash", "challenge_key", "hash"),
    )


class StackdSharing(db.Model):
    """Somebody has sent a flag that another account got."""

    __tablename__ = "stackd_sharing"
    __table_args__ = (db.UniqueConstraint("flag_id", "sender", "user_id"),)
    id = db.Column(db.Integer, primary_key=True)
    flag_id = db.Column(db.Integer, db.ForeignKey("stackd_flags.id", ondelete="CASCADE"), nullable=False)
    sender = db.Column(db.String(48), nullable=False)
    sender_name = db.Column(db.String(128), default="")
    user_id = db.Column(db.Integer, nullable=False)
    user_name = db.Column(db.String(128), default="")
    sent = db.Column(db.Integer, nullable=False)
    flag = db.relationship("StackdFlag", lazy="joined")


class StackdLeft(db.Model):
    """A user, by the key of the account, has left a team."""

    __tablename__ = "stackd_left"
    id = db.Column(db.Integer, primary_key=True)
    user = db.Column(db.String(48), index=True, nullable=False)
    account = db.Column(db.String(48), nullable=False)
    at = db.Column(db.Integer, nullable=False)


class StackdBatch(db.Model):
    """Instances that organisers have made beforehand. One job of stackd creates their stacks; ``once`` is its Idempotency-Key."""

    __tablename__ = "stackd_batches"
    id = db.Column(db.Integer, primary_key=True)
    once = db.Column(db.String(32), default=random_name, nullable=False)
    job = db.Column(db.String(64))
    challenge_name = db.Column(db.String(80), default="")
    total = db.Column(db.Integer, default=0, nullable=False)
    refused = db.Column(db.Integer, default=0, nullable=False)
    created = db.Column(db.Integer, nullable=False)


def create_tables():
    """Create the tables, and the columns that an earlier version of the plugin did not have; other processes may do so, too."""
    for model in (StackdChallenge, StackdInstance, StackdFlag, StackdSharing, StackdLeft, StackdBatch):
        table = model.__table__
        with suppress(DBAPIError):  # another one was faster
            table.create(db.engine, checkfirst=True)
        existing = {column["name"] for column in inspect(db.engine).get_columns(table.name)}
        for column in table.columns:
            if column.name not in existing:
                kind = column.type.compile(db.engine.dialect)
                with suppress(DBAPIError), db.engine.begin() as connection:
                    connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}"))

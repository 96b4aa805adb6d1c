"""Runs in CTFd's Python: what two callers get who come to the plugin at the same moment, and answers of stackd that come late."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from CTFd import create_app  # type: ignore[import-not-found]
from CTFd.cache import clear_config  # type: ignore[import-not-found]
from CTFd.models import Configs, Flags, db  # type: ignore[import-not-found]
from CTFd.utils import set_config  # type: ignore[import-not-found]
from sqlalchemy import event  # type: ignore[import-not-found]
from sqlalchemy.engine import Engine  # type: ignore[import-not-found]

app = create_app()
with app.app_context():
    from CTFd.plugins.stackd_instances import access, challenge, client, instances, models, settings, steps  # type: ignore[import-not-found]


def at_once(call: Callable[[], Any], statement: str) -> list[Any]:
    """What two threads get that call this; the first such statement of each waits for the other's."""
    found, both, waited = [], threading.Barrier(2), set()

    def wait(*args: Any) -> None:
        if args[2].strip().startswith(statement) and threading.get_ident() not in waited:
            waited.add(threading.get_ident())
            with suppress(threading.BrokenBarrierError):
                both.wait(2)

    def run() -> None:
        with app.app_context():
            try:
                found.append(call())
            except Exception as error:  # noqa: BLE001 - the test shows it
                found.append(repr(error))

    event.listen(Engine, "before_cursor_execute", wait)
    threads = [threading.Thread(target=run) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    event.remove(Engine, "before_cursor_execute", wait)
    return found


def name() -> dict[str, Any]:
    with app.app_context():
        Configs.query.filter_by(key=settings.SITE).delete()
        db.session.commit()
        clear_config()  # CTFd keeps it in a folder, which other tests have filled
    names = at_once(settings.site, "INSERT INTO config")
    with app.app_context():
        return {"names": names, "kept": [row.value for row in Configs.query.filter_by(key=settings.SITE)]}


def tables() -> list[Any]:
    with app.app_context():
        for model in (models.StackdLeft, models.StackdBatch):
            model.__table__.drop(db.engine)
    return at_once(models.create_tables, "CREATE TABLE")


def generated() -> dict[str, Any]:
    """Two organisers save the form of a challenge that had CTFd's own flags."""
    with app.app_context():
        one = models.StackdChallenge(name="Web", value=1, category="web", type="stackd", stackd_template="web-1")
        db.session.add(one)
        db.session.commit()
        number = one.id

    def save() -> None:
        challenge.list_flag(models.StackdChallenge.query.filter_by(id=number).one())

    answers = at_once(save, "INSERT INTO flags")
    with app.app_context():
        return {"saved": answers, "listed": Flags.query.filter_by(challenge_id=number).count()}


def row(**columns: Any) -> Any:
    """An instance that the worker has claimed."""
    fields = {"stackd_flag_source": "ctfd", "stackd_extension": "30m", "stackd_connection": "", "name": "Web"}
    times = {"created": steps.now(), "since": steps.now()}
    wanted = {
        "account": "user-1-1",
        "recipe": json.dumps(fields),
        "slot": 0,
        "challenge_key": "web",
        **times,
        **columns,
    }
    db.session.add(models.StackdInstance(**wanted))
    db.session.commit()
    return claimed() if "todo" in columns else None


def claimed() -> Any:
    return steps.claim(models.StackdInstance.query.one().id)


def extended() -> Any:
    """Two workers have the answer to one extension: the claim of one had lapsed."""
    with app.app_context():
        models.StackdInstance.query.delete()
        task = row(todo="extend", stack_id="s")
        for _ in range(2):
            steps.settle(task, client.Reply(200, {"status": "running"}))
        return models.StackdInstance.query.one().extensions


def given_up() -> Any:
    """A start is given up after a minute without an answer, and stackd has no stack of it yet."""
    with app.app_context():
        models.StackdInstance.query.delete()
        steps.settle(row(todo="create", since=steps.now() - 61), client.Reply(0))
        steps.settle(claimed(), client.Reply(200, {"stacks": []}))
        return models.StackdInstance.query.one().todo


def pressed() -> list[Any]:
    """What goes wrong while an account starts what has ended, again and again at its limit, and a worker removes what has."""
    account = access.Account(key="user-1-1", name="ada", user_id=1, user_name="ada")
    wrong, done = [], threading.Event()
    with app.app_context():
        for name, value in ((settings.STARTS, 1000), (settings.MAKES_ROOM, 1)):
            set_config(name, value)

    def remove() -> None:
        with app.app_context():
            while not done.is_set():
                try:
                    app.stackd_worker._due()
                except Exception as error:  # noqa: BLE001 - the test shows it
                    wrong.append(repr(error))

    def press(since: int) -> None:
        models.StackdInstance.query.delete()
        row(slot=None, since=since)
        row(challenge_key="other", status="running")
        again = models.StackdChallenge(name="Web", stackd_key="web", stackd_template="web-1")
        assert instances.start(account, again).todo == "create"

    with app.app_context():
        worker = threading.Thread(target=remove)
        worker.start()
        for turn in range(200):
            try:
                press(steps.now() * (turn % 2))  # what is kept, and what is not
            except Exception as error:  # noqa: BLE001 - the test shows it
                wrong.append(repr(error))
                db.session.rollback()
        done.set()
        worker.join()
    return wrong


json.dump({each: globals()[each]() for each in sys.argv[1:]}, sys.stdout)

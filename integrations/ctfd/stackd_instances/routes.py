"""The players' routes and the page "My instances". Every answer is JSON of CTFd's shape, errors too."""

from __future__ import annotations

from CTFd.models import db
from CTFd.utils.decorators import authed_only
from CTFd.utils.user import authed, get_locale
from flask import Blueprint, current_app, jsonify, render_template, request
from werkzeug.exceptions import HTTPException

from . import PLUGIN, access, instances
from .access import Refused
from .models import StackdChallenge, StackdInstance

PAGE = "stackd/instances"
API = "/api/v1/stackd"
NONE = {
    "name": "", "status": "none", "pending": False, "doing": None, "problem": None, "addresses": [],
    "seconds_left": None, "extension": "", "extension_seconds": 0, "extensions_left": 0,
}  # fmt: skip
blueprint = Blueprint(PLUGIN, __name__)


@blueprint.errorhandler(Refused)
def refused(error):
    return answer_error(str(error), error.status, error.code, **error.values)


@blueprint.errorhandler(HTTPException)
def http_error(error):
    known = {
        401: ("Log in first.", "login"),
        403: ("Your session has expired. Reload the page.", "session"),
        404: ("There is no such page.", "not_found"),
    }
    sentence, code = known.get(error.code, ("That did not work. Reload the page.", "crashed"))
    return answer_error(sentence, error.code, code)


@blueprint.errorhandler(Exception)
def crashed(error):
    current_app.logger.error("stackd_instances", exc_info=error)
    db.session.rollback()
    return answer_error("That did not work. Please try again in a minute.", 500, "crashed")


def answer_error(sentence, status, code, **values):
    return jsonify({"success": False, "errors": {"": [sentence]}, "code": code, "values": values}), status


def body():
    """The JSON object of the request; without one, an empty one. Raises Refused for other JSON."""
    wanted = request.get_json(silent=True)
    if not isinstance(wanted, dict | None):
        raise Refused("Send a JSON object.", 400)
    return wanted or {}


def answer(row, account, challenge=None, **said):
    data = {**NONE, "challenge_id": challenge and challenge.id} if row is None else instances.shown(row)
    more = instances.allowance(account, challenge)
    if data["status"] != "none":
        more["others"] = []
    elif challenge is not None:
        more |= access.closed(challenge)
    return jsonify({"success": True, "data": {**data, **more, **said, "locale": str(get_locale() or "")}})


@blueprint.route(f"/{PAGE}", methods=["GET"])
@authed_only
def page():
    try:
        account = access.account()
        mine, more, reason = listed(account), instances.allowance(account), ""
    except Refused as error:
        mine, more, reason = [], {}, str(error)
    return render_template(
        f"plugins/{PLUGIN}/templates/mine.html", instances=mine, reason=reason, locale=str(get_locale() or ""), **more
    )


def listed(account):
    return [instances.shown(row) for row in instances.of_account(account)]


@blueprint.route(f"{API}/instances", methods=["GET"])
def mine():
    account = access.account()
    more = instances.allowance(account)
    own = listed(account)
    ids = access.listed() | {each["challenge_id"] for each in own}
    said = instances.messages(account, StackdChallenge.query.filter(StackdChallenge.id.in_(ids)).all())
    return jsonify({"success": True, "data": {"instances": own, "messages": said, **more}})


@blueprint.route(f"{API}/challenges/<int:challenge_id>", methods=["GET"])
def look(challenge_id):
    if not authed():
        raise Refused("Log in to start an instance.", 401, "login")
    account = access.account()
    row = instances.of_challenge(account, challenge_id)
    is_known = row is not None or challenge_id in access.listed()
    challenge = StackdChallenge.query.filter_by(id=challenge_id).first() if is_known else None
    said = {"messages": instances.messages(account, [challenge] if challenge is not None else [])}
    each_alone = row is not None or challenge is None or access.closed(challenge)
    shared = None if each_alone else instances.shared(challenge)
    if shared is None:
        return answer(row, account, challenge, **said)
    access.startable(challenge_id)  # the address of a hidden one is hidden, too
    return jsonify({"success": True, "data": NONE | shared | said | {"locale": str(get_locale() or "")}})


@blueprint.route(f"{API}/challenges/<int:challenge_id>", methods=["POST"])
def start(challenge_id):
    account = access.account()
    wanted = body()
    challenge = access.startable(challenge_id)
    if why := access.closed(challenge):
        raise Refused(why["problem"]["player_message"], 409, why["problem"]["key"])
    if instances.shared(challenge) is not None:
        raise Refused("Everybody shares the instance of this challenge.", 409, "shared")
    if not access.has_attempts(challenge):
        raise Refused("You have no attempts left for this challenge.", 403, "no_attempts")
    row = instances.start(account, challenge, str(wanted.get("instead_of") or ""))
    current_app.stackd_worker.wake()
    return answer(row, account, challenge)


@blueprint.route(f"{API}/instances/<name>", methods=["GET"])
def look_at(name):
    account = access.account()
    return answer(instances.named(account, name), account)


@blueprint.route(f"{API}/instances/<name>/<any(extend, restart):what>", methods=["POST"])
def extend_or_restart(name, what):
    account = access.account()
    row = instances.named(account, name)
    act = instances.extend if what == "extend" else instances.restart
    act(row)
    current_app.stackd_worker.wake()
    return answer(row, account)


@blueprint.route(f"{API}/instances/<name>", methods=["DELETE"])
def stop(name):
    account = access.account()
    instances.stop(StackdInstance.account == account.key, StackdInstance.name == name)
    current_app.stackd_worker.wake()
    return answer(None, account)

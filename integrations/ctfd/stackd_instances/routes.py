"""The players' routes and the page "My instances". Every answer is JSON of CTFd's shape, errors too."""

from __future__ import annotations

from CTFd.models import db
from CTFd.utils.decorators import authed_only
from CTFd.utils.user import authed
from flask import Blueprint, current_app, jsonify, render_template
from werkzeug.exceptions import HTTPException

from . import PLUGIN, access, instances
from .access import Refused
from .models import StackdInstance

PAGE = "stackd/instances"
API = "/api/v1/stackd"
NONE = {"name": "", "status": "none", "addresses": [], "seconds_left": None, "extension": "", "extensions_left": 0}
blueprint = Blueprint(PLUGIN, __name__)


@blueprint.errorhandler(Refused)
def refused(error):
    return answer_error(str(error), error.status)


@blueprint.errorhandler(HTTPException)
def http_error(error):
    sentences = {401: "Log in first.", 403: "Your session has expired. Reload the page.", 404: "There is no such page."}
    return answer_error(sentences.get(error.code, "That did not work. Reload the page."), error.code)


@blueprint.errorhandler(Exception)
def crashed(error):
    current_app.logger.error("stackd_instances", exc_info=error)
    db.session.rollback()
    return answer_error("That did not work. Please try again in a minute.", 500)


def answer_error(sentence, status):
    return jsonify({"success": False, "errors": {"": [sentence]}}), status


def answer(row):
    data = {**NONE, "message": ""} if row is None else instances.shown(row)
    return jsonify({"success": True, "data": data})


@blueprint.route(f"/{PAGE}", methods=["GET"])
@authed_only
def page():
    try:
        mine = [instances.shown(row) for row in instances.of_account(access.account())]
    except Refused as error:
        return render_template(f"plugins/{PLUGIN}/templates/mine.html", instances=[], reason=str(error))
    return render_template(f"plugins/{PLUGIN}/templates/mine.html", instances=mine, reason="")


@blueprint.route(f"{API}/challenges/<int:challenge_id>", methods=["GET"])
def look(challenge_id):
    if not authed():
        raise Refused("Log in to start an instance.", 401)
    return answer(instances.of_challenge(access.account(), challenge_id))


@blueprint.route(f"{API}/challenges/<int:challenge_id>", methods=["POST"])
def start(challenge_id):
    account = access.account()
    row = instances.start(account, access.startable(challenge_id))
    current_app.stackd_worker.wake()
    return answer(row)


@blueprint.route(f"{API}/instances/<name>", methods=["GET"])
def look_at(name):
    return answer(instances.named(access.account(), name))


@blueprint.route(f"{API}/instances/<name>/extend", methods=["POST"])
def extend(name):
    row = instances.named(access.account(), name)
    instances.extend(row)
    current_app.stackd_worker.wake()
    return answer(row)


@blueprint.route(f"{API}/instances/<name>/restart", methods=["POST"])
def restart(name):
    account = access.account()
    row = instances.named(account, name)
    instances.restart(account, row)
    current_app.stackd_worker.wake()
    return answer(row)


@blueprint.route(f"{API}/instances/<name>", methods=["DELETE"])
def stop(name):
    account = access.account()
    instances.stop(StackdInstance.account == account.key, StackdInstance.name == name)
    current_app.stackd_worker.wake()
    return answer(None)

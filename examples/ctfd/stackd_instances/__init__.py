"""A CTFd plugin: a stack for each player (or team) and challenge, with a flag of its own.

Copy this folder into CTFd/plugins, and set STACKD_URL, STACKD_API_KEY, STACKD_PODS (a folder) and FLAG_SECRET. A
challenge's flag of the type `stackd` accepts the account's own flag. When an account submits it, its stack is deleted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from CTFd.models import Challenges
from CTFd.plugins.flags import FLAG_CLASSES, BaseFlag
from CTFd.utils.decorators import authed_only, during_ctf_time_only, ratelimit
from CTFd.utils.user import get_current_user
from flask import Blueprint, Flask, jsonify

from stackd.client import ApiError, Client, ClientError

from .instances import Instances, NoInstance, refusal

blueprint = Blueprint("stackd_instances", __name__)


def instances() -> Instances:
    """The instances that the environment variables configure."""
    client = Client(os.environ["STACKD_URL"], os.environ["STACKD_API_KEY"])
    pods, secret = Path(os.environ["STACKD_PODS"]), os.environ["FLAG_SECRET"].encode()
    return Instances(client=client, pods=pods, secret=secret)


class AccountFlag(BaseFlag):
    """The account's own flag; the content that CTFd has saved for the flag is ignored."""

    name = "stackd"
    templates: ClassVar = {
        "create": "/plugins/flags/assets/static/create.html",
        "update": "/plugins/flags/assets/static/edit.html",
    }

    @staticmethod
    def compare(saved: Any, provided: str) -> bool:
        """Whether ``provided`` is the flag of the current account; if so, have its stack deleted."""
        account, known = get_current_user().account_id, instances()
        if not known.is_flag(account, saved.challenge_id, provided):
            return False
        with suppress(ClientError):  # the solve counts even if stackd does not answer; the stack then expires
            known.stop(account, saved.challenge_id)
        return True


@blueprint.route("/api/v1/stackd/<int:challenge_id>", methods=["GET"])
@authed_only
def look(challenge_id: int) -> Any:
    """The state of the account's instance."""
    return answer(lambda: instances().look(account_for(challenge_id), challenge_id))


@blueprint.route("/api/v1/stackd/<int:challenge_id>", methods=["POST"])
@authed_only
@during_ctf_time_only
@ratelimit(method="POST", limit=10, interval=60)
def start(challenge_id: int) -> Any:
    """The button "start"."""
    return answer(lambda: instances().start(account_for(challenge_id), challenge_id))


@blueprint.route("/api/v1/stackd/<int:challenge_id>", methods=["PATCH"])
@authed_only
@during_ctf_time_only
@ratelimit(method="PATCH", limit=10, interval=60)
def extend(challenge_id: int) -> Any:
    """The button "ten minutes more"."""
    return answer(lambda: instances().extend(account_for(challenge_id), challenge_id))


@blueprint.route("/api/v1/stackd/<int:challenge_id>", methods=["DELETE"])
@authed_only
def stop(challenge_id: int) -> Any:
    """The button "stop"."""
    return answer(lambda: instances().stop(account_for(challenge_id), challenge_id))


def account_for(challenge_id: int) -> int:
    """The player's account, or the team's. Raises NoInstance for a challenge that players do not see."""
    challenge = Challenges.query.filter_by(id=challenge_id).first()
    if challenge is None or challenge.state in ("hidden", "locked"):
        raise NoInstance("there is no such challenge")
    account: int | None = get_current_user().account_id
    if account is None:
        raise NoInstance("join a team first", 403)
    return account


def answer(work: Callable[[], Any]) -> Any:
    """Return the result or the error of ``work`` in the form of CTFd's own API."""
    try:
        return jsonify({"success": True, "data": work()})
    except NoInstance as error:
        text, status = str(error), error.status
    except ApiError as error:
        text, status = refusal(error)
    except ClientError:
        text, status = "the instances cannot be reached now; try again soon", 503
    return jsonify({"success": False, "errors": {"": [text]}}), status


def load(app: Flask) -> None:
    """Register the flag type and the routes; CTFd calls this."""
    FLAG_CLASSES[AccountFlag.name] = AccountFlag
    app.register_blueprint(blueprint)

"""The organisers' page and its routes: instances, flag sharing and settings. Their helpers use some of them."""

from __future__ import annotations

import functools
from collections import Counter

from CTFd.cache import cache
from CTFd.models import Users, db
from CTFd.utils import set_config
from CTFd.utils.user import is_admin
from flask import Blueprint, current_app, jsonify, redirect, render_template, request, url_for

from . import PLUGIN, access, batches, instances, recipe, routes, settings
from .access import Refused
from .models import StackdChallenge, StackdFlag, StackdInstance, StackdSharing
from .steps import PROBLEM

PAGE = "/admin/stackd"
API = f"{routes.API}/admin"
PER_PAGE = 50
blueprint = Blueprint(f"{PLUGIN}_admin", __name__)
for kind, handler in ((Refused, routes.refused), (Exception, routes.crashed)):
    blueprint.register_error_handler(kind, handler)
blueprint.register_error_handler(routes.HTTPException, routes.http_error)


def for_admins(view, helpers=False):
    @functools.wraps(view)
    def checked(*args, **kwargs):
        if not (is_admin() or (helpers and access.helps())):
            raise Refused("Only organisers may do this.", 403, "organisers_only")
        return view(*args, **kwargs)

    return checked


for_helpers = functools.partial(for_admins, helpers=True)


@blueprint.route(PAGE, methods=["GET"])
def page():
    template = f"plugins/{PLUGIN}/templates/admin.html"
    if not is_admin():
        if access.helps():
            return render_template(template, organises=False)
        return redirect(url_for("auth.login", next=request.full_path))
    return render_template(
        template,
        organises=True,
        helpers="\n".join(user.name for user in access.helpers()),
        url=settings.text(settings.URL),
        has_key=bool(settings.text(settings.KEY)),
        fixed={name: settings.fixed(name) for name in settings.ENVIRONMENT},
        numbers={name: (settings.number(name), *limits) for name, (_, *limits) in settings.NUMBERS.items()},
    )


BRIEF = ("id", "name", "account", "account_name", "challenge_key", "slot", "todo", "status", "problem")
"""The columns that decide whether a row is listed."""


def state(row):
    """The status of an instance, as organisers filter by it."""
    if row.slot is None:
        return "stopping" if row.todo == "stop" else "ended"
    return instances.status(row)


def chosen(wanted):
    """The rows that match ``account`` (a part of the name, or the key), ``challenge`` (its key) and ``status``, the newest
    first, and those that match all but the status.
    """
    query = db.session.query(*(getattr(StackdInstance, name) for name in BRIEF))
    account, challenge = (str(wanted.get(name) or "").strip() for name in ("account", "challenge"))
    if account:
        text = account.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        named = StackdInstance.account_name.ilike(f"%{text}%", escape="\\")
        query = query.filter(named | (StackdInstance.account == account))
    if challenge:
        query = query.filter(StackdInstance.recipe.contains(f'"stackd_key": "{challenge}"', autoescape=True))
    rows = query.order_by(StackdInstance.id.desc()).all()
    status = str(wanted.get("status") or "")
    return [row for row in rows if not status or state(row) == status], rows


@blueprint.route(f"{API}/instances", methods=["GET"])
@for_helpers
def listing():
    """A page of instances, and counts of all that match account and challenge."""
    rows, of_any_status = chosen(request.args)
    failures = Counter(row.problem or "failed" for row in of_any_status if state(row) == "failed")
    organises = is_admin()
    number, pages = paged(len(rows))
    ids = [row.id for row in rows[(number - 1) * PER_PAGE : number * PER_PAGE]]
    found = StackdInstance.query.filter(StackdInstance.id.in_(ids)).order_by(StackdInstance.id.desc()).all()
    spent, budget = instances.spending({row.account for row in found}), settings.number(settings.COST)
    data = {
        "instances": [{**listed(row, organises), "spent": spent.get(row.account), "budget": budget} for row in found],
        "page": number, "pages": pages, "total": len(rows),
        "counts": Counter(map(state, of_any_status)), "top_failure": max(failures, key=failures.get, default=""),
        "challenges": [[one.stackd_key, one.name] for one in StackdChallenge.query.order_by(StackdChallenge.name)],
        "last_refusal": " ".join(filter(None, (about_the_end(), cache.get(PROBLEM)))), "batches": batches.listed(),
    }  # fmt: skip
    return jsonify({"success": True, "data": data})


def about_the_end():
    """That the event is over, as long as its instances can still be kept; otherwise empty."""
    end, stops = access.end_of_event()
    minutes = -(-(stops - instances.now()) // 60)
    if not end <= instances.now() < stops:
        return ""
    keep = "To keep them, correct the end of the event in CTFd's settings."
    return f"The event is over. The instances of players are stopped in {minutes} minutes. {keep}"


def paged(total):
    """The number of the page that the request asks for, as far as there are so many, and how many there are."""
    pages = max(1, -(-total // PER_PAGE))
    return min(max(1, request.args.get("page", 1, type=int)), pages), pages


def listed(row, organises):
    """What organisers see of an instance; helpers have no links to pages that they may not open."""
    kind, number, _ = row.account.split("-")
    return {
        **instances.shown(row),
        "status": state(row),
        "account": row.account_name,
        "account_key": row.account,
        "account_page": f"/admin/{kind}s/{number}" if organises else "",
        "kind": kind,
        "challenge_key": row.fields["stackd_key"],
        "challenge_page": f"/admin/challenges/{row.challenge_id}" if row.challenge_id and organises else "",
        "age": max(0, instances.now() - row.created),
        "stack_id": row.stack_id or "",
        "stack_page": f"{settings.text(settings.URL).rstrip('/')}/dashboard#stack={row.stack_id}"
        if row.stack_id and organises
        else "",
        "detail": row.detail or "",
    }


def texts(wanted, name):
    """The list of texts that the request has under this name. Raises Refused for anything else."""
    found = wanted.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise Refused(f"{name}: send a list of texts.", 400)
    return found


@blueprint.route(f"{API}/instances", methods=["POST"])
@for_helpers
def act():
    """``{"action": "stop", "extend" or "restart"}`` for ``names``, or for all that match ``filter``. ``by``: how much longer.

    A restart takes the newest version of the template.
    """
    wanted = routes.body()
    action = wanted.get("action")
    names = texts(wanted, "names")
    if "filter" in wanted:
        if not isinstance(wanted["filter"], dict):
            raise Refused("filter: send a JSON object.", 400)
        names = [row.name for row in chosen(wanted["filter"])[0]]
    amount = str(wanted.get("by") or "")
    if action not in ("stop", "extend", "restart"):
        raise Refused("There is no such action.", 400)
    if action == "stop" and not is_admin():
        raise Refused("Only organisers may do this.", 403, "organisers_only")
    if action == "extend" and amount:
        try:
            recipe.seconds(amount, "Extend by")
        except ValueError as error:
            raise Refused(str(error), 400) from error
    count = sum(_act(names[first : first + 500], action, amount) for first in range(0, len(names), 500))
    current_app.stackd_worker.wake()
    return jsonify({"success": True, "data": {"count": count}})


def _act(names, action, amount):
    these = StackdInstance.name.in_(names)
    if action == "stop":
        return instances.stop(these, why="organiser")
    rows = StackdInstance.query.filter(these, StackdInstance.slot.isnot(None)).all()
    # The organisers' extensions do not count as the player's own, nor their restarts as starts.
    todo, more = ("grant", {"amount": amount or None}) if action == "extend" else ("restart", {})
    more |= {"organiser": action, "organiser_at": instances.now()}
    if action == "restart":
        instances.take_challenge(rows)
    return sum(instances.ask(row, todo, StackdInstance.slot.isnot(None), **more) for row in rows)


@blueprint.route(f"{API}/batches", methods=["POST"])
@for_admins
def make():
    """Make instances of a ``challenge`` beforehand, for the ``accounts`` of these names, or all; ``ttl``: how long they live."""
    wanted = routes.body()
    challenge = StackdChallenge.query.filter_by(stackd_key=str(wanted.get("challenge") or "")).first()
    if challenge is None:
        raise Refused("Choose a challenge.", 400)
    try:
        ttl = recipe.length(wanted.get("ttl") or "")
        if ttl:
            recipe.seconds(ttl, "Time to live")
    except ValueError as error:
        raise Refused(str(error), 400) from error
    names = [name.strip() for name in texts(wanted, "accounts") if name.strip()]
    count, skipped = batches.begin(challenge, access.players(names), ttl)
    current_app.stackd_worker.wake()
    return jsonify({"success": True, "data": {"count": count, "skipped": skipped}})


@blueprint.route(f"{API}/sharing", methods=["GET"])
@for_admins
def sharing():
    """A page of the flags that somebody sent who had not got them."""
    query = StackdSharing.query.order_by(StackdSharing.id.desc())
    total = query.count()
    number, pages = paged(total)
    rows = [
        {
            "sender": one.sender_name, "user": one.user_name, "user_page": f"/admin/users/{one.user_id}",
            "owner": one.flag.account_name, "challenge": one.flag.challenge_name, "sent": one.sent,
            "got": one.flag.created,
        }
        for one in query.offset((number - 1) * PER_PAGE).limit(PER_PAGE)
    ]  # fmt: skip
    return jsonify({"success": True, "data": {"rows": rows, "page": number, "pages": pages, "total": total}})


def after_reset(response):
    """What CTFd's Reset has removed takes its instances, flags and entries of the report along."""
    if request.endpoint == "admin.reset" and request.method == "POST" and response.status_code == 302:
        if request.form.get("challenges") or request.form.get("accounts"):
            instances.stop(why="organiser")
            StackdSharing.query.delete()
            StackdFlag.query.delete()
        elif request.form.get("submissions"):
            StackdSharing.query.delete()
        db.session.commit()
        current_app.stackd_worker.wake()
    return response


@blueprint.route(f"{API}/settings", methods=["PATCH"])
@for_admins
def change():
    wanted, new = routes.body(), {}
    if settings.HELPERS in wanted:
        lines = map(str.strip, str(wanted[settings.HELPERS] or "").splitlines())
        new[settings.HELPERS] = " ".join(map(access.key_of, access.named(Users, [line for line in lines if line])))
    for name, (_, least, most) in settings.NUMBERS.items():
        if name in wanted:
            if not str(wanted[name]).isdecimal() or not least <= int(wanted[name]) <= most:
                raise Refused(f"Write a number from {least} to {most}.", 400)
            new[name] = int(wanted[name])
    for name in settings.ENVIRONMENT:
        if value := str(wanted.get(name) or "").strip():
            if settings.fixed(name):
                raise Refused(settings.fixed(name), 400)
            new[name] = value
    if not new.get(settings.URL, "http://").startswith(("http://", "https://")):
        raise Refused("The address begins with http:// or https://.", 400)
    for name, value in new.items():
        set_config(name, value)
    return jsonify({"success": True, "data": None})

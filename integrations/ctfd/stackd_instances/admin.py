"""The organisers' page and its routes: instances, flag sharing, settings, and the test of the connection."""

from __future__ import annotations

import functools
from datetime import UTC, datetime

from CTFd.cache import cache
from CTFd.models import db
from CTFd.utils import set_config
from CTFd.utils.decorators import admins_only
from CTFd.utils.user import is_admin
from flask import Blueprint, current_app, jsonify, render_template, request

from . import PLUGIN, answers, instances, recipe, routes, settings
from .access import Refused
from .models import StackdChallenge, StackdInstance, StackdSharing
from .worker import PROBLEM

PAGE = "/admin/stackd"
API = f"{routes.API}/admin"
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: test}
spec:
  containers:
    - name: test
      image: nginx:stable
      ports: [{containerPort: 80}]
      resources: {limits: {cpu: 10m, memory: 16Mi}}
"""
TEST = {"stackd_pod_spec": POD, "stackd_ports": "80/tcp", "name": "a small pod"}
blueprint = Blueprint(f"{PLUGIN}_admin", __name__)
for kind, handler in ((Refused, routes.refused), (Exception, routes.crashed)):
    blueprint.register_error_handler(kind, handler)
blueprint.register_error_handler(routes.HTTPException, routes.http_error)


@blueprint.app_template_filter("stackd_time")
def as_time(seconds):
    """``2026-11-28 09:30`` in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def for_admins(view):
    @functools.wraps(view)
    def checked(*args, **kwargs):
        if not is_admin():
            raise Refused("Only organisers may do this.")
        return view(*args, **kwargs)

    return checked


@blueprint.route(PAGE, methods=["GET"])
@admins_only
def page():
    rows = StackdInstance.query.order_by(StackdInstance.id.desc()).all()
    return render_template(
        f"plugins/{PLUGIN}/templates/admin.html",
        instances=[listed(row) for row in rows],
        sharing=StackdSharing.query.order_by(StackdSharing.id.desc()).limit(1000).all(),
        problem=cache.get(PROBLEM) or "",
        url=settings.text(settings.URL),
        has_key=bool(settings.text(settings.KEY)),
        fixed={name: settings.fixed(name) for name in settings.ENVIRONMENT},
        numbers={name: settings.number(name) for name in settings.NUMBERS},
    )


def listed(row):
    """What organisers see of an instance."""
    seen = instances.shown(row)
    if row.challenge_key is None or row.slot is None:
        seen["status"] = "stopping" if row.challenge_key is None else "failed to start"
    return {
        **seen,
        "account": row.account_name,
        "kind": row.account.partition("-")[0],
        "age": recipe.duration(max(0, instances.now() - row.created)),
        "remaining": "" if row.expires is None else recipe.duration(max(0, row.expires - instances.now())),
        "stack_id": row.stack_id or "",
        "detail": row.detail or "",
    }


@blueprint.route(f"{API}/instances", methods=["POST"])
@for_admins
def act():
    """``{"action": "stop" or "extend", "names": […]}``"""
    wanted = request.get_json()
    chosen = [StackdInstance.name.in_([str(name) for name in wanted.get("names") or []])]
    if wanted.get("action") == "stop":
        count = instances.stop(*chosen)
    elif wanted.get("action") == "extend":
        rows = StackdInstance.query.filter(*chosen, StackdInstance.slot.isnot(None)).all()
        # The organisers' extensions do not count as the player's own.
        count = sum(instances.ask(row, "grant", StackdInstance.slot.isnot(None)) for row in rows)
    else:
        raise Refused("There is no such action.", 400)
    current_app.stackd_worker.wake()
    return jsonify({"success": True, "data": {"count": count}})


@blueprint.route(f"{API}/settings", methods=["PATCH"])
@for_admins
def change():
    wanted = request.get_json()
    for name in settings.NUMBERS:
        if name in wanted:
            if not str(wanted[name]).isdecimal() or not 1 <= int(wanted[name]) <= 1000:
                raise Refused("Write a number from 1 to 1000.", 400)
            set_config(name, int(wanted[name]))
    for name in settings.ENVIRONMENT:
        if wanted.get(name) and settings.fixed(name):
            raise Refused(settings.fixed(name), 400)
    url = str(wanted.get(settings.URL) or "").strip()
    if url:
        if not url.startswith(("http://", "https://")):
            raise Refused("The address begins with http:// or https://.", 400)
        set_config(settings.URL, url)
    if wanted.get(settings.KEY):
        set_config(settings.KEY, str(wanted[settings.KEY]).strip())
    return jsonify({"success": True, "data": None})


@blueprint.route(f"{API}/templates", methods=["GET"])
@for_admins
def templates():
    """The templates that the key may use, for the challenge's form."""
    stackd = settings.stackd()
    db.session.remove()
    reply = stackd.call("GET", "/templates")
    if not reply.ok:
        raise Refused(answers.diagnosis(reply.status, reply.detail, reply.code), 502)
    found = [
        {"name": one.get("name"), "generates": one.get("generates") or []} for one in reply.data.get("templates") or []
    ]
    return jsonify({"success": True, "data": found})


@blueprint.route(f"{API}/test", methods=["POST"])
@for_admins
def test():
    """Try the connection, and a create of each challenge without creating anything."""
    recipes = {}
    for challenge in StackdChallenge.query.all():
        fields = instances.fields_of(challenge)
        recipes[tuple(fields[f"stackd_{name}"] for name in ("template", "pod_spec", "ports", "ttl"))] = fields
    site, stackd = settings.site(), settings.stackd()
    db.session.remove()
    reply = stackd.call("GET", "/templates")
    generates = {one.get("name"): one.get("generates") or [] for one in reply.data.get("templates") or []}
    text = f"{len(generates)} templates" if reply.ok else answers.diagnosis(reply.status, reply.detail, reply.code)
    if not settings.text(settings.URL):
        text = settings.fixed(settings.URL) or "Address: there is none yet"
    lines = [{"ok": reply.ok, "text": text}]
    if reply.ok:
        if not recipes and stackd.call("GET", "/key").data.get("pod_specs", True):
            recipes[()] = TEST
        lines += [tried(stackd, site, fields, generates) for fields in recipes.values()]
    return jsonify({"success": True, "data": lines})


def tried(stackd, site, fields, generates):
    """A dry run of one challenge's create."""
    labels = {"ctfd": site, "player": "test", "challenge": "test", "instance": "test", "player_challenge": "test"}
    template, value = fields.get("stackd_template"), fields.get("stackd_value")
    if template and template not in generates:
        return {"ok": False, "text": f"{fields['name']}: Templates: there is no template {template} for this key"}
    if template and fields["stackd_flag_source"] == recipe.FROM_STACK and value not in generates[template]:
        return {"ok": False, "text": f"{fields['name']}: Templates: {template} generates no value {value}"}
    reply = stackd.call("POST", "/stacks", recipe.body(fields, labels), query=[("dry_run", "true")])
    why = "would start" if reply.ok else answers.diagnosis(reply.status, reply.detail, reply.code)
    return {"ok": reply.ok, "text": f"{fields['name']}: {why}"}

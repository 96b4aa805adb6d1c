"""What organisers see of stackd itself: its templates and pools, what still fits, and a test of each challenge.

These routes ask stackd while the browser waits, for five seconds each at most.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from CTFd.cache import cache
from CTFd.models import db
from flask import jsonify, request

from . import answers, challenge, instances, recipe, routes, settings
from .access import Refused
from .admin import API, blueprint, chosen, for_admins, for_helpers, state
from .models import StackdChallenge

FRESH = 5
"""Seconds for which what stackd has answered is shown to others, too."""
AT_ONCE = 4
TESTED, TESTED_FRESH = "stackd_tested", 60
SHOWN = (
    "name", "title", "generates", "pool", "ready", "starting", "failing", "reason", "ttl", "stacks", "shared", "checked",
    "requested_cpu_milli", "requested_memory_bytes", "source",
)  # fmt: skip


def asked(stackd, method, path, body=None):
    """The answer to a request of the page. Raises Refused with what is wrong."""
    reply = stackd.call(method, path, body)
    if not reply.ok:
        raise Refused(answers.diagnosis(reply.status, reply.detail, reply.code), 502)
    return reply.data


@blueprint.route(f"{API}/templates", methods=["GET"])
@for_helpers
def templates():
    """The templates that the key may use, and whether it may write others."""
    data = cache.get("stackd_templates")
    if data is None or request.args.get("now"):
        stackd = settings.stackd()
        db.session.remove()
        found = asked(stackd, "GET", "/templates").get("templates") or []
        writes = bool(stackd.call("GET", "/key").data.get("templates_write"))
        fits = stackd.call("GET", "/capacity").data
        data = {
            "templates": [{name: one.get(name) for name in SHOWN} for one in found], "may_write": writes,
            "fits": fits.get("fits"), "limited_by": fits.get("limited_by") or "",
        }  # fmt: skip
        cache.set("stackd_templates", data, timeout=FRESH)
    return jsonify({"success": True, "data": data})


@blueprint.route(f"{API}/templates/<name>", methods=["PUT"])
@for_admins
def write_template(name):
    """Send a template's YAML to stackd; its mistakes come back with their lines."""
    text = str(routes.body().get("text") or "")
    stackd = settings.stackd()
    db.session.remove()
    reply = stackd.call("PUT", f"/templates/{quote(name, safe='')}", text, kind="application/yaml")
    cache.delete("stackd_templates")
    if not reply.ok:
        mistakes = reply.data.get("reasons") or []
        lines = [f"line {one['line']}: {one['text']}" if one.get("line") else one["text"] for one in mistakes]
        raise Refused("\n".join(lines) or answers.diagnosis(reply.status, reply.detail, reply.code), 400)
    return jsonify({"success": True, "data": {"name": name}})


@blueprint.route(f"{API}/check", methods=["POST"])
@for_admins
def check():
    """What would go wrong with the form of a challenge, in sentences."""
    try:
        form = challenge.checked(routes.body(), challenge.DEFAULTS)
        fields = {**challenge.DEFAULTS, **form}
    except ValueError as error:
        return jsonify({"success": True, "data": [str(error)]})
    site, stackd = settings.site(), settings.stackd()
    db.session.remove()
    found = {one["name"]: one for one in asked(stackd, "GET", "/templates").get("templates") or []}
    ok, why = tried(stackd, site, fields, found)
    warnings = [] if ok else [why]
    if recipe.over(fields.get("stackd_closes"), instances.now()):
        warnings.append("Closes: that is over, so its instances are stopped at once")
    return jsonify({"success": True, "data": warnings})


@blueprint.route(f"{API}/test", methods=["GET", "POST"])
@for_helpers
def test():
    """Try the connection, and a create of each challenge without creating anything; a GET shows what was tried a short time
    ago, too. A challenge is well if it would start, none of its instances has failed, and its template's last check is good.
    """
    lines = cache.get(TESTED) if request.method == "GET" else None
    if lines is None:
        lines = tests()
        cache.set(TESTED, lines, timeout=TESTED_FRESH)
    rows = [row for row in chosen({})[0] if row.slot is not None]
    return jsonify({"success": True, "data": [lines[0], *(with_failures(line, rows) for line in lines[1:])]})


def tests():
    """What stackd says about itself, and about each challenge."""
    recipes = [instances.fields_of(one) for one in StackdChallenge.query.order_by(StackdChallenge.name)]
    site, stackd = settings.site(), settings.stackd()
    if not settings.text(settings.URL):
        return [{"ok": False, "text": settings.fixed(settings.URL) or "Address: there is none yet"}]
    db.session.remove()
    reply = stackd.call("GET", "/templates")
    found = {one["name"]: one for one in reply.data.get("templates") or []} if reply.ok else None
    text = answers.diagnosis(reply.status, reply.detail, reply.code) if found is None else f"{len(found)} templates"
    lines = [{"ok": reply.ok, "text": text}]
    if not recipes:  # the first template instead
        other = {"stackd_flag_source": recipe.FROM_CTFD}
        recipes = [{"name": f"the template {name}", "stackd_template": name, **other} for name in found or ()][:1]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tries = pool.map(lambda fields: tried(stackd, site, fields, found), recipes)
        for (ok, why), fields in zip(tries, recipes, strict=True):
            template = (found or {}).get(fields["stackd_template"]) or {}
            about = {name: template.get(name) for name in ("checked", "pool", "ready", "reason")}
            lines.append({"ok": ok, "text": why, "name": fields["name"], "key": fields.get("stackd_key"), **about})
    return lines


def with_failures(line, rows):
    """The line of a challenge, and how many of its instances do not work, whatever a new one would do."""
    mine = [row for row in rows if row.challenge_key == line["key"]]
    failed = [row.problem or "failed" for row in mine if state(row) == "failed"]
    healthy = (line["checked"] or {}).get("healthy") is not False
    more = {"failed": len(failed), "instances": len(mine), "most": max(failed, key=failed.count, default="")}
    return {**line, "starts": line["ok"], "ok": line["ok"] and healthy and not failed, **more}


def tried(stackd, site, fields, found):
    """Whether a challenge would start, by a dry run of its create, and why not; ``found`` are the templates, None if stackd
    does not say."""
    template, value = fields["stackd_template"], fields.get("stackd_value")
    if found is None:
        return False, "not tried"
    if template not in found:
        return False, f"Template: there is no {template} for this key"
    if fields["stackd_flag_source"] == recipe.FROM_STACK and value not in found[template]["generates"]:
        return False, f"Template: {template} generates no value {value}"
    if found[template].get("shared"):
        return True, "is shared by all"
    labels = recipe.labels(site, "test-0-0", "test", "test")
    reply = stackd.call("POST", "/stacks", recipe.body(fields, labels), query=[("dry_run", "true")])
    return reply.ok, "would start" if reply.ok else answers.diagnosis(reply.status, reply.detail, reply.code)

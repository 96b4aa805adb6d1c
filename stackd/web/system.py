"""The routes about stackd itself: health, readiness, counts, and the operator's word on a brake."""

from __future__ import annotations

import orjson
from aiohttp import web

from stackd.errors import StoreUnavailable
from stackd.lifecycle.reconcile import Plan
from stackd.lifecycle.room import STALE_SECONDS
from stackd.web.api import Api, Call, json_response

HEALTHY = orjson.dumps({"status": "ok"})
RETRY = {"Retry-After": "5"}


async def healthz(call: Call) -> web.Response:
    """``GET /healthz``: the process answers."""
    return json_response(HEALTHY)


async def readyz(call: Call) -> web.Response:
    """``GET /readyz``: 503 with reasons while the mirror is stale, the file cannot be written, or a brake is on."""
    reasons = await unready(call.api)
    if not reasons:
        return json_response(orjson.dumps({"status": "ready"}))
    held = sorted(call.api.room.brake.held)
    body = {"error": "; ".join(reasons), "status": "not ready", "reasons": reasons}
    return json_response(orjson.dumps(body | ({"held": held} if held else {})), status=503, headers=RETRY)


async def stats(call: Call) -> web.Response:
    """``GET /stats``"""
    return json_response(call.api.answers.stats())


async def reconcile_plan(call: Call) -> web.Response:
    """``GET /reconcile``: what a pass would do now, and why."""
    return json_response(orjson.dumps(plan_fields(call.api.reconciler.plan())))


async def reconcile_confirm(call: Call) -> web.Response:
    """``POST /reconcile/confirm``: release what a brake holds back, once."""
    released = await call.api.reconciler.confirm()
    return json_response(orjson.dumps({"released": released}))


async def unready(api: Api) -> list[str]:
    """Why the daemon is not ready; empty when it is."""
    room = api.room
    reasons = room.brake.reasons()
    if room.closing:
        reasons.append("stackd is shutting down")
    if not room.mirror.synced:
        reasons.append("Kubernetes has not been reached yet")
    elif (stale := room.mirror.staleness()) > STALE_SECONDS:
        reasons.append(f"nothing has been heard of Kubernetes for {stale:.0f} s; reads answer what was last known")
    elif room.brake.identity_in_doubt and room.waiting_for:
        reasons.append(f"nothing can be created or deleted: {room.waiting_for}")
    try:
        await room.store.probe()
    except StoreUnavailable as error:
        reasons.append(str(error))
    return reasons


def plan_fields(plan: Plan) -> dict[str, object]:
    """A plan as JSON."""
    return {
        "blocked": plan.blocked,
        "held": sorted(plan.held),
        "actions": [{"action": a.kind, "name": a.name, "why": a.why} for a in plan.actions],
    }

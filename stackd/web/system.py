"""The routes about stackd itself: health, readiness, counts, capacity, and the release of a brake."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from aiohttp import web

from stackd.clock import from_nanoseconds
from stackd.errors import InvalidRequest, StoreUnavailable
from stackd.lifecycle.capacity import Capacity, StackResources, capacity, refresh_quotas, storage
from stackd.lifecycle.context import Context
from stackd.lifecycle.next_step import ReconcilePlan
from stackd.podspec.request import MAX_TARGET_PORTS
from stackd.quantity import Quantity, parse
from stackd.web import requests
from stackd.web.api import Api, ApiCall
from stackd.web.bodies import stats_body
from stackd.web.requests import Parameters
from stackd.web.responses import json_response
from stackd.web.stacks import read_body

HEALTHY = orjson.dumps({"status": "ok"})
RETRY = {"Retry-After": "5"}
OWNER_UNNAMED: Mapping[str, object] = {
    **dict.fromkeys(("host", "trouble", "owner", "lease", "holder", "asked_for_by"), ""),
    **dict.fromkeys(("lease_duration_seconds", "transitions"), 0),
    **dict.fromkeys(("acquired_at", "renewed_at")),
}
"""What a tenant sees of the ownership, beside the role of this process and whether it may change anything."""
ASSUMES = "nodes run nothing but stacks, and have no taints"
DEFAULT_CPU = "100m"
DEFAULT_MEMORY = "128Mi"


async def healthz(call: ApiCall) -> web.Response:
    """``GET /healthz``: the process answers."""
    return json_response(HEALTHY)


async def readyz(call: ApiCall) -> web.Response:
    """``GET /readyz``: 503 with reasons while the mirror is stale, the file cannot be written, or a brake is on."""
    reasons = await unready(call.api)
    if not reasons:
        return json_response(orjson.dumps({"status": "ready"}))
    held = [] if call.key.tenant else sorted(call.api.context.brake.held)
    body = {"error": "; ".join(reasons), "status": "not ready", "reasons": reasons}
    return json_response(orjson.dumps(body | ({"held": held} if held else {})), status=503, headers=RETRY)


async def key(call: ApiCall) -> web.Response:
    """``GET /key``: what the request's key is called, and what it allows."""
    one = call.key
    return json_response(orjson.dumps({"name": one.name, "scope": one.scope, "labels": dict(one.labels)}))


async def owner(call: ApiCall) -> web.Response:
    """``GET /owner``: who owns the stacks, by the Lease as it was last seen, and the role of this process."""
    fields = owner_fields(call.api.context)
    if call.key.tenant:
        fields |= OWNER_UNNAMED
    return json_response(orjson.dumps(fields))


async def takeover(call: ApiCall) -> web.Response:
    """``POST /takeover``: ask the owner to hand the stacks over to this standby; 409 if there is no owner to ask."""
    return json_response(orjson.dumps({"asked": await call.api.context.ownership.ask_for()}), status=202)


async def stats(call: ApiCall) -> web.Response:
    """``GET /stats``"""
    if not call.key.tenant:
        return json_response(call.api.bodies.stats())
    stacks = call.view.stacks()
    return json_response(stats_body(stacks, sum(len(one.node_ports) for one in stacks if one.ports_held)))


async def reconcile_plan(call: ApiCall) -> web.Response:
    """``GET /reconcile``: what a pass would do now, and why."""
    return json_response(orjson.dumps(plan_fields(await call.api.reconciler.plan())))


async def reconcile_confirm(call: ApiCall) -> web.Response:
    """``POST /reconcile/confirm``: release what a brake holds back now, once; 503 if no pass can run."""
    released = await call.api.reconciler.confirm()
    held = {"held": sorted(released.held)} if released.held else {}
    removed = {"removed": sorted(released.removed)} if released.removed else {}
    return json_response(orjson.dumps({"released": released.count} | held | removed))


def owner_fields(context: Context) -> dict[str, object]:
    """The ownership of the stacks as JSON. Times are by the owner's clock."""
    ownership, lease = context.ownership, context.ownership.lease
    return {
        "role": ownership.role,
        "host": ownership.host,
        "may_change": context.fence.open,
        "trouble": ownership.trouble,
        "owner": ownership.owner,
        "lease": ownership.lease_name,
        "holder": lease.holder if lease else "",
        "lease_duration_seconds": lease.duration if lease else 0,
        "acquired_at": _time(lease.acquired_at) if lease else None,
        "renewed_at": _time(lease.renewed_at) if lease else None,
        "transitions": lease.transitions if lease else 0,
        "asked_for_by": lease.takeover.partition("/")[0] if lease else "",
    }


def _time(nanoseconds: int | None) -> str | None:
    return None if nanoseconds is None else from_nanoseconds(nanoseconds)


async def unready(api: Api) -> list[str]:
    """Why the daemon is not ready; empty if it is."""
    context = api.context
    try:
        await context.store.probe()
        context.gate.file_trouble = ""
    except StoreUnavailable as error:
        context.gate.file_trouble = str(error)
    return [*context.gate.why_not_ready().values()]


def plan_fields(plan: ReconcilePlan) -> dict[str, object]:
    """A plan as JSON."""
    return {
        "blocked": plan.blocked,
        "held": sorted(plan.held),
        "actions": [{"action": a.kind, "name": a.name, "why": a.why} for a in plan.actions],
        "unknown": [{"kind": u.object.resource, "name": u.object.name, "why": u.why} for u in plan.unknown],
    }


async def get_capacity(call: ApiCall) -> web.Response:
    """``GET /capacity?cpu=100m&memory=128Mi&ports=1``; with the quotas that the background task read last."""
    parameters = Parameters(call.request, ("cpu", "memory", "ephemeral_storage", "ports"))
    given = storage(call.api.context)
    asked = parameters.get("ephemeral_storage")
    disk = None if asked is None else _quantity(parameters, "ephemeral_storage", asked).whole
    need = StackResources(
        cpu_milli=_quantity(parameters, "cpu", DEFAULT_CPU).milli,
        memory_bytes=_quantity(parameters, "memory", DEFAULT_MEMORY).whole,
        ephemeral_bytes=given.request_bytes if disk is None else disk,
        ephemeral_limit_bytes=given.limit_bytes if disk is None else disk,
        ports=parameters.number("ports", 1, MAX_TARGET_PORTS) or 1,
    )
    return _capacity_response(call.api.context, need)


async def post_capacity(call: ApiCall) -> web.Response:
    """``POST /capacity`` with the body of a create; reads the quotas now."""
    parsed = await requests.create_body(call.view, await read_body(call), labelled=False)
    await refresh_quotas(call.api.context, asked=True)
    create_request = parsed.create_request
    spec = create_request.spec
    need = StackResources(
        cpu_milli=spec.requested_cpu_milli,
        memory_bytes=spec.requested_memory_bytes,
        ports=create_request.node_ports,
    )
    return _capacity_response(call.api.context, need.with_storage(spec.manifest, storage(call.api.context)))


def _capacity_response(context: Context, need: StackResources) -> web.Response:
    return json_response(orjson.dumps(_capacity_fields(context, need, capacity(context, need))))


def _capacity_fields(context: Context, need: StackResources, found: Capacity) -> dict[str, object]:
    seen_at = context.quotas.seen_at
    return {
        "fits": found.fits,
        "limited_by": found.limited_by,
        "nodes": found.nodes,
        "quota": found.quota,
        "quota_limited_by": found.quota_limited_by,
        "quota_seen_at": None if seen_at is None else from_nanoseconds(seen_at),
        "ports": found.ports,
        "free_node_ports": context.store.ports.free,
        "stacks": found.stacks,
        "unassigned": found.unassigned,
        "requested_cpu_milli": need.cpu_milli,
        "requested_memory_bytes": need.memory_bytes,
        "requested_ephemeral_storage_bytes": need.ephemeral_bytes,
        "requested_ports": need.ports,
        "assumes": ASSUMES,
    }


def _quantity(parameters: Parameters, name: str, default: str) -> Quantity:
    text = parameters.get(name)
    try:
        quantity = parse(default if text is None else text)
    except ValueError as exc:
        raise InvalidRequest(f"{name}: {exc}") from exc
    if quantity.nanos <= 0:
        raise InvalidRequest(f"{name} must be above zero")
    return quantity

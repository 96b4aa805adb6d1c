"""The routes that tell how many more stacks would fit."""

from __future__ import annotations

import orjson
from aiohttp import web

from stackd.errors import InvalidRequest
from stackd.lifecycle.capacity import Capacity, Need, capacity
from stackd.lifecycle.quotas import refresh_quotas
from stackd.lifecycle.room import Room
from stackd.podspec.quantity import Quantity, parse
from stackd.podspec.target_ports import MAX_TARGET_PORTS
from stackd.times import from_nanoseconds
from stackd.web import orders
from stackd.web.api import Call, json_response
from stackd.web.parameters import Parameters
from stackd.web.stacks import read_body

ASSUMES = "nodes run nothing but stacks, and have no taints"
DEFAULT_CPU = "100m"
DEFAULT_MEMORY = "128Mi"


async def get_capacity(call: Call) -> web.Response:
    """``GET /capacity?cpu=100m&memory=128Mi&ports=1``; quotas as they were last seen, in the background."""
    parameters = Parameters(call.request, ("cpu", "memory", "ports"))
    need = Need(
        cpu_milli=_quantity(parameters, "cpu", DEFAULT_CPU).milli,
        memory_bytes=_quantity(parameters, "memory", DEFAULT_MEMORY).whole,
        ports=parameters.number("ports", 1, MAX_TARGET_PORTS) or 1,
    )
    return _answer(call.api.room, need)


async def post_capacity(call: Call) -> web.Response:
    """``POST /capacity`` with the body of a create; quotas are looked at now."""
    order = orders.parse(call, await read_body(call)).order
    await refresh_quotas(call.api.room, asked=True)
    spec = order.spec
    need = Need(
        cpu_milli=spec.requested_cpu_milli, memory_bytes=spec.requested_memory_bytes, ports=len(order.target_ports)
    )
    return _answer(call.api.room, need)


def _answer(room: Room, need: Need) -> web.Response:
    return json_response(orjson.dumps(_fields(room, need, capacity(room, need))))


def _fields(room: Room, need: Need, found: Capacity) -> dict[str, object]:
    seen_at = room.quotas.seen_at
    return {
        "fits": found.fits,
        "limited_by": found.limited_by,
        "nodes": found.nodes,
        "quota": found.quota,
        "quota_limited_by": found.quota_limited_by,
        "quota_seen_at": None if seen_at is None else from_nanoseconds(seen_at),
        "ports": found.ports,
        "stacks": found.stacks,
        "requested_cpu_milli": need.cpu_milli,
        "requested_memory_bytes": need.memory_bytes,
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

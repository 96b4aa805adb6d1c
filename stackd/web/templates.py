"""``GET /templates``: the templates, and the state of each one's pool, images and stacks.

Owns: the fields of an entry. ``lifecycle.pools`` owns the figures of pools.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
from aiohttp import web

from stackd.model import StackStatus
from stackd.templates import Template
from stackd.units import format_duration
from stackd.web.api import Api, ApiCall
from stackd.web.requests import Parameters
from stackd.web.responses import json_response

HISTORY = "history"
HISTORY_OF_STACKS = ("running", "creating", "failed")
HISTORY_OF_POOLS = ("ready", "starting", "failing")


async def list_templates(call: ApiCall) -> web.Response:
    """``GET /templates``"""
    api = call.api
    with_history = bool(call.request.query_string) and Parameters(call.request, (HISTORY,)).flag(HISTORY)
    stacks = Counter((stack.template, stack.status) for stack in call.view.stacks())
    entries = [_entry(api, template, stacks) for template in call.view.templates().values()]
    for entry in entries if with_history else ():
        samples = {name: [entry["stacks"][name]] for name in HISTORY_OF_STACKS}
        entry[HISTORY] = {"every_seconds": 30.0, **samples, **{name: [entry[name]] for name in HISTORY_OF_POOLS}}
    return json_response(orjson.dumps({"templates": entries}))


def _entry(api: Api, template: Template, stacks: Counter[tuple[str | None, StackStatus]]) -> dict[str, Any]:
    figures = api.context.pools.figures(template)
    ttl = api.context.config.stacks.ttl if template.ttl is None else template.ttl
    return {
        "name": template.name,
        "target_port": template.target_ports,
        "ttl": format_duration(ttl),
        "labels": dict(template.labels),
        "images": list(template.images),
        "generates": list(template.values),
        "requested_cpu_milli": template.spec.requested_cpu_milli,
        "requested_memory_bytes": template.spec.requested_memory_bytes,
        "stacks": {str(status): stacks[template.name, status] for status in StackStatus},
        "median_seconds_to_running": api.context.metrics.median_seconds_to_running(template.name),
        "pool": template.pool,
        "ready": figures.ready,
        "starting": figures.starting,
        "failing": figures.failing,
        "held": 0,
        "hits": figures.hits,
        "misses": figures.misses,
        "reason": figures.reason,
        "prepull": _prepull(api, template),
    }


def _prepull(api: Api, template: Template) -> dict[str, object] | None:
    """The state of the template's images on each node; None if they are not pulled ahead."""
    if not template.prepull:
        return None
    return {node: {"state": pull.state, "reason": pull.reason} for node, pull in api.prepulls.of(template).items()}

"""The route table."""

from __future__ import annotations

import orjson
from aiohttp import web

from stackd.web import capacity, changes, events, exposition, finding, history, pages, stacks, system
from stackd.web.api import Call, Route, json_response
from stackd.web.openapi import document


async def openapi(call: Call) -> web.Response:
    """``GET /openapi.json``: this table, described."""
    return json_response(orjson.dumps(document(ROUTES, call.api.room.config)))


ROUTES: tuple[Route, ...] = (
    Route(method="GET", path="/healthz", handler=system.healthz),
    Route(method="GET", path="/readyz", handler=system.readyz),
    Route(method="GET", path="/stats", handler=system.stats),
    Route(method="GET", path="/metrics", handler=exposition.metrics, public=True),
    Route(method="GET", path="/reconcile", handler=system.reconcile_plan),
    Route(method="POST", path="/reconcile/confirm", handler=system.reconcile_confirm),
    Route(method="POST", path="/stacks", handler=stacks.create_stack),
    Route(method="GET", path="/stacks", handler=stacks.list_stacks),
    Route(method="GET", path="/stacks/{stack_id}/status", handler=stacks.get_status),
    Route(method="DELETE", path="/stacks", handler=finding.delete_found),
    Route(method="POST", path="/stacks/{stack_id}/extend", handler=changes.extend_stack),
    Route(method="POST", path="/stacks/{stack_id}/stop", handler=changes.stop_stack),
    Route(method="POST", path="/stacks/{stack_id}/start", handler=changes.start_stack),
    Route(method="POST", path="/stacks/{stack_id}/restart", handler=changes.restart_stack),
    Route(method="GET", path="/stacks/{stack_id}/timeline", handler=history.timeline),
    Route(method="GET", path="/stacks/{stack_id}/logs", handler=history.logs),
    Route(method="GET", path="/stacks/{stack_id}/events", handler=events.stack_events, streams=True),
    Route(method="GET", path="/events", handler=events.all_events, streams=True),
    Route(method="GET", path="/capacity", handler=capacity.get_capacity),
    Route(method="POST", path="/capacity", handler=capacity.post_capacity),
    Route(method="POST", path="/stacks/batch-delete", handler=stacks.batch_delete),
    Route(method="GET", path="/stacks/batch-delete/{job_id}", handler=stacks.get_job),
    Route(method="GET", path="/stacks/{stack_id}", handler=stacks.get_stack),
    Route(method="DELETE", path="/stacks/{stack_id}", handler=stacks.delete_stack),
    Route(method="GET", path="/openapi.json", handler=openapi, public=True),
    Route(method="GET", path="/docs", handler=pages.docs, public=True),
    Route(method="GET", path="/dashboard", handler=pages.dashboard, public=True),
    Route(method="GET", path="/static/{folder}/{file}", handler=pages.static, public=True),
)

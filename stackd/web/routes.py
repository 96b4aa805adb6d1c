"""The route table."""

from __future__ import annotations

import orjson
from aiohttp import web

from stackd.web import events, exposition, guides, listing, pages, stacks, system, templates
from stackd.web.api import ApiCall, Route
from stackd.web.openapi import document
from stackd.web.responses import JSON


async def openapi(call: ApiCall) -> web.Response:
    """``GET /openapi.json``: this table, described; rendered once for each configuration."""
    config = call.api.context.config
    if call.api.described is None or call.api.described[0] is not config:
        call.api.described = config, pages.file_of(orjson.dumps(document(ROUTES, config)), JSON)
    return pages.send(call, call.api.described[1])


ROUTES: tuple[Route, ...] = (
    Route(method="GET", path="/healthz", handler=system.healthz, standby=True),
    Route(method="GET", path="/readyz", handler=system.readyz, early=True),
    Route(method="GET", path="/owner", handler=system.owner, standby=True),
    Route(method="POST", path="/takeover", handler=system.takeover, standby=True),
    Route(method="GET", path="/stats", handler=system.stats),
    Route(method="GET", path="/metrics", handler=exposition.metrics, public=True, standby=True),
    Route(method="GET", path="/reconcile", handler=system.reconcile_plan, early=True),
    Route(method="POST", path="/reconcile/confirm", handler=system.reconcile_confirm, early=True),
    Route(method="POST", path="/stacks", handler=stacks.create_stack, replays=True),
    Route(method="GET", path="/stacks", handler=stacks.list_stacks),
    Route(method="GET", path="/stacks/{stack_id}/status", handler=stacks.get_status),
    Route(method="DELETE", path="/stacks", handler=listing.delete_matching),
    Route(method="POST", path="/stacks/{stack_id}/extend", handler=stacks.extend_stack, replays=True),
    Route(method="POST", path="/stacks/{stack_id}/stop", handler=stacks.stop_stack),
    Route(method="POST", path="/stacks/{stack_id}/start", handler=stacks.start_stack),
    Route(method="POST", path="/stacks/{stack_id}/restart", handler=stacks.restart_stack),
    Route(method="GET", path="/stacks/{stack_id}/timeline", handler=stacks.timeline),
    Route(method="GET", path="/stacks/{stack_id}/logs", handler=stacks.logs),
    Route(method="GET", path="/stacks/{stack_id}/events", handler=events.stack_events, streams=True),
    Route(method="GET", path="/events", handler=events.all_events, streams=True),
    Route(method="GET", path="/templates", handler=templates.list_templates),
    Route(method="GET", path="/capacity", handler=system.get_capacity),
    Route(method="POST", path="/capacity", handler=system.post_capacity, asks=True),
    Route(method="POST", path="/stacks/batch-delete", handler=stacks.batch_delete, replays=True),
    Route(method="GET", path="/stacks/batch-delete/{job_id}", handler=stacks.get_job),
    Route(method="GET", path="/stacks/{stack_id}", handler=stacks.get_stack),
    Route(method="DELETE", path="/stacks/{stack_id}", handler=stacks.delete_stack),
    Route(method="GET", path="/openapi.json", handler=openapi, public=True, standby=True),
    Route(method="GET", path="/", handler=pages.home, public=True, standby=True),
    Route(method="GET", path="/docs", handler=pages.docs, public=True, standby=True),
    Route(method="GET", path="/docs/", handler=pages.docs_below, public=True, standby=True),
    Route(method="GET", path="/docs/{page}", handler=guides.guide, public=True, standby=True),
    Route(method="GET", path="/dashboard", handler=pages.dashboard, public=True, standby=True),
    Route(method="GET", path="/dashboard/", handler=pages.dashboard_below, public=True, standby=True),
    Route(method="GET", path="/favicon.ico", handler=pages.favicon, public=True, standby=True),
    Route(method="GET", path="/static/{folder}/{file}", handler=pages.static, public=True, standby=True),
)

"""The route table."""

from __future__ import annotations

import orjson
from aiohttp import web

from stackd.web import activity, events, exposition, guides, listing, pages, stacks, system, templates
from stackd.web.api import ApiCall, Route
from stackd.web.openapi import document
from stackd.web.openapi import operations as op
from stackd.web.responses import JSON


async def openapi(call: ApiCall) -> web.Response:
    """``GET /openapi.json``: this table, described; rendered once for each configuration."""
    config = call.api.context.config
    if call.api.described is None or call.api.described[0] is not config:
        call.api.described = config, pages.file_of(orjson.dumps(document(ROUTES, config)), JSON)
    return pages.send(call, call.api.described[1])


ROUTES: tuple[Route, ...] = (
    Route(method="GET", path="/healthz", handler=system.healthz, standby=True, doc=op.HEALTHZ),
    Route(method="GET", path="/readyz", handler=system.readyz, early=True, doc=op.READYZ),
    Route(method="GET", path="/key", handler=system.key, standby=True, doc=op.KEY),
    Route(method="GET", path="/owner", handler=system.owner, standby=True, doc=op.OWNER),
    Route(method="POST", path="/takeover", handler=system.takeover, standby=True, doc=op.TAKE_OVER),
    Route(method="GET", path="/stats", handler=system.stats, doc=op.STATS),
    Route(method="GET", path="/metrics", handler=exposition.metrics, public=True, standby=True, doc=op.METRICS),
    Route(method="GET", path="/reconcile", handler=system.reconcile_plan, early=True, doc=op.RECONCILE_PLAN),
    Route(
        method="POST", path="/reconcile/confirm", handler=system.reconcile_confirm, early=True, doc=op.RECONCILE_CONFIRM
    ),
    Route(method="POST", path="/stacks", handler=stacks.create_stack, replays=True, doc=op.CREATE_STACK),
    Route(method="GET", path="/stacks", handler=stacks.list_stacks, doc=op.LIST_STACKS),
    Route(method="GET", path="/stacks/{stack_id}/status", handler=stacks.get_status, doc=op.GET_STACK_STATUS),
    Route(method="GET", path="/stacks/{stack_id}", handler=stacks.get_stack, doc=op.GET_STACK),
    Route(method="DELETE", path="/stacks/{stack_id}", handler=stacks.delete_stack, doc=op.DELETE_STACK),
    Route(method="DELETE", path="/stacks", handler=listing.delete_matching, doc=op.DELETE_STACKS),
    Route(
        method="POST", path="/stacks/{stack_id}/extend", handler=stacks.extend_stack, replays=True, doc=op.EXTEND_STACK
    ),
    Route(method="POST", path="/stacks/{stack_id}/stop", handler=stacks.stop_stack, doc=op.STOP_STACK),
    Route(method="POST", path="/stacks/{stack_id}/start", handler=stacks.start_stack, doc=op.START_STACK),
    Route(method="POST", path="/stacks/{stack_id}/restart", handler=stacks.restart_stack, doc=op.RESTART_STACK),
    Route(method="GET", path="/stacks/{stack_id}/timeline", handler=stacks.timeline, doc=op.GET_TIMELINE),
    Route(method="GET", path="/stacks/{stack_id}/logs", handler=stacks.logs, doc=op.GET_LOGS),
    Route(
        method="GET",
        path="/stacks/{stack_id}/events",
        handler=events.stack_events,
        streams=True,
        doc=op.STREAM_STACK_EVENTS,
    ),
    Route(method="GET", path="/events", handler=events.all_events, streams=True, doc=op.STREAM_EVENTS),
    Route(method="GET", path="/activity", handler=activity.activity, doc=op.GET_ACTIVITY),
    Route(method="GET", path="/templates", handler=templates.list_templates, doc=op.LIST_TEMPLATES),
    Route(method="GET", path="/capacity", handler=system.get_capacity, doc=op.GET_CAPACITY),
    Route(method="POST", path="/capacity", handler=system.post_capacity, asks=True, doc=op.GET_CAPACITY_FOR),
    Route(method="POST", path="/stacks/batch-delete", handler=stacks.batch_delete, replays=True, doc=op.BATCH_DELETE),
    Route(method="GET", path="/stacks/batch-delete/{job_id}", handler=stacks.get_job, doc=op.GET_BATCH_DELETE),
    Route(method="POST", path="/stacks/batch", handler=stacks.batch, replays=True, doc=op.BATCH_JOB),
    Route(method="GET", path="/stacks/batch/{job_id}", handler=stacks.get_batch, doc=op.GET_BATCH),
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

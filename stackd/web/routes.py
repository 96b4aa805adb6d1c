"""The route table."""

from __future__ import annotations

from stackd.web import exposition, stacks, system
from stackd.web.api import Route

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
    Route(method="POST", path="/stacks/batch-delete", handler=stacks.batch_delete),
    Route(method="GET", path="/stacks/batch-delete/{job_id}", handler=stacks.get_job),
    Route(method="GET", path="/stacks/{stack_id}", handler=stacks.get_stack),
    Route(method="DELETE", path="/stacks/{stack_id}", handler=stacks.delete_stack),
)

"""The creates of a batch job: each of its stacks is created once, as if a client had sent an Idempotency-Key for each.

Owns: how a stack that a job wants becomes a create, or which existing one will do. The row of the stack is written with the
claim of the job's item, and the item is counted with the stack's id: after a restart the claim says whether there is a stack
for it already.
"""

from __future__ import annotations

from dataclasses import replace

from stackd.errors import ClusterUnavailable, StackdError, TemplateGone
from stackd.lifecycle.assign import until_reachable
from stackd.lifecycle.context import Context, CreateRequest
from stackd.lifecycle.create import create, create_once, take_back
from stackd.model import Job, JobRequest, LabelQuota, WantedStack
from stackd.store import claim_of

CREATES_AT_ONCE = 16
"""How many stacks a job creates at a time: half of what stackd does, so that others' creates have the rest."""


def request_of(context: Context, job: Job | JobRequest, wanted: WantedStack) -> CreateRequest:
    """The create of one of the job's stacks, from its template as it is now. Raises TemplateGone."""
    name = wanted.template or job.template
    template = context.settings.templates.get(name or "")
    if template is None:
        raise TemplateGone(name)
    return CreateRequest(
        spec=template.spec,
        target_ports=template.target_ports,
        ttl=wanted.ttl,
        labels=wanted.labels,
        env=wanted.env,
        among=job.labels,
        quotas=(LabelQuota(labels=wanted.labels, most=1, template=template.name),) if wanted.once else (),
        by=job.by,
        template=template,
    )


async def created(context: Context, job: Job, wanted: WantedStack) -> str:
    """The id of the stack that is created, or was created before a restart, for this item. Raises as ``create``: what the
    cluster refuses, or what fails although it was in contact all the time, ``stays``."""
    claim = claim_of(job, wanted, context.clock.now())
    earlier = await context.store.claims.find(claim.scope, claim.key)
    if earlier is not None and earlier.stack_id is not None:
        if earlier.status is not None:
            await until_reachable(context, earlier.stack_id)
            return earlier.stack_id
        await take_back(context, earlier.stack_id)
    began = context.cluster.connection.contact.now()
    request = replace(request_of(context, job, wanted), claim=claim)
    try:
        stack = (await create_once(context, request))[0] if wanted.once else await create(context, request)
        return stack.stack_id
    except ClusterUnavailable as error:
        answered = type(error) is ClusterUnavailable and context.gate.clear_since(began)
        cause = error.__cause__ if isinstance(error.__cause__, StackdError) else error
        error.stays = cause.stays or answered
        raise

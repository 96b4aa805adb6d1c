"""The routes about stackd itself: health, readiness, counts, capacity, and the release of a brake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiohttp import web

from stackd import contract
from stackd.codes import ErrorCode
from stackd.lifecycle.capacity import capacity, needs_of, refresh_ports, refresh_quotas, storage
from stackd.lifecycle.decide import ReconcilePlan
from stackd.lifecycle.nodes import StackResources
from stackd.lifecycle.templates import missing
from stackd.quantity import Quantity, parse
from stackd.version import VERSION
from stackd.web import requests
from stackd.web.api import Answer, Api, ApiCall, route
from stackd.web.auth import ADMIN
from stackd.web.bodies import in_turns, stats_body, time_of
from stackd.web.parameters import FILTERS, Parameter, StackSelection, number
from stackd.web.responses import json_response
from stackd.web.stacks import STACKS, read_body

HEALTH, OPERATOR = "Health", "Operator"
RETRY = {"Retry-After": "5"}
DEFAULT_CPU = "100m"
DEFAULT_MEMORY = "128Mi"


def _quantity(name: str, about: str) -> Parameter[Quantity]:
    def read(text: str) -> Quantity:
        try:
            quantity = parse(text)
        except ValueError:
            quantity = None
        if quantity is None or quantity.nanos <= 0:
            raise ValueError("a quantity above zero, such as 100m or 128Mi")
        return quantity

    return Parameter(name, about, read, {"format": "stackd-quantity", "minLength": 1, "maxLength": 64})


CPU: Final = _quantity("cpu", f"CPU of one stack; {DEFAULT_CPU} if not given.")
MEMORY: Final = _quantity("memory", f"Memory of one stack; {DEFAULT_MEMORY} if not given.")
DISK: Final = _quantity(
    "ephemeral_storage",
    "Disk of one stack; if not given, what `policy.max_ephemeral_storage` or the namespace's LimitRange gives.",
)
PORTS: Final = number("ports", "Ports of one stack.", 1, contract.MAX_TARGET_PORTS)
FITS: Final = Answer("How many more fit.", contract.Capacity)


@route("GET", "/healthz", HEALTH, Answer("The process answers.", contract.Healthy), standby=True)
async def healthz(call: ApiCall) -> web.Response:
    """Does the process answer?

    It asks neither the file nor the cluster.
    """
    return json_response(contract.Healthy())


@route(
    "GET",
    "/readyz",
    HEALTH,
    Answer("stackd can create and delete stacks.", contract.Ready),
    Answer(
        "stackd cannot do that now: Kubernetes is unreachable, does not answer, or may be another cluster; it lacks the "
        "namespace or the node ports, or refuses stackd a right; no NetworkPolicy protects the stacks; the file cannot be "
        "written; or a brake is on.",
        (contract.NotReady, contract.Error),
        status=503,
    ),
    early=True,
)
async def readyz(call: ApiCall) -> web.Response:
    """Does everything work?

    Tries the file, and says what is known of the cluster. Reads are answered while something does not work.
    """
    context, reasons = call.api.context, await unready(call.api)
    absent = () if call.key.tenant else tuple(missing(context))
    if not reasons:
        return json_response(contract.Ready(version=VERSION, missing_templates=absent))
    held = () if call.key.tenant else tuple(sorted(context.gate.brake.held))
    body = contract.NotReady(
        error="; ".join(reasons),
        reasons=tuple(reasons),
        held=held,
        version=VERSION,
        player_message=ErrorCode.NOT_READY.players,
        missing_templates=absent,
    )
    return json_response(body, status=503, headers=RETRY)


async def unready(api: Api) -> list[str]:
    """Why the daemon is not ready; empty if it is."""
    await api.context.probe_file()
    return api.context.gate.why_not_ready()


@route("GET", "/key", HEALTH, Answer("The key.", contract.Key), standby=True)
async def key(call: ApiCall) -> web.Response:
    """What may this key do?

    The name, the scope and the labels of the key that the request has, and whether it may send pod specs and write templates.
    A standby answers, too.
    """
    return json_response(
        contract.Key(
            name=call.key.name,
            scope=call.key.scope,
            labels=call.key.labels,
            pod_specs=call.key.pod_specs,
            templates_write=call.key.scope == ADMIN or call.key.templates_write,
        )
    )


@route("GET", "/owner", OPERATOR, Answer("The owner.", contract.Owner), standby=True)
async def owner(call: ApiCall) -> web.Response:
    """Who owns the stacks?

    What the Lease says, and what this stackd is: the owner, or a standby that answers everything else with 503. Load
    balancers choose the stackd whose `role` is `owner`; a key of scope `metrics` is enough. An owner that could not renew
    its Lease in time is `lapsed`: another stackd may own the stacks now. It still answers reads of the stacks that it has,
    and everything else with 503. For a tenant's key, all but `role` and `may_change` is empty.
    """
    ownership, may_change = call.api.context.gate.ownership, call.api.context.fence.open
    if call.key.tenant:
        return json_response(contract.Owner(role=ownership.reported, may_change=may_change))
    lease = ownership.lease
    return json_response(
        contract.Owner(
            role=ownership.reported,
            host=ownership.host,
            may_change=may_change,
            trouble=ownership.error,
            owner=ownership.owner,
            lease=ownership.lease_name,
            holder=lease.holder if lease else "",
            lease_duration_seconds=lease.duration if lease else 0,
            acquired_at=time_of(lease.acquired_at) if lease else None,
            renewed_at=time_of(lease.renewed_at) if lease else None,
            transitions=lease.transitions if lease else 0,
            asked_for_by=lease.takeover.partition("/")[0] if lease else "",
        )
    )


@route(
    "POST",
    "/takeover",
    OPERATOR,
    Answer("The owner was asked.", contract.Takeover, status=202),
    errors=(409,),
    standby=True,
)
async def take_over(call: ApiCall) -> web.Response:
    """Ask the owner to step back.

    For a standby. The owner finishes what is under way and hands the stacks over to this stackd; `GET /owner` shows
    when. 409 where nobody is there to be asked.
    """
    return json_response(contract.Takeover(asked=await call.api.context.gate.ownership.ask_for()), status=202)


@route("GET", "/stats", HEALTH, Answer("Counts.", contract.Stats), query=FILTERS)
async def stats(call: ApiCall) -> web.Response:
    """Counts over all stacks, or over those that the filters select.

    Stacks, ports and reservations, from memory. A tenant's key counts its own stacks. With a filter, stacks that wait in
    pools count for nothing.
    """
    selection = StackSelection(call.parameters)
    if not (call.key.tenant or selection):
        return json_response(call.api.bodies.stats())
    seen, tenant = in_turns(call.view.stacks()), call.key.tenant
    stacks = [stack async for stack in seen if selection.matches(stack) and not (tenant and stack.shared)]
    return json_response(stats_body(stacks, sum(len(one.node_ports) for one in stacks if one.ports_held)))


@route("GET", "/reconcile", OPERATOR, Answer("The plan.", contract.Plan), early=True)
async def reconcile_plan(call: ApiCall) -> web.Response:
    """What would a pass of reconciliation do?

    It changes nothing.
    """
    return json_response(plan_body(await call.api.reconciler.plan(), call.api.context.gate.why_not_ready()))


def plan_body(plan: ReconcilePlan, reasons: Sequence[str]) -> contract.Plan:
    return contract.Plan(
        blocked=plan.blocked,
        held=tuple(sorted(plan.held)),
        actions=tuple(
            contract.PlannedAction(action=a.decision.action, name=a.name, why=a.decision.why) for a in plan.actions
        ),
        unknown=tuple(
            contract.UnknownObject(kind=one.orphan.seen.resource, name=one.name, why=one.decision.why)
            for one in plan.unknown
            if one.orphan is not None
        ),
        reasons=tuple(reasons),
    )


@route("POST", "/reconcile/confirm", OPERATOR, Answer("What was released.", contract.Released), early=True)
async def reconcile_confirm(call: ApiCall) -> web.Response:
    """Release a brake, once.

    Releases what is held back now, and nothing that comes later; objects that the last pass has listed as unknown are
    removed. Where no pass can be made at the moment, the answer is a 503 with the reason; the release then counts for a
    minute.
    """
    return json_response(await call.api.reconciler.confirm())


@route("GET", "/capacity", STACKS, FITS, query=(CPU, MEMORY, DISK, PORTS))
async def get_capacity(call: ApiCall) -> web.Response:
    """How many more fit?

    Uses the quotas and LimitRanges that stackd read last. All keys share what is free.
    """
    parameters = call.parameters
    default, disk = storage(call.api.context), parameters.get(DISK)
    need = StackResources(
        cpu_milli=parameters.get(CPU, parse(DEFAULT_CPU)).milli,
        memory_bytes=parameters.get(MEMORY, parse(DEFAULT_MEMORY)).value,
        ephemeral_bytes=default.request_bytes if disk is None else disk.value,
        ephemeral_limit_bytes=default.limit_bytes if disk is None else disk.value,
        ports=parameters.get(PORTS, 1),
    )
    return json_response(capacity(call.api.context, need))


@route("POST", "/capacity", STACKS, FITS, body=contract.Create, asks=True)
async def get_capacity_for(call: ApiCall) -> web.Response:
    """How many more of this stack fit?

    Takes the body of a create, reads quotas and LimitRanges now, and finds out at most once a minute which node ports other
    Services hold.
    """
    parsed = await requests.create_body(call.view, await read_body(call), creates=False)
    await refresh_quotas(call.api.context, asked=True)
    await refresh_ports(call.api.context)
    return json_response(capacity(call.api.context, needs_of(call.api.context, parsed.create_request)))

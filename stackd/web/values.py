"""The routes of generated values: whose is one that somebody has handed in, and all of a template's, for a grader.

Owns: who learns what. Whoever asks about a value has it already, and learns of no other; who exports them is in the audit.
"""

from __future__ import annotations

from collections.abc import Iterator
from hmac import compare_digest

from aiohttp import web

from stackd import contract
from stackd.errors import PermissionDenied
from stackd.keys import TENANT
from stackd.model import AuditKind, Stack
from stackd.store.history import Holder
from stackd.web import requests
from stackd.web.api import Answer, ApiCall, route
from stackd.web.auth import ADMIN
from stackd.web.bodies import time_of
from stackd.web.parameters import FILTERS, StackSelection
from stackd.web.responses import json_response
from stackd.web.stacks import HISTORY, read_body


@route(
    "POST",
    "/values/find",
    HISTORY,
    Answer("The stacks that have it, or have had it.", contract.FoundValues),
    body=contract.FindValue,
    asks=True,
)
async def find_value(call: ApiCall) -> web.Response:
    """Whose value is this?

    The stacks for which this value was generated: those that there are, also if a renewal has replaced it, and those that are
    gone, until `stacks.keep_history` after that. A tenant's key finds its own. No other value is told.
    """
    _require_trusted(call)
    value = requests.parse(await read_body(call), contract.FindValue).value
    own = {stack.stack_id: stack for stack in _own(call)}
    found = {(stack.stack_id, name): _living(stack, name) for stack in own.values() for name in _having(stack, value)}
    for one in await call.api.context.store.timeline.holders(value):
        if one.removed_at and (one.by == call.key.principal or not call.key.tenant):
            found.setdefault((one.stack_id, one.name), _gone(one))
        elif one.stack_id in own:
            found.setdefault((one.stack_id, one.name), _living(own[one.stack_id], one.name, renewed=True))
    return json_response(contract.FoundValues(found=tuple(found.values())))


@route(
    "GET",
    "/values",
    HISTORY,
    Answer("The values.", contract.StackValues),
    query=FILTERS,
)
async def list_values(call: ApiCall) -> web.Response:
    """List the generated values.

    Of the stacks that the filters choose, such as those of a template, for a grader. For admin keys, and for tenants of their
    own stacks. The audit says who has read them.
    """
    _require_trusted(call)
    selection = StackSelection(call.parameters)
    stacks = [stack for stack in _own(call) if stack.values and selection.matches(stack)]
    call.api.context.audit.note(AuditKind.VALUES, f"values of {len(stacks)} stacks read", by=call.key.principal)
    entries = tuple(
        contract.ValuesOfStack(
            stack_id=stack.stack_id, template=stack.template or "", labels=stack.labels, values=stack.values
        )
        for stack in stacks
    )
    return json_response(contract.StackValues(stacks=entries))


def _require_trusted(call: ApiCall) -> None:
    """Raise PermissionDenied for a key that may only read: values are secrets."""
    if call.key.scope not in (ADMIN, TENANT):
        raise PermissionDenied(f"the API key {call.key.name!r} may only read, and no generated values")


def _own(call: ApiCall) -> Iterator[Stack]:
    """The stacks that the key may see, without those that it only shares with others."""
    return (stack for stack in call.view.stacks() if call.key.may_see(stack.labels))


def _having(stack: Stack, value: str) -> Iterator[str]:
    for name, own in stack.values.items():
        if compare_digest(own.encode(), value.encode()):
            yield name


def _living(stack: Stack, name: str, *, renewed: bool = False) -> contract.ValueHolder:
    return contract.ValueHolder(
        stack_id=stack.stack_id, name=name, labels=stack.labels, template=stack.template or "", renewed=renewed
    )


def _gone(one: Holder) -> contract.ValueHolder:
    return contract.ValueHolder(
        stack_id=one.stack_id, name=one.name, labels=one.labels, removed_at=time_of(one.removed_at)
    )

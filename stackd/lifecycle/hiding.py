"""Keep a stack's generated values out of what others say about it.

Owns: how a value is found in text: a webhook may quote the pod that it refuses, a kubelet the command that does not
start. Errors, logs, statuses and timelines of a stack go through here; the client that created it knows its values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from stackd.errors import InvalidRequest, StackdError, UnexpectedAnswer

if TYPE_CHECKING:
    from stackd.lifecycle.context import Context

HIDDEN = "(hidden)"
SHORTEST = 4
"""Shorter values are not secrets, and hiding them would tear words apart."""

ELLIPSIS = "…"
CUT_OFF = 8
"""Where the text was cut off within a value, the part is hidden if it has at least this many characters."""


def hide(text: str, values: Mapping[str, str]) -> str:
    """The text without these values: as they are, as a pod has them (``$$`` for ``$``), and both escaped as in JSON."""
    if not text or not values:
        return text
    forms = _forms(values)
    for form in forms:
        text = text.replace(form, HIDDEN)
    end = ELLIPSIS if text.endswith(ELLIPSIS) else ""
    for form in forms:
        for length in range(len(form) - 1, CUT_OFF - 1, -1):
            if text.endswith(form[:length] + end):
                return text[: -length - len(end)] + HIDDEN + end
    return text


def _forms(values: Mapping[str, str]) -> list[str]:
    """The forms in which the values may be quoted, the longest first."""
    plain = {form for value in values.values() if len(value) >= SHORTEST for form in (value, value.replace("$", "$$"))}
    return sorted(plain | {json.dumps(form)[1:-1] for form in plain}, key=len, reverse=True)


def hide_in(error: BaseException, values: Mapping[str, str]) -> None:
    """Hide the values in an error and in the errors that caused it."""
    if not values:
        return
    seen: set[int] = set()
    one: BaseException | None = error
    while isinstance(one, StackdError) and id(one) not in seen:
        seen.add(id(one))
        one.args = tuple(hide(part, values) if isinstance(part, str) else part for part in one.args)
        if one.detail:
            one.detail = hide(one.detail, values)
        if isinstance(one, InvalidRequest):
            one.reasons = tuple(replace(each, text=hide(each.text, values)) for each in one.reasons)
        if isinstance(one, UnexpectedAnswer):
            one.excerpt = hide(one.excerpt, values)
        one = one.__cause__ or one.__context__


@contextmanager
def hiding(context: Context, stack_id: str) -> Iterator[None]:
    """Hide the stack's values in every error that is raised within this context."""
    before = context.store.stacks.get(stack_id)
    try:
        yield
    except StackdError as error:
        stack = context.store.stacks.get(stack_id) or before
        if stack is not None:
            hide_in(error, stack.values)
        raise

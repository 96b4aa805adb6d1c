"""Deleting one object of ours, and knowing that it is gone (invariants 3 and 5)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from stackd.errors import ClusterUnavailable
from stackd.kube import labels
from stackd.kube.answers import error_of, is_other_uid
from stackd.kube.backoff import Deadline
from stackd.kube.caller import Caller
from stackd.kube.objects import JsonObject

_NOT_FOUND = 404
_CONFLICT = 409


async def remove(caller: Caller, resource: str, name: str, uid: str | None, deadline: Deadline) -> None:
    """Return once the object is confirmed gone; raise ClusterUnavailable if that is not known at the deadline.

    With a uid, only the object that has it is touched. Without one, only an object that carries our labels and our
    instance; anything else of that name counts as gone and is left alone.
    """
    if uid is None:
        found = await find(caller, resource, name, deadline)
        if found is None or not labels.is_ours(found, caller.instance):
            return
        uid = found["metadata"]["uid"]
    left = await _delete(caller, resource, name, uid, deadline)
    if left is not None:
        await _until_gone(caller, resource, name, uid, left, deadline)


async def find(caller: Caller, resource: str, name: str, deadline: Deadline) -> JsonObject | None:
    """The object as JSON, None where there is none of that name."""
    call = caller.on("get", resource, name)
    answer = await caller.ask(call, deadline)
    if answer.status == _NOT_FOUND:
        return None
    if not answer.ok:
        raise error_of(call, answer)
    return answer.json()


async def _delete(caller: Caller, resource: str, name: str, uid: str, deadline: Deadline) -> JsonObject | None:
    """Ask for the deletion; the object if it is still there afterwards."""
    call = caller.on("delete", resource, name, body=orjson.dumps(_options(resource, uid)))
    backoff = caller.backoff()
    while True:
        answer = await caller.ask(call, deadline)
        if answer.status == _NOT_FOUND or is_other_uid(answer):
            return None
        if answer.ok:
            left = answer.json()
            return None if _is_gone(left) else left
        pause = backoff.pause()
        # Any other conflict is between writers of the object, and passes.
        if answer.status != _CONFLICT or pause >= deadline.left:
            raise error_of(call, answer)
        await asyncio.sleep(pause)


async def _until_gone(
    caller: Caller, resource: str, name: str, uid: str, left: JsonObject | None, deadline: Deadline
) -> None:
    backoff = caller.backoff()
    while left is not None and left["metadata"]["uid"] == uid:
        pause = backoff.pause()
        if pause >= deadline.left:
            raise ClusterUnavailable(f"{resource} {name} is still being deleted{_held_by(left)}")
        await asyncio.sleep(pause)
        left = await find(caller, resource, name, deadline)


def _options(resource: str, uid: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": uid},
        "propagationPolicy": "Background",
    }
    return options | ({"gracePeriodSeconds": 0} if resource == "pods" else {})


def _is_gone(answered: Mapping[str, Any]) -> bool:
    """Whether the object that a delete answered with is gone: nothing holds it and no grace period runs.

    An answer without an object (a Status) says that it was removed.
    """
    metadata = answered.get("metadata") or {}
    return not metadata.get("finalizers") and not metadata.get("deletionGracePeriodSeconds")


def _held_by(left: Mapping[str, Any]) -> str:
    finalizers = left["metadata"].get("finalizers")
    return f" (finalizers {', '.join(finalizers)})" if finalizers else ""

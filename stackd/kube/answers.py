"""What an answer of the API server means: status and message → the error tree, by what a real one was recorded to say.

Owns the reading of Status bodies. Pure; does not know what was done about an answer. Messages are cut, name the cause,
and never hold who stackd is to the cluster (a user's name is of no use to a tenant).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from stackd.errors import (
    ClusterOverloaded,
    ClusterRefused,
    ClusterUnavailable,
    Conflict,
    InvalidPodSpec,
    LimitRangeViolation,
    NodePortTaken,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    QuotaExceeded,
    StackdError,
    VersionExpired,
)
from stackd.kube.calls import Answer, Call

MESSAGE_LIMIT = 500
_PASSING = frozenset({429, 500, 502, 503, 504})

_PREFIX = re.compile(r'^\S+ "[^"]*" is (?:forbidden|invalid): ')
_DECODING = re.compile(r'^\S+ in version "[^"]*" cannot be handled as a \S+: ')
_RIGHTS = re.compile(r"cannot (?P<verb>\S+) resource")
_LIMITS = re.compile(r"(?:maximum|minimum) \S+ usage per |limit to request ratio per ")
_QUOTA = re.compile(r"(?:exceeded|failed) quota: (?P<name>[^,:]+)[,:] (?P<rest>.*)", re.DOTALL)
_SCOPED_QUOTA = re.compile(r"insufficient quota to match these scopes")
# Both pass by themselves moments after a namespace or a quota was made.
_NOT_YET = re.compile(r"error looking up service account|status unknown for quota")
_PORT_VALUE = re.compile(r"Invalid value: (?P<port>\d+): (?P<why>.*)", re.DOTALL)
_PORT_REFUSALS = ("provided port is already allocated", "The range of valid ports is")


def error_of(call: Call, answer: Answer) -> StackdError:
    """The error that this answer to this call is. For answers that are not ``ok``."""
    status = answer.json()
    message = _shortened(status.get("message") or answer.body.decode(errors="replace"))
    by_status: dict[int, Callable[[], StackdError]] = {
        400: lambda: _invalid(call, status, message),
        401: lambda: _refused(call, "its credentials are not accepted (401)"),
        403: lambda: _forbidden(call, message),
        404: lambda: _missing(call, status, message),
        409: lambda: _conflict(call, status, message),
        410: lambda: VersionExpired(message),
        422: lambda: _unprocessable(call, status, message),
        413: lambda: _invalid(call, status, message),
    }
    if answer.status in by_status:
        return by_status[answer.status]()
    if "too large resource version" in message.lower():
        # The cluster's history was set back (restored, or another cluster): only a new list helps.
        return VersionExpired(message)
    sentence = f"Kubernetes answered {answer.status} to {_what(call)}: {message}"
    if answer.retry_after is not None:
        return ClusterOverloaded(sentence, answer.retry_after)
    return ClusterUnavailable(sentence)


def may_repeat(call: Call, answer: Answer) -> bool:
    """Whether the same call, sent again a little later, may get another answer."""
    if answer.status in _PASSING:
        return not isinstance(error_of(call, answer), VersionExpired)
    if answer.status == 403:
        return bool(_NOT_YET.search(answer.json().get("message") or ""))
    # A create that lost a race for the quota's own bookkeeping; the name is not taken.
    return answer.status == 409 and call.verb == "create" and answer.json().get("reason") == "Conflict"


def names_missing_namespace(call: Call, answer: Answer) -> bool:
    """Whether a create failed because the namespace is not there."""
    details = answer.json().get("details") or {}
    return answer.status == 404 and call.verb == "create" and details.get("kind") == "namespaces"


def is_other_uid(answer: Answer) -> bool:
    """Whether a delete was refused because the object of that name has another uid by now."""
    return answer.status == 409 and "UID in the precondition" in (answer.json().get("message") or "")


def _forbidden(call: Call, message: str) -> StackdError:
    if rights := _RIGHTS.search(message):
        return _refused(call, f"it has no right to {rights['verb']} {call.resource}")
    bare = _PREFIX.sub("", message)
    if _NOT_YET.search(bare) or "because it is being terminated" in bare:
        return ClusterUnavailable(f"Kubernetes cannot do it now: {bare}")
    if quota := _QUOTA.search(bare):
        return QuotaExceeded(f"ResourceQuota {quota['name']}: {quota['rest']}")
    if _SCOPED_QUOTA.search(bare):
        return QuotaExceeded(f"ResourceQuota: {bare}")
    if _LIMITS.search(bare):
        return LimitRangeViolation(f"LimitRange: {bare.removeprefix('[').removesuffix(']')}")
    if call.resource == "pods" and call.verb == "create" and "RuntimeClass" not in bare:
        return InvalidPodSpec([bare])
    return _refused(call, bare)


def _refused(call: Call, why: str) -> ClusterRefused:
    return ClusterRefused(f"Kubernetes refuses stackd itself: {why} ({_what(call)})")


def _missing(call: Call, status: dict[str, Any], message: str) -> StackdError:
    if call.verb == "create" and (status.get("details") or {}).get("kind") == "namespaces":
        return ClusterUnavailable(f"the namespace {call.namespace} does not exist")
    return ObjectNotFound(message)


def _conflict(call: Call, status: dict[str, Any], message: str) -> StackdError:
    if status.get("reason") == "AlreadyExists":
        return ObjectExists(message)
    if call.verb == "create":
        return ClusterUnavailable(f"Kubernetes cannot do it now: {message}")
    return PreconditionFailed(message)


def _unprocessable(call: Call, status: dict[str, Any], message: str) -> StackdError:
    for cause in (status.get("details") or {}).get("causes") or ():
        text = cause.get("message") or ""
        value = _PORT_VALUE.search(text)
        if value and "nodePort" in (cause.get("field") or "") and any(refusal in text for refusal in _PORT_REFUSALS):
            return NodePortTaken(f"node port {value['port']}: {value['why']}", int(value["port"]))
    return _invalid(call, status, message)


def _invalid(call: Call, status: dict[str, Any], message: str) -> StackdError:
    if call.verb == "create" and call.resource == "pods":
        causes = (status.get("details") or {}).get("causes") or ()
        reasons = [f"{cause['field']}: {_shortened(cause['message'])}" for cause in causes if cause.get("field")]
        return InvalidPodSpec(reasons or [_DECODING.sub("", _PREFIX.sub("", message))])
    if call.resource == "pods/log":
        return Conflict(message)
    return ClusterUnavailable(f"Kubernetes does not accept {_what(call)}: {message}")


def _what(call: Call) -> str:
    scope = f" in namespace {call.namespace}" if call.namespace else ""
    return f"{call.verb} {call.resource}{scope}"


def _shortened(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 1] + "…"

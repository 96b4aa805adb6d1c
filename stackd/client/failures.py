"""What the client raises.

ClientError
├── Unreachable      no answer came; ``sent``: stackd may have carried out the request
├── BadAnswer        the answer is not stackd's
├── ApiError         stackd refused, in its own words: ``status``, ``sentence``, ``detail``, ``reasons``, ``fields``
│   ├── KeyRefused   401, 403
│   ├── NotFound     404
│   ├── Conflict     409  ``stack_id`` names the stack that is in the way, if there is one
│   └── Busy         429, 503  ``retry_after`` in seconds
├── StackEnded       the stack came to another status than the awaited one; ``stack`` tells why
└── TimedOut         the awaited status did not come in time
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stackd.errors import StackdError

if TYPE_CHECKING:
    from stackd.client.records import Stack


class ClientError(StackdError):
    """The root of all errors of the client."""


class Unreachable(ClientError):
    """No answer came."""

    def __init__(self, sentence: str, *, sent: bool) -> None:
        super().__init__(sentence)
        self.sent = sent


class BadAnswer(ClientError):
    """The answer is not stackd's."""


class ApiError(ClientError):
    """stackd refused the request. ``player_message`` can be shown to a player; empty for most errors."""

    def __init__(self, status: int, sentence: str, fields: Mapping[str, Any], retry_after: float = 0.0) -> None:
        super().__init__(sentence)
        self.status = status
        self.fields = fields
        self.detail = fields.get("detail") or ""
        self.retry_after = retry_after
        self.reasons: list[Mapping[str, Any]] = list(fields.get("reasons") or ())
        self.stack_id: str = fields.get("stack_id") or ""
        self.player_message = fields.get("player_message") or ""

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.status})"


class KeyRefused(ApiError):
    """The API key is missing, wrong, or may not do this."""


class NotFound(ApiError):
    """There is no such stack or job."""


class Conflict(ApiError):
    """The stack is not in a state for this, or a label has as many stacks as it may have."""


class Busy(ApiError):
    """Too many requests, no capacity, or no cluster now; a later attempt may succeed."""


class StackEnded(ClientError):
    """The stack came to another status than the awaited one."""

    def __init__(self, stack: Stack) -> None:
        why = ": ".join(filter(None, (stack.status, stack.status_reason, stack.status_message)))
        super().__init__(f"{stack.stack_id} is {why}")
        self.stack = stack


class TimedOut(ClientError):
    """The awaited status did not come in time."""


KINDS: Mapping[int, type[ApiError]] = {
    401: KeyRefused,
    403: KeyRefused,
    404: NotFound,
    409: Conflict,
    429: Busy,
    503: Busy,
}

"""A client of stackd's API, for Python programs: ``Client`` for ordinary code, ``AsyncClient`` for asyncio.

    from stackd.client import Client

    client = Client("https://stackd.example.org", key)
    stack = client.create(pod_spec, ports=["80/tcp"], ttl="30m", labels={"team": "7"})
    stack = client.wait(stack)
    print(stack.address)

Both have the same operations. They repeat a request, if it is safe to repeat, after a lost connection and when stackd
says that it is busy. A create, an extension and a batch delete carry an Idempotency-Key, so that each counts once
however often it is sent. If stackd refuses a request, the client raises an ``ApiError`` with stackd's sentence.

``docs/client.md`` has every call.

operations   the operations, as pure steps: requests to send, and pauses
attempts     what they raise and return (beside the bodies of ``stackd.contract``), and when a request is sent again
clients      ``Client`` and ``AsyncClient`` over httpx2, with one table of operations
follow       stacks that are kept current, from a list and events

Imports nothing of the daemon, and no library for HTTP until the first request.
"""

from stackd.client.attempts import (
    ApiError,
    BadAnswer,
    Busy,
    ClientError,
    Conflict,
    Event,
    KeyRefused,
    NotFound,
    Retries,
    StackEnded,
    TimedOut,
    Unreachable,
)
from stackd.client.clients import AsyncClient, Client
from stackd.client.follow import (
    AsyncFollow,
    Change,
    Changes,
    Follow,
)
from stackd.client.operations import (
    Asked,
    CreateOptions,
    Filters,
    Labels,
    Length,
    Ports,
    Statuses,
)
from stackd.codes import ErrorCode
from stackd.contract import (
    Activity,
    AuditAction,
    Capacity,
    Checked,
    DryRun,
    EventName,
    Job,
    JobAction,
    JobError,
    JobStatus,
    KeptLink,
    Key,
    NewLink,
    Owner,
    Plan,
    Port,
    Ready,
    Released,
    Scope,
    Stack,
    StackStatus,
    Stats,
    Template,
    TemplateProblem,
    TemplateSource,
    TemplateTrouble,
    TimelineEvent,
)

__all__ = [
    "Activity",
    "ApiError",
    "Asked",
    "AsyncClient",
    "AsyncFollow",
    "AuditAction",
    "BadAnswer",
    "Busy",
    "Capacity",
    "Change",
    "Changes",
    "Checked",
    "Client",
    "ClientError",
    "Conflict",
    "CreateOptions",
    "DryRun",
    "ErrorCode",
    "Event",
    "EventName",
    "Filters",
    "Follow",
    "Job",
    "JobAction",
    "JobError",
    "JobStatus",
    "KeptLink",
    "Key",
    "KeyRefused",
    "Labels",
    "Length",
    "NewLink",
    "NotFound",
    "Owner",
    "Plan",
    "Port",
    "Ports",
    "Ready",
    "Released",
    "Retries",
    "Scope",
    "Stack",
    "StackEnded",
    "StackStatus",
    "Stats",
    "Statuses",
    "Template",
    "TemplateProblem",
    "TemplateSource",
    "TemplateTrouble",
    "TimedOut",
    "TimelineEvent",
    "Unreachable",
]

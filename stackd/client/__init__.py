"""A client of stackd's API, for Python programs: ``Client`` for ordinary code, ``AsyncClient`` for asyncio.

    from stackd.client import Client

    client = Client("https://stackd.example.org", key)
    stack = client.create(pod_spec, ports=["80/tcp"], ttl="30m", labels={"team": "7"})
    stack = client.wait(stack)
    print(stack.address)

Both have the same operations. They repeat a request, if it is safe to repeat, after a lost connection and when stackd
says that it is busy. A create, an extension and a batch delete carry an Idempotency-Key, so that each counts once
however often it is sent. If stackd refuses a request, the client raises an ``ApiError`` with stackd's sentence.

operations   the operations, as pure steps: requests to send, and pauses
attempts     what they raise and return (beside the bodies of ``stackd.contract``), and when a request is sent again
clients      ``Client`` over http.client, ``AsyncClient`` over aiohttp, with one table of operations

Imports nothing of the daemon, and no library until it is used.
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
from stackd.contract import (
    Activity,
    Capacity,
    Checked,
    DryRun,
    Job,
    JobError,
    Key,
    Owner,
    Plan,
    Port,
    Released,
    Stack,
    StackStatus,
    Stats,
    Template,
    TemplateProblem,
    TimelineEvent,
)

__all__ = [
    "Activity",
    "ApiError",
    "AsyncClient",
    "BadAnswer",
    "Busy",
    "Capacity",
    "Checked",
    "Client",
    "ClientError",
    "Conflict",
    "DryRun",
    "Event",
    "Job",
    "JobError",
    "Key",
    "KeyRefused",
    "NotFound",
    "Owner",
    "Plan",
    "Port",
    "Released",
    "Retries",
    "Stack",
    "StackEnded",
    "StackStatus",
    "Stats",
    "Template",
    "TemplateProblem",
    "TimedOut",
    "TimelineEvent",
    "Unreachable",
]

"""A client of stackd's API, for Python programs: ``Client`` for ordinary code, ``AsyncClient`` for asyncio.

    from stackd.client import Client

    client = Client("https://stackd.example.org", key)
    stack = client.create(pod_spec, ports=["80/tcp"], ttl="30m", labels={"team": "7"})
    stack = client.wait(stack)
    print(stack.address)

Both have the same operations. A request that may be sent again is: after a lost connection, and when stackd says that it
is busy; a create, an extension and a batch delete carry an Idempotency-Key, so that they count once however often they
are sent. What stackd refuses is raised as an ``ApiError`` with its sentence.

operations   what can be asked, as pure steps: requests to be sent, pauses to be made
attempts     when a request is sent again
records      what comes back
failures     what is raised
stream       server-sent events, from lines
blocking     ``Client``, over http.client
concurrent   ``AsyncClient``, over aiohttp

Imports nothing of the daemon, and no library until it is used.
"""

from stackd.client.attempts import Retries
from stackd.client.blocking import Client
from stackd.client.concurrent import AsyncClient
from stackd.client.failures import (
    ApiError,
    BadAnswer,
    Busy,
    ClientError,
    Conflict,
    KeyRefused,
    NotFound,
    StackEnded,
    TimedOut,
    Unreachable,
)
from stackd.client.records import Capacity, DryRun, Event, Job, Port, Stack, Stats, Template, TimelineEvent

__all__ = [
    "ApiError",
    "AsyncClient",
    "BadAnswer",
    "Busy",
    "Capacity",
    "Client",
    "ClientError",
    "Conflict",
    "DryRun",
    "Event",
    "Job",
    "KeyRefused",
    "NotFound",
    "Port",
    "Retries",
    "Stack",
    "StackEnded",
    "Stats",
    "Template",
    "TimedOut",
    "TimelineEvent",
    "Unreachable",
]

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

from stackd.client.attempts import ApiError as ApiError
from stackd.client.attempts import BadAnswer as BadAnswer
from stackd.client.attempts import Busy as Busy
from stackd.client.attempts import ClientError as ClientError
from stackd.client.attempts import Conflict as Conflict
from stackd.client.attempts import Event as Event
from stackd.client.attempts import KeyRefused as KeyRefused
from stackd.client.attempts import NotFound as NotFound
from stackd.client.attempts import Retries as Retries
from stackd.client.attempts import StackEnded as StackEnded
from stackd.client.attempts import TimedOut as TimedOut
from stackd.client.attempts import Unreachable as Unreachable
from stackd.client.clients import AsyncClient as AsyncClient
from stackd.client.clients import Client as Client
from stackd.client.follow import AsyncFollow as AsyncFollow
from stackd.client.follow import Change as Change
from stackd.client.follow import Changes as Changes
from stackd.client.follow import Follow as Follow
from stackd.client.operations import Asked as Asked
from stackd.client.operations import CreateOptions as CreateOptions
from stackd.client.operations import Filters as Filters
from stackd.client.operations import Labels as Labels
from stackd.client.operations import Length as Length
from stackd.client.operations import Ports as Ports
from stackd.client.operations import Statuses as Statuses
from stackd.codes import ErrorCode as ErrorCode
from stackd.contract import Activity as Activity
from stackd.contract import AuditAction as AuditAction
from stackd.contract import Capacity as Capacity
from stackd.contract import Checked as Checked
from stackd.contract import DryRun as DryRun
from stackd.contract import EventName as EventName
from stackd.contract import Job as Job
from stackd.contract import JobAction as JobAction
from stackd.contract import JobError as JobError
from stackd.contract import JobStatus as JobStatus
from stackd.contract import KeptLink as KeptLink
from stackd.contract import Key as Key
from stackd.contract import NewLink as NewLink
from stackd.contract import Owner as Owner
from stackd.contract import Plan as Plan
from stackd.contract import Port as Port
from stackd.contract import Ready as Ready
from stackd.contract import Released as Released
from stackd.contract import Scope as Scope
from stackd.contract import Stack as Stack
from stackd.contract import StackStatus as StackStatus
from stackd.contract import Stats as Stats
from stackd.contract import Template as Template
from stackd.contract import TemplateProblem as TemplateProblem
from stackd.contract import TemplateSource as TemplateSource
from stackd.contract import TemplateTrouble as TemplateTrouble
from stackd.contract import TimelineEvent as TimelineEvent

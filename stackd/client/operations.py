"""The operations, as steps: each one yields requests and pauses, gets answers, and returns a record.

``Client`` and ``AsyncClient`` run the same steps. Their methods have the parameters and results of these functions.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, TypeVar, Unpack

from stackd.client.attempts import (
    SECONDS,
    Busy,
    ClientError,
    Conflict,
    NotFound,
    Pause,
    Request,
    Response,
    StackEnded,
    Steps,
    TimedOut,
    decode,
)
from stackd.contract import (
    ROUTES,
    STACK_FIELDS,
    Activity,
    Capacity,
    Checked,
    DryRun,
    Job,
    JobAction,
    KeptLink,
    Key,
    Message,
    NewLink,
    Owner,
    Plan,
    Port,
    Ready,
    Released,
    Stack,
    StackStatus,
    Stats,
    Template,
    TemplateProblem,
    TimelineEvent,
    ValueHolder,
    ValuesOfStack,
)
from stackd.units import format_duration, parse_duration

IDEMPOTENCY_KEY = "Idempotency-Key"
CHANGE_SECONDS = 300.0
"""Timeout of a change, which waits for the cluster: a pod may use its whole grace period before it is gone."""

CHECK_SECONDS = 900.0
"""Timeout of a check: its program may take ten minutes, and its image some."""

LONGEST_WAIT = 30
"""How many seconds one request waits for a status; to wait longer, the client asks again."""

POLL_SECONDS = 0.25
FOLLOW_SECONDS = 1.0
FOLLOWED_LINES = 10_000
LARGEST_PAGE = 1000
ENDS = ("stopped", "failed", "node_deleted")
PATH_PART = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,253}")

T = TypeVar("T")
Query = Iterable[tuple[str, str]]
Length = str | float | timedelta
"""A length of time: ``"30m"``, seconds, or a timedelta."""

Page = tuple[list[T], str]
"""Some of many, and where the next page begins; empty at the end."""

Ports = Iterable[str | int | Port] | str | int | Port
Labels = Iterable[str] | Mapping[str, str]
Statuses = Iterable[StackStatus] | StackStatus
"""A single value may stand for a list of one: ``ports="80/tcp"``, ``labels="team=7"``, ``statuses="running"``."""


class Times(TypedDict, total=False):
    """How many seconds a request may take, and for how many of them stackd may wait for what it asks for."""

    seconds: float
    waits: float


class CreateOptions(TypedDict, total=False):
    """What every create may have; ``env`` only with a template. ``return_existing``: if a label's limit is reached, return
    the stack with these labels."""

    ttl: Length | None
    labels: Mapping[str, str] | None
    env: Mapping[str, str] | None
    return_existing: bool


class Filters(TypedDict, total=False):
    """Stacks with every label (``"team"`` or ``"team=7"``), one of the statuses, on the node, of the template; ``ended``: only
    those whose pod has ended for good, or only the others."""

    labels: Labels
    statuses: Statuses
    node: str
    template: str
    ended: bool | None


class Asked(TypedDict, total=False):
    """Requests of the key of this name, of this action, about this stack, about stacks with every label, with every text of
    ``find``, since a time or in the last time of this length.
    """

    key: str
    action: str
    stack: str | Stack
    labels: Labels
    find: str | Iterable[str]
    since: Length | datetime


def call(
    method: str, path: str, body: Any = None, query: Query = (), *, repeatable: bool = False, **times: Unpack[Times]
) -> Steps[Any]:
    """Send any request and return its answer, parsed from JSON."""
    repeatable = repeatable or method == "GET"
    response: Response = yield Request(
        method=method, path=path, query=tuple(query), body=body, repeatable=repeatable, **times
    )
    return response.json()


def create(
    pod_spec: str, *, ports: Ports = (), idempotency_key: str = "", **options: Unpack[CreateOptions]
) -> Steps[Stack]:
    """Create a stack; returns when its pod has a node. ``ports`` are such as ``80`` or ``"53/udp"``; by default all that
    the pod spec declares.

    With an ``idempotency_key`` of your own, your program can repeat the same create even after a restart.
    """
    return (yield from create_from(_body_of(pod_spec, ports, options), idempotency_key=idempotency_key))


def create_from_template(template: str, *, idempotency_key: str = "", **options: Unpack[CreateOptions]) -> Steps[Stack]:
    """Create a stack from one of the operator's templates; its ``values`` are those generated for it."""
    return (yield from create_from(body_for(template, options), idempotency_key=idempotency_key))


def create_from(body: Mapping[str, Any], *, idempotency_key: str = "") -> Steps[Stack]:
    """Create a stack from a request body in the API's form."""
    return decode(Stack, (yield from _once("/stacks", body, idempotency_key)))


def dry_run(pod_spec: str, *, ports: Ports = (), **options: Unpack[CreateOptions]) -> Steps[DryRun]:
    """What a create would run, without creating it. Raises what ``create`` would raise."""
    return (yield from dry_run_from(_body_of(pod_spec, ports, options)))


def dry_run_from(body: Mapping[str, Any]) -> Steps[DryRun]:
    """Like ``dry_run``, for a request body in the API's form."""
    answer = yield from call("POST", "/stacks", body, [("dry_run", "true")], seconds=CHANGE_SECONDS, repeatable=True)
    return decode(DryRun, answer)


def stacks(*, fields: Iterable[str] | None = (), **filters: Unpack[Filters]) -> Steps[list[Stack]]:
    """All stacks, or those that the filters select.

    ``fields`` selects the fields of each, for example to leave out large pod specs; the others have their defaults.
    With None, each has those that the API documents for a list.
    """
    query = selection_query((), filters) if fields is None else selection_query(fields or STACK_FIELDS, filters)
    answer = yield from call("GET", "/stacks", query=query)
    return [decode(Stack, one) for one in answer["stacks"]]


def get(stack: str | Stack) -> Steps[Stack]:
    """A stack with all its fields."""
    return _updated(stack, (yield from call("GET", path_of(stack))))


def wait(stack: str | Stack, status: StackStatus = "running", *, timeout: Length = 300.0) -> Steps[Stack]:
    """Return the stack once it has that status; with ``deleted``, once there is no such stack.

    Raises StackEnded if the stack ends with another status, NotFound if it is deleted, TimedOut after ``timeout``.
    """
    seconds = _seconds(timeout)
    end = time.monotonic() + seconds
    while True:
        try:
            now = yield from _awaited(f"{path_of(stack)}/status", status, end)
        except NotFound:
            if status != "deleted":
                raise
            now = {"deleted": True}
        if "status" not in now:
            last = stack if isinstance(stack, Stack) else Stack(stack_id=stack)
            return last.replaced(status="deleted", ended=True)
        if now["status"] == status:
            return (yield from get(stack))
        if now["status"] in ENDS and status != "deleted":
            raise StackEnded((yield from get(stack)))
        if end - time.monotonic() <= 0:
            raise TimedOut(f"{now['stack_id']} is still {now['status']} after {seconds:g} s")
        yield Pause(seconds=POLL_SECONDS)  # a stackd that stops does not hold its answer back


def delete(stack: str | Stack) -> Steps[None]:
    """Delete a stack; returns when its pod is gone and its ports are free. Raises NotFound."""
    yield from _deleted(path_of(stack), seconds=CHANGE_SECONDS)


def batch_delete(stack_ids: Iterable[str | Stack]) -> Steps[Job]:
    """Start a job that deletes these stacks."""
    ids = [_id(one) for one in _several(stack_ids)]
    return decode(Job, (yield from _once("/stacks/batch-delete", {"stack_ids": ids}, "")))


def batch_delete_matching(**filters: Unpack[Filters]) -> Steps[Job]:
    """Start a job that deletes the stacks that ``stacks`` would return; stackd chooses them, and needs a label."""
    return decode(Job, (yield from call("DELETE", "/stacks", query=filter_query(**filters), seconds=CHANGE_SECONDS)))


def batch(
    action: JobAction,
    *,
    stack_ids: Iterable[str | Stack] | None = None,
    labels: Mapping[str, str] | None = None,
    ttl: Length | None = None,
    idempotency_key: str = "",
) -> Steps[Job]:
    """Start a job that does this to the stacks ``stack_ids``, or to those that have all ``labels``.

    ``ttl``, with ``"extend"``: by how much. The answer has the job's ``job_id`` and ``total``.
    """
    body: dict[str, Any] = {"action": action}
    body |= {} if ttl is None else {"ttl": _length(ttl)}
    body |= {} if stack_ids is None else {"stack_ids": [_id(one) for one in _several(stack_ids)]}
    body |= {} if labels is None else {"labels": dict(labels)}
    return decode(Job, {"action": action, **(yield from _once("/stacks/batch", body, idempotency_key))})


def batch_create(
    template: str | None,
    each: Iterable[Mapping[str, Any]],
    *,
    ttl: Length | None = None,
    return_existing: bool = False,
    idempotency_key: str = "",
) -> Steps[Job]:
    """Start a job that creates stacks from a template, one for ``each`` body such as ``{"labels": {"player": "seat-1"}}``,
    or takes one that has these labels, with ``return_existing``. A body may name its own ``template``.

    ``batch_job(job_id, results=True)`` says which stack each of them has got.
    """
    body: dict[str, Any] = {"action": "create", "each": [dict(one) for one in each]}
    body |= {} if template is None else {"template": template}
    body |= {} if ttl is None else {"ttl": _length(ttl)}
    body |= {"if_exists": "return"} if return_existing else {}
    return decode(Job, {"action": "create", **(yield from _once("/stacks/batch", body, idempotency_key))})


def batch_job(job_id: str, *, results: bool = False) -> Steps[Job]:
    """Any batch job as it is now; with ``results``, with what became of each of its stacks."""
    query = [("results", "true")] if results else []
    return decode(Job, (yield from call("GET", f"/stacks/batch/{_part(job_id)}", query=query)))


def wait_batch(job_id: str, *, timeout: Length = 3600.0) -> Steps[Job]:
    """Any batch job, once it has finished. Raises TimedOut after ``timeout``."""
    return (yield from _finished("/stacks/batch", job_id, timeout))


def job(job_id: str) -> Steps[Job]:
    """A batch-delete job as it is now."""
    return decode(Job, (yield from call("GET", f"/stacks/batch-delete/{_part(job_id)}")))


def wait_job(job_id: str, *, timeout: Length = 3600.0) -> Steps[Job]:
    """A batch-delete job, once it has finished. Raises TimedOut after ``timeout``."""
    return (yield from _finished("/stacks/batch-delete", job_id, timeout))


def _finished(path: str, job_id: str, timeout: Length) -> Steps[Job]:
    seconds = _seconds(timeout)
    end = time.monotonic() + seconds
    while not (now := decode(Job, (yield from _awaited(f"{path}/{_part(job_id)}", "completed,failed", end)))).finished:
        if time.monotonic() > end:
            raise TimedOut(f"{job_id} is still {now.status} after {seconds:g} s")
        yield Pause(seconds=POLL_SECONDS)
    return now


def _awaited(path: str, statuses: str, end: float) -> Steps[Any]:
    """What is at the path, once it has one of these statuses, or after ``LONGEST_WAIT``, or at the ``end``."""
    patience = max(1, min(LONGEST_WAIT, round(end - time.monotonic())))
    query = [("wait", statuses), ("timeout", f"{patience}s")]
    return (yield from call("GET", path, query=query, waits=patience))


def extend(stack: str | Stack, ttl: Length) -> Steps[Stack]:
    """Let a stack live longer by ``ttl``."""
    return _updated(stack, (yield from _once(f"{path_of(stack)}/extend", {"ttl": _length(ttl)}, "")))


def label(stack: str | Stack, labels: Mapping[str, str | None]) -> Steps[Stack]:
    """Set these labels of a stack, and remove those that are None; the others stay."""
    changes = {"labels": dict(labels)}
    return _updated(stack, (yield from call("PATCH", path_of(stack), changes, seconds=CHANGE_SECONDS, repeatable=True)))


def check(stack: str | Stack) -> Steps[Checked]:
    """Have the check of the stack's template run, which may take minutes; returns what it says."""
    return decode(Checked, (yield from call("POST", f"{path_of(stack)}/check", seconds=CHECK_SECONDS)))


def stop(stack: str | Stack) -> Steps[Stack]:
    """Delete the stack's pod and keep its ports."""
    return (yield from _change(stack, "stop"))


def start(stack: str | Stack) -> Steps[Stack]:
    """Give a stopped stack a fresh pod behind the same ports."""
    return (yield from _change(stack, "start"))


def restart(stack: str | Stack, *, member: str = "") -> Steps[Stack]:
    """Give a stack fresh pods behind the same ports; or only this ``member`` of it."""
    return (yield from _change(stack, "restart", query=[("member", member)] if member else ()))


def renew(stack: str | Stack) -> Steps[Stack]:
    """Give a stack the pod of the newest version of its template; ports, labels, values and end stay."""
    return (yield from _change(stack, "restart", {"template": "latest"}))


def timeline(stack: str | Stack) -> Steps[list[TimelineEvent]]:
    """What happened to a stack, also for a while after its delete."""
    answer = yield from call("GET", f"{path_of(stack)}/timeline")
    return [decode(TimelineEvent, one) for one in answer["events"]]


def iter_stacks(cursor: str, *, fields: Iterable[str] = (), **filters: Unpack[Filters]) -> Steps[Page[Stack]]:
    """As ``stacks``, one after the other, read in pages: what is created meanwhile comes, too, and nothing comes twice."""
    query = [*selection_query(fields or STACK_FIELDS, filters), *_page(cursor)]
    answer = yield from call("GET", "/stacks", query=query)
    return [decode(Stack, one) for one in answer["stacks"]], answer["next_cursor"] or ""


def iter_links(cursor: str) -> Steps[Page[KeptLink]]:
    """As ``links``, one after the other, read in pages."""
    answer = yield from call("GET", "/links", query=_page(cursor))
    return [decode(KeptLink, one) for one in answer["links"]], answer["next_cursor"] or ""


def iter_activity(cursor: str, **asked: Unpack[Asked]) -> Steps[Page[Activity]]:
    """What API keys have asked for, the latest first, read in pages."""
    return (yield from _activity(cursor, LARGEST_PAGE, asked))


def _page(cursor: str, most: int = LARGEST_PAGE) -> list[tuple[str, str]]:
    return [("limit", str(most)), *([("cursor", cursor)] if cursor else ())]


def activity(*, limit: int = 100, **asked: Unpack[Asked]) -> Steps[list[Activity]]:
    """What API keys have asked for, the latest first, at most ``limit``."""
    entries: list[Activity] = []
    cursor, more = "", limit > 0
    while more:
        found, cursor = yield from _activity(cursor, min(limit - len(entries), LARGEST_PAGE), asked)
        entries += found
        more = bool(cursor) and len(entries) < limit
    return entries


def _activity(cursor: str, most: int, asked: Asked) -> Steps[Page[Activity]]:
    answer = yield from call("GET", "/activity", query=[*_asked(asked), *_page(cursor, most)])
    return [decode(Activity, one) for one in answer["activity"]], answer["next_cursor"] or ""


def _asked(asked: Asked) -> list[tuple[str, str]]:
    since = asked.get("since")
    single = {"key": asked.get("key"), "action": asked.get("action"), "stack": _id(asked.get("stack", ""))}
    single["since"] = None if since is None else _since(since)
    query = filter_query(labels=asked.get("labels", ())) + [(name, value) for name, value in single.items() if value]
    return query + [("find", text) for text in _several(asked.get("find", ()))]


def _since(since: Length | datetime) -> str:
    if not isinstance(since, datetime):
        return _length(since)
    return since.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def logs(stack: str | Stack, *, tail: int = 0, container: str = "", member: str = "") -> Steps[str]:
    """The last lines that a container has written: of the stack's first pod, or of that of a ``member``."""
    query = [("tail", str(tail))] if tail else []
    query += [("container", container)] if container else []
    query += [("member", member)] if member else []
    response: Response = yield Request(method="GET", path=f"{path_of(stack)}/logs", query=tuple(query), repeatable=True)
    return response.text()


@dataclass(slots=True, kw_only=True)
class LogTail:
    """What a stack's container writes, read again and again; ``ended`` once nothing more will come.

    A container that has not started yet is waited for, and so is a stackd that is busy.
    """

    stack: str | Stack
    container: str = ""
    member: str = ""
    tail: int = 0
    ended: bool = False
    _before: str | None = None

    def poll(self) -> Steps[str]:
        """The new output, perhaps after a second. Raises ApiError."""
        if self._before is not None:
            yield Pause(seconds=FOLLOW_SECONDS)
        first, self._before = self._before is None, self._before or ""
        has_ended = False
        try:
            has_ended = (yield from get(self.stack)).status not in ("creating", "running")
            text = yield from logs(self.stack, tail=FOLLOWED_LINES, container=self.container, member=self.member)
        except NotFound:
            self.ended = True
            return ""
        except (Busy, Conflict) as error:
            if has_ended and isinstance(error, Conflict):
                raise
            return ""
        new, self._before, self.ended = _added(self._before, text), text, has_ended
        return "".join(new.splitlines(keepends=True)[-self.tail :]) if first else new


def _added(before: str, now: str) -> str:
    """The lines of ``now`` after those of ``before``, where both are tails of one log; all of ``now`` for a new log."""
    lines = before.splitlines(keepends=True)
    for start in range(len(lines)):
        kept = "".join(lines[start:])
        at = now.find(kept)
        if at == 0 or (at > 0 and now[at - 1] == "\n"):
            return now[at + len(kept) :]
    return now


def templates() -> Steps[list[Template]]:
    """The templates that a create can name."""
    return [decode(Template, one) for one in (yield from call("GET", "/templates"))["templates"]]


def template_problems() -> Steps[list[TemplateProblem]]:
    """The texts of templates that are not in force, of those that the key may write."""
    return [decode(TemplateProblem, one) for one in (yield from call("GET", "/templates")).get("problems", ())]


def template(name: str) -> Steps[Template]:
    """One template, with its ``text`` if the key may read it."""
    return decode(Template, (yield from call("GET", f"/templates/{_part(name)}")))


def put_template(name: str, text: str, *, dry_run: bool = False) -> Steps[Template]:
    """Write a template: ``text`` is the YAML of its file. With ``dry_run``, only check it."""
    query = [("dry_run", "true")] if dry_run else []
    answer = yield from call(
        "PUT", f"/templates/{_part(name)}", text.encode(), query, repeatable=True, seconds=CHANGE_SECONDS
    )
    return decode(Template, answer)


def delete_template(name: str) -> Steps[None]:
    """Delete a template of the API. Raises NotFound."""
    yield from _deleted(f"/templates/{_part(name)}")


def stats(**filters: Unpack[Filters]) -> Steps[Stats]:
    """Counts over all stacks, or over those that the filters select."""
    return decode(Stats, (yield from call("GET", "/stats", query=filter_query(**filters))))


def find_value(value: str) -> Steps[list[ValueHolder]]:
    """The stacks for which this value was generated, also those that are gone."""
    answer = yield from call("POST", "/values/find", {"value": value}, repeatable=True)
    return [decode(ValueHolder, one) for one in answer["found"]]


def values(**filters: Unpack[Filters]) -> Steps[list[ValuesOfStack]]:
    """The generated values of all stacks, or of those that the filters select. The audit says who has read them."""
    answer = yield from call("GET", "/values", query=filter_query(**filters))
    return [decode(ValuesOfStack, one) for one in answer["stacks"]]


def create_link(body: Mapping[str, Any]) -> Steps[NewLink]:
    """Make a link for a player, from a request body in the API's form; its ``url`` is shown only in this answer."""
    return decode(NewLink, (yield from call("POST", "/links", dict(body))))


def links() -> Steps[list[KeptLink]]:
    """The links that have not expired."""
    return [decode(KeptLink, one) for one in (yield from call("GET", "/links"))["links"]]


def send_message(body: Mapping[str, Any]) -> Steps[Message]:
    """Say something to players, from a request body in the API's form."""
    return decode(Message, (yield from call("POST", "/messages", dict(body))))


def messages() -> Steps[list[Message]]:
    """The messages to players that are shown now."""
    return [decode(Message, one) for one in (yield from call("GET", "/messages"))["messages"]]


def delete_message(message_id: str) -> Steps[None]:
    """Show a message no more. Raises NotFound."""
    yield from _deleted(f"/messages/{_part(message_id)}")


def revoke_link(link_id: str) -> Steps[None]:
    """Revoke a link; its stacks stay. Raises NotFound."""
    yield from _deleted(f"/links/{_part(link_id)}")


def capacity(*, cpu: str = "", memory: str = "", ephemeral_storage: str = "", ports: int = 0) -> Steps[Capacity]:
    """How many more stacks of this size fit, such as ``cpu="500m", memory="1Gi"``."""
    asked = {"cpu": cpu, "memory": memory, "ephemeral_storage": ephemeral_storage, "ports": str(ports or "")}
    return decode(Capacity, (yield from call("GET", "/capacity", query=[(k, v) for k, v in asked.items() if v])))


def ready() -> Steps[Ready]:
    """What stackd says while it is ready. Raises Busy, with the reasons, while it is not."""
    return decode(Ready, (yield from call("GET", "/readyz")))


def metrics() -> Steps[str]:
    """The metrics, in Prometheus's text format."""
    response: Response = yield Request(method="GET", path="/metrics", repeatable=True)
    return response.text()


def key() -> Steps[Key]:
    """What the client's key may do."""
    return decode(Key, (yield from call("GET", "/key")))


def owner() -> Steps[Owner]:
    """Who owns the stacks."""
    return decode(Owner, (yield from call("GET", "/owner")))


def takeover() -> Steps[str]:
    """Ask the owner to hand the stacks over to the standby at this address; the owner's name. Raises Conflict."""
    return str((yield from call("POST", "/takeover"))["asked"])


def reconcile() -> Steps[Plan]:
    """What a reconciliation would do."""
    return decode(Plan, (yield from call("GET", "/reconcile")))


def release() -> Steps[Released]:
    """Release what a brake of the reconciliation holds back now, and remove unknown objects."""
    return decode(Released, (yield from call("POST", "/reconcile/confirm")))


def _body_of(pod_spec: str, ports: Ports, options: CreateOptions) -> dict[str, Any]:
    targets = [target_port(port) for port in _several(ports)]
    return {**({"target_port": targets} if targets else {}), "pod_spec": pod_spec, **_more(options)}


def body_for(what: Mapping[str, Any] | str, options: CreateOptions) -> dict[str, Any]:
    """The request body of a create: from a template's name, or another body, with these options."""
    return {**({"template": what} if isinstance(what, str) else what), **_more(options)}


def _more(options: CreateOptions) -> dict[str, Any]:
    ttl, labels = options.get("ttl"), options.get("labels")
    more: dict[str, Any] = {} if ttl is None else {"ttl": _length(ttl)}
    more |= {"labels": dict(labels)} if labels else {}
    more |= {"env": dict(env)} if (env := options.get("env")) else {}
    return more | ({"if_exists": "return"} if options.get("return_existing") else {})


def filter_query(**filters: Unpack[Filters]) -> list[tuple[str, str]]:
    """The filters as query parameters."""
    labels = filters.get("labels", ())
    wanted = [f"{name}={value}" for name, value in labels.items()] if isinstance(labels, Mapping) else _several(labels)
    query = [("label", one) for one in wanted] + [("status", one) for one in _several(filters.get("statuses", ()))]
    ended = {None: "", True: "true", False: "false"}[filters.get("ended")]
    single = (("node", filters.get("node", "")), ("template", filters.get("template", "")), ("ended", ended))
    return query + [(name, value) for name, value in single if value]


def selection_query(fields: Iterable[str], filters: Filters) -> tuple[tuple[str, str], ...]:
    """The filters and the choice of fields as query parameters."""
    names = ",".join(_several(fields))
    return (*filter_query(**filters), *((("fields", names),) if names else ()))


def path_of(stack: str | Stack) -> str:
    """The stack's path. Raises ClientError for text that cannot be a stack's id."""
    return f"/stacks/{_part(_id(stack))}"


def _part(text: str) -> str:
    if not PATH_PART.fullmatch(text):
        raise ClientError(f"not an id: {text!r}")
    return text


def _id(stack: str | Stack) -> str:
    return stack if isinstance(stack, str) else stack.stack_id


def _several(values: Any) -> Iterable[Any]:
    return (values,) if isinstance(values, str | int | Port | Stack) else values


def _length(ttl: Length) -> str:
    return ttl if isinstance(ttl, str) else format_duration(_seconds(ttl))


def _seconds(length: Length) -> float:
    if isinstance(length, timedelta):
        return length.total_seconds()
    return parse_duration(length) if isinstance(length, str) else length


def target_port(port: str | int | Port) -> dict[str, Any]:
    """A port in the API's form. Raises ClientError."""
    if isinstance(port, Port):
        wanted = {"container_port": port.container_port, "protocol": port.protocol}
        return wanted | ({"route": port.route} if port.route else {})
    number, _, how = str(port).partition("/")
    if not number.isdecimal():
        raise ClientError(f'a port is like 80, "53/udp" or "80/https", not {port!r}')
    if how.lower() in ROUTES:
        return {"container_port": int(number), "protocol": "TCP", "route": how.lower()}
    return {"container_port": int(number), "protocol": how.upper() or "TCP"}


def _once(path: str, body: Mapping[str, Any], key: str) -> Steps[Any]:
    """Send a POST that counts only once."""
    headers = {IDEMPOTENCY_KEY: key or secrets.token_hex(16)}
    response: Response = yield Request(
        method="POST", path=path, body=dict(body), headers=headers, seconds=CHANGE_SECONDS, repeatable=True
    )
    return response.json()


def _deleted(path: str, seconds: float = SECONDS) -> Steps[None]:
    """Delete what is there. Raises NotFound, but not if the request was repeated because its first answer was lost."""
    response: Response = yield Request(method="DELETE", path=path, seconds=seconds, repeatable=True)
    try:
        response.json()
    except NotFound:
        if not response.uncertain:
            raise


def _change(stack: str | Stack, verb: str, body: Any = None, query: Query = ()) -> Steps[Stack]:
    path = f"{path_of(stack)}/{verb}"
    return _updated(stack, (yield from call("POST", path, body, query, seconds=CHANGE_SECONDS)))


def _updated(before: str | Stack, raw: Mapping[str, Any]) -> Stack:
    """The stack as it is now; it keeps its ``values``, which only the answer to its create has."""
    now = decode(Stack, raw)
    return now.replaced(values=before.values) if isinstance(before, Stack) else now

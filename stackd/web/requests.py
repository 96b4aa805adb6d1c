"""The bodies of requests: how they are received and parsed, and what no bound of ``contract`` says: which fields go together.

``contract`` has their fields. ``podspec`` owns what a pod spec may hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from json import JSONDecoder
from typing import Any, Final, ParamSpec, TypeVar

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError
from msgspec import DecodeError, json
from msgspec.structs import asdict

from stackd import contract
from stackd.clock import NANOSECONDS
from stackd.codes import ErrorCode
from stackd.config import Config
from stackd.contract import Body, Request
from stackd.errors import (
    Conflict,
    InvalidPodSpec,
    InvalidRequest,
    PermissionDenied,
    Reason,
    RequestTooLarge,
    StackdError,
)
from stackd.lifecycle.context import Context, CreateRequest
from stackd.metrics import INVALID
from stackd.model import NO_LABELS, NO_VALUES, JobAction, JobRequest, SanitizedSpec, TargetPort, WantedStack
from stackd.names import did_you_mean, require_unreserved
from stackd.podspec import LONG_SPEC, located, parse_target_ports
from stackd.podspec.decoding import decode, refusal
from stackd.podspec.members import declared_ports, sanitize_members, together
from stackd.podspec.reasons import below
from stackd.podspec.sanitize import target_ports
from stackd.templates import Template
from stackd.templates.readers import matches
from stackd.units import format_duration
from stackd.web.api import View
from stackd.web.bodies import in_turns
from stackd.web.parameters import seconds_of, short

MOST_PARTS: Final = 4_000
"""How many objects, lists and names a body may have: its parts take far longer to read than its bytes."""

BYTES_PER_PART: Final = 4
"""A pod spec may have one more for so many bytes of ``limits.pod_spec``: a text with more of them is none."""

PARTS_PER_CREATE: Final = 8
"""A batch job may have so many more of them for each stack."""

B = TypeVar("B", bound=Body)
P = ParamSpec("P")
T = TypeVar("T")
PLAIN: Final = frozenset({"", "identity", "chunked"})


def check_coding(request: web.BaseRequest) -> None:
    """Raise StackdError if the body is compressed. Nothing is decompressed: few bytes could become many."""
    headers = request.headers
    named = [*headers.getall(hdrs.CONTENT_ENCODING, ()), *headers.getall(hdrs.TRANSFER_ENCODING, ())]
    codings = {each.strip().lower() for text in named for each in text.split(",")}
    if request.body_exists and not codings <= PLAIN:
        sentence = "a compressed body (Content-Encoding, Transfer-Encoding) is not accepted; send it uncompressed"
        raise StackdError(sentence, code=ErrorCode.UNSUPPORTED_CODING)


async def read(request: web.BaseRequest, max_body: int, timeout: float, count: Callable[[int], None]) -> bytes:
    """The whole body; ``count`` gets the length of each piece of it, and may raise. Raises RequestTooLarge
    (``server.max_body``), InvalidRequest if it is not valid HTTP, or StackdError if it is slow (``limits.slow_client_timeout``).
    """
    body = bytearray()
    too_large = RequestTooLarge(f"the request body is larger than {max_body} bytes (server.max_body)")
    if request.content_length is not None and request.content_length > max_body:
        raise too_large
    try:
        async with asyncio.timeout(timeout):
            while piece := await request.content.readany():
                if len(body) + len(piece) > max_body:
                    raise too_large
                count(len(piece))
                body += piece
            return bytes(body)
    except TimeoutError:
        raise StackdError("the request did not arrive in time", code=ErrorCode.REQUEST_TIMEOUT) from None
    except (RequestPayloadError, HttpProcessingError) as exc:
        raise InvalidRequest(
            "the request body is not valid HTTP: its encoding, its length or the size of its chunks is wrong"
        ) from exc


def parse(body: bytes, kind: type[B], most_parts: int = MOST_PARTS) -> B:
    """The body as one of this kind, whatever its Content-Type says. Raises InvalidRequest with each mistake."""
    given: B = decode(kind, _object(body, most_parts))
    return given


def parse_many(body: bytes, kind: type[B], max_ids: int) -> B:
    """As ``parse``, of a batch job. Raises RequestTooLarge if it has more stacks (``batch_delete.max_ids``)."""
    value = _object(body, MOST_PARTS + PARTS_PER_CREATE * max_ids)
    for name in ("stack_ids", "each"):
        if isinstance(stacks := value.get(name), list) and len(stacks) > max_ids:
            raise RequestTooLarge(f"{name}: {len(stacks)} stacks; {max_ids} at most (batch_delete.max_ids)")
    given: B = decode(kind, value)
    return given


def _object(body: bytes, most_parts: int) -> dict[str, Any]:
    if sum(map(body.count, (b"{", b"[", b":"))) > most_parts:
        raise InvalidRequest(f"invalid request body: it has more than {most_parts} objects, lists and names")
    try:
        value = json.decode(body)
        _FIELDS_ONCE.decode(body.decode())
    except DecodeError as exc:
        raise InvalidRequest(f"invalid request body: not JSON: {exc}") from exc
    except RecursionError as exc:
        raise InvalidRequest("invalid request body: it is nested too deeply") from exc
    if not isinstance(value, dict):
        raise InvalidRequest("invalid request body: a JSON object is expected")
    return value


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Raise InvalidRequest if an object, at any depth, has a field twice: neither value is taken."""
    if len(dict(pairs)) == len(pairs):
        return
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidRequest(f"invalid request body: the field {short(name)!r} is given more than once")
        seen.add(name)


_FIELDS_ONCE: Final = JSONDecoder(object_pairs_hook=_once, parse_int=str, parse_float=str)


class Nothing(Request, frozen=True, kw_only=True):
    """The body of a route that takes none."""


def stack_ids(given: Iterable[str]) -> list[str]:
    """The ids of a batch job: trimmed, each once, in their order."""
    return list(dict.fromkeys(map(str.strip, given)))


async def batch(view: View, body: bytes) -> tuple[list[str], JobRequest]:
    """The stacks of a batch job, if the body names them, and what the job is to do. Raises InvalidRequest, PermissionDenied."""
    config, key = view.context.config, view.key
    max_ids = config.batch_delete.max_ids
    given = await _by_length(view.context, len(body), parse_many, body, contract.Batch, max_ids)
    action = JobAction(given.action)
    if action is JobAction.CREATE:
        return [], await _creates(view, given)
    for field in ("template", "env", "each", "if_exists"):
        if getattr(given, field) is not None:
            raise wrong(field, "goes with the action create, and only with that")
    if (action is JobAction.EXTEND) != (given.ttl is not None):
        raise wrong("ttl", 'goes with the action extend, and only with that, such as "30m"')
    if (given.stack_ids is None) == (given.labels is None):
        raise wrong("stack_ids", "give either stack_ids or labels")
    ttl = 0.0 if given.ttl is None else ttl_of(given.ttl, config.stacks.max_ttl)
    return stack_ids(given.stack_ids or ()), JobRequest(
        action=action,
        ttl=round(ttl * NANOSECONDS),
        labels=given.labels or NO_LABELS,
        among=key.labels,
        by=key.principal,
    )


async def _creates(view: View, given: contract.Batch) -> JobRequest:
    """A job that creates; each of its stacks is checked as the body of a create."""
    if given.each is None:
        raise wrong("each", "is required")
    if given.stack_ids is not None or given.labels is not None:
        raise wrong("stack_ids", "the action create has no stack_ids and no labels; give each of the stacks its own")
    common = contract.Create(template=given.template, ttl=given.ttl, env=given.env, if_exists=given.if_exists)
    _template_of(common, view)  # else each of the stacks would be wrong
    wanted = [await _wanted(view, common, *item) async for item in in_turns(enumerate(given.each))]
    return JobRequest(action=JobAction.CREATE, by=view.key.principal, labels=view.key.labels, each=tuple(wanted))


async def _wanted(view: View, common: contract.Create, index: int, item: contract.BatchCreate) -> WantedStack:
    own = {name: value for name, value in asdict(item).items() if value is not None}
    wanted = common.replaced(**own)
    try:
        if wanted.template is None:
            raise wrong("template", "is required, in the job or in each of its stacks")
        parsed = await _create_of(view, wanted, creates=True)
    except InvalidRequest as error:
        reasons = [replace(each, path=f"each[{index}].{each.path}") for each in error.reasons]
        raise refusal(reasons, error.code) from error
    request, once = parsed.create_request, parsed.return_existing
    return WantedStack(
        index=index, labels=request.labels, ttl=request.ttl, env=request.env, template=wanted.template, once=once
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBody:
    """A create request, and whether an existing stack at the label's limit is returned instead.

    ``text`` is the pod spec as it was sent; empty if the request names a template.
    """

    create_request: CreateRequest
    return_existing: bool
    text: str


async def create_body(view: View, body: bytes, *, creates: bool = True) -> CreateBody:
    """Parse the body of a create. If it ``creates``, it must have the labels of ``limits.required_labels``, and a pod spec
    only if the key may send one.

    ``view`` is that of the request's key. Raises InvalidRequest, InvalidPodSpec, PermissionDenied.
    """
    phase_timer = view.context.metrics.phase_timer()
    try:
        most_parts = MOST_PARTS + view.context.config.limits.pod_spec // BYTES_PER_PART
        return await _create_of(view, parse(body, contract.Create, most_parts), creates=creates)
    except InvalidRequest:
        view.context.metrics.creates[INVALID] += 1
        raise
    finally:
        phase_timer.end("validate")


async def _create_of(view: View, given: contract.Create, *, creates: bool) -> CreateBody:
    context, key = view.context, view.key
    template = _template_of(given, view)
    if template is None and given.pod_spec is None:
        raise wrong("pod_spec", "is required")
    if template is None and creates and not key.pod_specs:
        sentence = f"the API key {key.name!r} creates stacks from templates only (pod_specs = false)"
        raise PermissionDenied(sentence, code=ErrorCode.TEMPLATES_ONLY)
    if template is not None and template.shared and key.tenant:
        sentence = f"{template.name} is shared: it has one stack, which stackd keeps, and no others are created from it"
        raise Conflict(sentence, code=ErrorCode.SHARED_TEMPLATE)
    ttl, of_template = (None, NO_LABELS) if template is None else (template.ttl, template.labels)
    if given.ttl is not None:
        ttl = ttl_of(given.ttl, context.config.stacks.max_ttl)
    labels = unreserved(given.labels or NO_LABELS)
    if of_template or key.labels:
        labels = decode(contract.Labels, view.labels_of_create(labels, of_template), "labels")
    if creates:
        check_required(labels, context.config.limits.required_labels)
    if template is not None:
        ports, spec, text = template.target_ports, template.spec, ""
    else:
        text = given.pod_spec or ""
        ports = target_ports(given.target_port or ())
        if refusals := context.config.routes.refusals(ports):
            raise refusal(refusals)
        spec = await _by_length(context, len(text), context.settings.sanitizer.sanitize, text, ports)
        ports = ports or _declared(spec)
        if given.members:
            spec = together(spec, await _members(context, given.members))
            if len(spec.text) > context.config.limits.pod_spec:
                raise wrong("members", f"all pod specs together are longer than {context.config.limits.pod_spec} bytes")
    create_request = CreateRequest(
        spec=spec,
        env=NO_VALUES if given.env is None else await asyncio.to_thread(env_of, given.env, template),
        target_ports=ports,
        ttl=ttl,
        labels=labels,
        by=key.principal,
        template=template,
        among=key.among,
        others=key.others,
        quotas=key.quotas(None if template is None else template.name),
        may_use=key.may_use,
    )
    return CreateBody(create_request=create_request, return_existing=given.if_exists == "return", text=text)


async def _by_length(context: Context, length: int, read: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """What ``read`` returns. A long text takes it up to 50 ms: outside of the loop, one at a time."""
    if length <= LONG_SPEC:
        return read(*args, **more)
    async with context.settings.long_specs:
        return await asyncio.to_thread(read, *args, **more)


async def _members(context: Context, given: Mapping[str, contract.NewMember]) -> dict[str, SanitizedSpec]:
    """Their pods by their names. Raises InvalidRequest."""
    texts = {name: member.pod_spec for name, member in given.items()}
    length = sum(map(len, texts.values()))
    return await _by_length(context, length, sanitize_members, texts, context.settings.sanitizer.sanitize)


def _declared(spec: SanitizedSpec) -> tuple[TargetPort, ...]:
    """The ports that the containers declare which keep running. Raises InvalidRequest if none can be published."""
    entries = declared_ports(spec.manifest)
    if not entries:
        raise wrong("target_port", "is required: no container of the pod spec declares a TCP or UDP port")
    return parse_target_ports([{"container_port": number, "protocol": protocol} for number, protocol in entries])


def _template_of(given: contract.Create, view: View) -> Template | None:
    """The template that the body names, or None. Raises InvalidRequest."""
    if given.template is None:
        return None
    for name in ("target_port", "pod_spec", "members"):
        if getattr(given, name) is not None:
            raise wrong("template", f"template and {name} exclude each other; the template has its own")
    if (template := view.template(given.template)) is None:
        templates = view.templates()
        hint = (
            did_you_mean(given.template, templates)
            if templates
            else "; there are no templates that this API key may use (templates.directory)"
        )
        raise wrong("template", f'there is no "{given.template[:64]}"{hint}', ErrorCode.TEMPLATE_NOT_FOUND)
    return template


def env_of(given: Mapping[str, Any], template: Template | None) -> Mapping[str, str]:
    """The field ``env``: variables that the template names, with values that match their patterns. Raises InvalidRequest.

    The template's patterns may have to be compiled, which takes long: not for the event loop.
    """
    if template is None:
        raise wrong("env", "goes with a template, which says what may be set", ErrorCode.INVALID_ENV)
    for name, text in given.items():
        path = below("env", name)
        if name not in template.env:
            hint = did_you_mean(name, template.env) if template.env else "; it has none"
            raise wrong(
                path, f"{template.name} has no such variable that a create may set{hint}", ErrorCode.INVALID_ENV
            )
        if not isinstance(text, str) or not matches(template.env[name], text):
            raise wrong(path, f"must be a text that matches {template.env[name]} as a whole", ErrorCode.INVALID_ENV)
    return given or NO_VALUES


@contextmanager
def refusals_located(parsed: CreateBody) -> Iterator[None]:
    """Add the lines of the caller's text to a refusal of the cluster, which names fields by path only."""
    try:
        yield
    except InvalidPodSpec as error:
        raise located(error, parsed.text) from error


def wrong(path: str, text: str, code: ErrorCode = ErrorCode.INVALID_REQUEST) -> InvalidRequest:
    """The error for a body of which this field is wrong."""
    return refusal([Reason(path=path, text=text)], code)


def check_required(labels: Mapping[str, str], required: tuple[str, ...]) -> None:
    """Letter case matters: a label in another spelling is another label."""
    missing = [name for name in required if not labels.get(name)]
    if missing:
        text = f"{', '.join(missing)} must be given (limits.required_labels)"
        raise wrong("labels", text, ErrorCode.LABELS_REQUIRED)


def relabelled(labels: Mapping[str, str], *, given: Mapping[str, str | None], config: Config) -> dict[str, str]:
    """These labels of a stack, changed as a request wants. Raises InvalidRequest, also if they say whose stack it is."""
    tenants = {name.lower() for key in config.auth.keys if key.tenant for name in key.labels}
    for name, value in given.items():
        if labels.get(name) == value:
            continue
        if name.lower() in tenants:
            raise wrong(below("labels", name), "says which tenant's stack it is, and does not change; leave it out")
        unreserved({name: value or ""})
    merged = {name: value for name, value in {**labels, **given}.items() if value is not None}
    check_required(merged, tuple(name for name in config.limits.required_labels if labels.get(name)))
    decoded: dict[str, str] = decode(contract.Labels, merged, "labels")
    return decoded


def ttl_of(text: str, most: float) -> float:
    """The seconds of a field ``ttl``: at least a nanosecond, ``most`` at most (``stacks.max_ttl``)."""
    seconds = duration_of("ttl", text)
    if not 0 < seconds <= most or not round(seconds * NANOSECONDS):
        raise wrong("ttl", f"must be above zero and at most {format_duration(most)}, not {text[:64]}")
    return seconds


def duration_of(path: str, text: str) -> float:
    try:
        return seconds_of(text)
    except ValueError as error:
        raise wrong(path, f"must be {error}") from error


def unreserved(labels: Mapping[str, str]) -> Mapping[str, str]:
    """The labels of a request, none of which is stackd's own."""
    try:
        require_unreserved(labels)
    except ValueError as error:
        raise wrong("labels", str(error)) from error
    return labels

"""From a value as it was read from JSON or YAML to a type of ``contract``, or every mistake in it.

msgspec decides whether a value fits, by the types and bounds of ``contract``, and names its first mistake only. So whatever
does not fit is looked at piece by piece, to name each one by its path, with what would be right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from msgspec import Meta, ValidationError, convert

from stackd.codes import ErrorCode
from stackd.contract import Body, fields_of, is_body
from stackd.errors import InvalidRequest, Reason
from stackd.names import did_you_mean
from stackd.podspec.reasons import below, shown

UNKNOWN: Final = "unknown field"
MOST_MISTAKES: Final = 20
NOUNS: Final = {int: "a whole number", str: "a string", bool: "true or false", tuple: "a list", Mapping: "an object"}


def decode(kind: Any, value: object, path: str = "") -> Any:
    """The value as one of this type. Raises InvalidRequest with its mistakes, by their paths below ``path``."""
    try:
        return convert(value, kind)
    except ValidationError as error:
        reasons = list(islice(_mistakes(kind, value, path), MOST_MISTAKES)) or [Reason(path=path, text=str(error))]
        code = ErrorCode.UNKNOWN_FIELD if reasons[0].text.startswith(UNKNOWN) else ErrorCode.INVALID_REQUEST
        raise refusal(reasons, code) from error


def refusal(reasons: Sequence[Reason], code: ErrorCode = ErrorCode.INVALID_REQUEST) -> InvalidRequest:
    return InvalidRequest(f"invalid request body: {'; '.join(map(str, reasons))}", reasons, code=code)


def _mistakes(kind: Any, value: object, path: str) -> Iterator[Reason]:
    try:
        convert(value, kind)
    except ValidationError:
        if found := list(islice(_inner(_plain(kind), value, path), MOST_MISTAKES)):
            yield from found
        else:
            yield Reason(path=path, text=f"must be {_expected(kind)}{_hint(kind, value)}")


def _inner(kind: Any, value: Any, path: str) -> Iterator[Reason]:
    inner = get_args(kind)
    if is_body(kind) and isinstance(value, dict):
        yield from _in_object(kind, value, path)
    elif get_origin(kind) is tuple and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _mistakes(inner[0], item, f"{path}[{index}]")
    elif get_origin(kind) is Mapping and isinstance(value, dict):
        for name, item in value.items():
            here = below(path, str(name))
            for wrong in _mistakes(inner[0], name, here):
                yield Reason(path=here, text=f"the name {wrong.text}")
            yield from _mistakes(inner[1], item, here)


def _in_object(kind: type[Body], value: dict[Any, Any], path: str) -> Iterator[Reason]:
    fields = fields_of(kind)
    names = [each.name for each in fields]
    for name in value:
        if name not in names:
            known = f"; known are {', '.join(names)}" if names else "; there are none here"
            text = f"{UNKNOWN}{did_you_mean(str(name), names) or known}"
            yield Reason(path=below(path, str(name)), text=text)
    for each in fields:
        here = below(path, each.name)
        if value.get(each.name) is not None:
            yield from _mistakes(each.kind, value[each.name], here)
        elif not each.optional:
            yield Reason(path=here, text="is required")


def _plain(kind: Any) -> Any:
    """The type without its bounds, and without null."""
    while get_origin(kind) is Annotated or NoneType in get_args(kind):
        kind = get_args(kind)[0]
    return kind


def _expected(kind: Any) -> str:
    """What would be right, as a noun phrase."""
    if NoneType in get_args(kind):
        return _expected(get_args(kind)[0])
    typed, *metas = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    for meta in reversed(metas):
        if isinstance(meta, Meta) and meta.extra:
            return str(meta.extra["expects"])
    if get_origin(typed) is Literal:
        values = get_args(typed)
        return f'"{values[0]}"' if len(values) == 1 else f"one of {', '.join(values)}"
    bounds = [f" from {meta.ge} to {meta.le}" for meta in metas if meta.ge is not None]
    return NOUNS.get(get_origin(typed) or typed, "an object") + "".join(bounds)


def _hint(kind: Any, value: object) -> str:
    """What the value is where that helps: one of a list that may be misspelt."""
    plain = _plain(kind)
    if get_origin(plain) is not Literal or not isinstance(value, str):
        return ""
    return f", not {shown(value)}{did_you_mean(value, get_args(plain))}"

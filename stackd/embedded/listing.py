"""Lists: selection, pages and continue tokens. Knows no HTTP library."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from itertools import islice

import orjson

from stackd.embedded.request import RequestInfo, whole_number
from stackd.embedded.resources import Json
from stackd.embedded.selectors import EVERYTHING, parse
from stackd.embedded.status import StatusError, bad_request, expired
from stackd.embedded.store import Collection, Key, Record

_TOKEN_VERSION = "meta.k8s.io/v1"
_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


def list_objects(collection: Collection, now: int, target: RequestInfo, query: Mapping[str, str]) -> bytes:
    """The body of the answer at the revision ``now``. Raises ApiError 400 or 410."""
    selector = parse(target.resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
    limit = whole_number(query, "limit") or 0
    after, revision = _read_token(query.get("continue", ""), collection, now)
    found: Iterable[Record] = collection.select(target.namespace, selector, after)
    page = list(islice(found, limit)) if limit else list(found)
    more = sum(1 for _ in found) if limit else 0
    metadata: Json = {"resourceVersion": str(revision)}
    if more:
        metadata["continue"] = _token(revision, page[-1].key)
        if selector is EVERYTHING:
            metadata["remainingItemCount"] = more
    head = {"kind": f"{target.resource.kind}List", "apiVersion": target.resource.api_version, "metadata": metadata}
    return orjson.dumps(head)[:-1] + b',"items":[' + b",".join(record.body() for record in page) + b"]}"


def _token(revision: int, last: Key) -> str:
    start = "/".join(part for part in last if part) + "\0"
    token = orjson.dumps({"v": _TOKEN_VERSION, "rv": revision, "start": f"/{start}", "key": last})
    return base64.urlsafe_b64encode(token).decode().rstrip("=")


def _read_token(text: str, collection: Collection, now: int) -> tuple[Key | None, int]:
    if not text:
        return None, now
    try:
        token = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        namespace, name = token["key"]
        revision = int(token["rv"])
    except (binascii.Error, ValueError, KeyError, TypeError) as exc:
        raise bad_request("continue key is not valid: " + str(exc)) from exc
    if revision < 0:
        return (namespace, name), now
    if revision < collection.floor:
        raise _too_old(namespace, name)
    return (namespace, name), revision


def _too_old(namespace: str, name: str) -> StatusError:
    error = expired(_TOO_OLD)
    error.metadata = {"continue": _token(-1, (namespace, name))}
    return error

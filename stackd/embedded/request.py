"""What a request asks for, from its method, path and query (with label and field selectors). Uses no HTTP library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stackd.embedded.resources import BY_PATH, Json, Resource, StatusError

_SUBRESOURCES = {"pods/log", "serviceaccounts/token"}
"""Those that only one kind has; each has its status."""

_VERBS = {
    ("GET", False): "list",
    ("GET", True): "get",
    ("POST", False): "create",
    ("PUT", True): "update",
    ("PATCH", True): "patch",
    ("DELETE", True): "delete",
}


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """An object or a collection, and the verb for it."""

    resource: Resource
    verb: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def full_resource(self) -> str:
        """The resource with the subresource, as RBAC names it."""
        return f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural


def read_target(method: str, path: str, query: Mapping[str, str]) -> RequestInfo:
    """What the request asks for. Raises StatusError 404 or 405."""
    group, version, rest = "", "", path.strip("/").split("/")
    if rest[:2] == ["api", "v1"]:
        version, rest = "v1", rest[2:]
    elif rest[0] == "apis" and len(rest) > 3:
        group, version, rest = rest[1], rest[2], rest[3:]
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in {"status", "finalize"}:
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0] if rest else ""))
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    known = subresource in {"", "status"} or "/".join(rest[::2]) in _SUBRESOURCES
    if resource is None or len(rest) > 3 or not known:
        raise StatusError(404, "NotFound", "the server could not find the requested resource", {})
    verb = _VERBS.get((method, bool(name)))
    if subresource == "token":
        verb = "create" if method == "POST" else None
    if verb is None or (subresource == "log" and method != "GET"):
        sentence = "the server does not allow this method on the requested resource"
        raise StatusError(405, "MethodNotAllowed", sentence, {})
    if verb == "list" and is_true(query.get("watch")):
        verb = "watch"
    return RequestInfo(resource, verb, namespace, name, subresource)


def is_true(text: str | None) -> bool:
    """A boolean of the query, as Kubernetes reads it."""
    return text is not None and text.lower() not in {"", "0", "false"}


def integer(query: Mapping[str, str], name: str) -> int | None:
    """A number of the query, None if it is missing."""
    text = query.get(name)
    return int(text) if text else None


_FIELD = re.compile(r"([\w./-]+)(==?|!=)(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """The label and field requirements of a list or watch: labels have a value, or are ``present``; fields have a value, or
    have it not.
    """

    labels: tuple[tuple[str, str], ...] = ()
    present: tuple[str, ...] = ()
    fields: tuple[tuple[str, bool, str], ...] = ()

    def matches(self, obj: Json) -> bool:
        own = labels_of(obj)
        return (
            all(own.get(key) == value for key, value in self.labels)
            and all(key in own for key in self.present)
            and all((_field(obj, path) == value) is equal for path, equal, value in self.fields)
        )


EVERYTHING = Selector()


def selector_of(query: Mapping[str, str]) -> Selector:
    """The selector of a request: equalities and names of labels, equalities and inequalities of fields."""
    labels = [part.partition("=") for part in query.get("labelSelector", "").split(",") if part]
    fields = tuple(_FIELD.fullmatch(part) for part in query.get("fieldSelector", "").split(",") if part)
    if not labels and not fields:
        return EVERYTHING
    return Selector(
        labels=tuple((key, value) for key, equal, value in labels if equal),
        present=tuple(key for key, equal, _ in labels if not equal),
        fields=tuple((match[1], match[2] != "!=", match[3]) for match in fields if match is not None),
    )


def selected_name(verb: str, query: Mapping[str, str]) -> str:
    """The only name that a list or watch selects, for RBAC; empty if there is none."""
    fields = selector_of(query).fields if verb in {"list", "watch"} else ()
    return next((value for path, equal, value in fields if path == "metadata.name" and equal), "")


def labels_of(obj: Json) -> Json:
    labels: Json = obj["metadata"].get("labels") or {}
    return labels


def _field(obj: Json, path: str) -> str:
    part: object = obj
    for step in path.split("."):
        part = part.get(step, "") if isinstance(part, dict) else ""
    return str(part)

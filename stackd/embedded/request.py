"""What a request is about, read off its method, path and query. Knows no HTTP library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stackd.embedded.resources import BY_PATH, NAMESPACES, Resource
from stackd.embedded.status import bad_request, method_not_allowed, no_such_path

_SUBRESOURCES = {
    "pods": {"log", "status"},
    "nodes": {"status"},
    "services": {"status"},
    "resourcequotas": {"status"},
    "serviceaccounts": {"token"},
}
_VERBS = {
    ("GET", False): "list",
    ("GET", True): "get",
    ("POST", False): "create",
    ("PUT", True): "update",
    ("PATCH", True): "patch",
    ("DELETE", True): "delete",
    ("DELETE", False): "deletecollection",
}


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """An object or a collection, and what is to be done with it."""

    resource: Resource
    verb: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def full_resource(self) -> str:
        """With the subresource, as RBAC names it."""
        return f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural


def read_target(method: str, path: str, query: Mapping[str, str]) -> RequestInfo:
    """What the request wants. Raises ApiError 404 or 405."""
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        group, version, rest = "", "v1", parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise no_such_path()
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in {"status", "finalize"}:
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0] if rest else ""))
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if resource is None or len(rest) > 3 or (subresource and subresource not in _SUBRESOURCES.get(resource.plural, ())):
        raise no_such_path()
    if resource is not NAMESPACES and bool(namespace) != resource.namespaced and (name or namespace or method != "GET"):
        raise method_not_allowed() if resource.namespaced and not name else no_such_path()
    verb = _VERBS.get((method, bool(name)))
    if subresource == "token":
        verb = "create" if method == "POST" else None
    if verb is None or (subresource == "log" and method != "GET"):
        raise method_not_allowed()
    if verb == "list" and is_true(query.get("watch")):
        verb = "watch"
    return RequestInfo(resource, verb, namespace, name, subresource)


def is_true(text: str | None) -> bool:
    """How Kubernetes reads a boolean of the query."""
    return text is not None and text.lower() not in {"", "0", "false"}


def whole_number(query: Mapping[str, str], name: str) -> int | None:
    """A number of the query, if it is given. Raises ApiError 400."""
    text = query.get(name)
    if text is None or text == "":
        return None
    try:
        return int(text)
    except ValueError as exc:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from exc

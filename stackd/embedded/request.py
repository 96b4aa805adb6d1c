"""What a request asks for, from its method, path and query (with label and field selectors). Uses no HTTP library."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stackd.embedded.resources import (
    BY_PATH,
    EVENTS,
    NAMESPACES,
    Json,
    Resource,
    bad_request,
    method_not_allowed,
    no_such_path,
)

_SUBRESOURCES = {
    "pods": {"log", "status"},
    "nodes": {"status"},
    "services": {"status"},
    "resourcequotas": {"status"},
    "gateways": {"status"},
    "httproutes": {"status"},
    "tlsroutes": {"status"},
    "serviceaccounts": {"token"},
}
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
    """A boolean of the query, as Kubernetes reads it."""
    return text is not None and text.lower() not in {"", "0", "false"}


def whole_number(query: Mapping[str, str], name: str) -> int | None:
    """A number of the query, None if it is missing. Raises StatusError 400."""
    text = query.get(name)
    if text is None or text == "":
        return None
    try:
        return int(text)
    except ValueError as exc:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from exc


Test = Callable[[Json], bool]

_LABEL = re.compile(r"\s*([\w./-]+)\s*==?\s*([\w.-]*)\s*")
_FIELD = re.compile(r"\s*([\w./-]+)\s*(==|=|!=)\s*(.*?)\s*")

_FIELDS = {EVENTS.kind: frozenset({"involvedObject.name", "involvedObject.uid", "reason"})}
"""The indexed fields of the kinds, beside those of all."""
_NAMES = frozenset({"metadata.name", "metadata.namespace"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """The label and field requirements of a list or watch."""

    tests: tuple[Test, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    """The plain equalities among the label requirements, for the label index."""

    def matches(self, obj: Json) -> bool:
        """Whether the object meets every requirement."""
        return all(test(obj) for test in self.tests)


EVERYTHING = Selector()


def parse(resource: Resource, label_text: str, field_text: str) -> Selector:
    """The selector for both query parameters. Raises StatusError 400."""
    if not label_text and not field_text:
        return EVERYTHING
    labels = [_label(part) for part in label_text.split(",") if part.strip()]
    tests = [_label_test(key, value) for key, value in labels]
    parts = [part for part in field_text.split(",") if part.strip()]
    tests += (_field_test(*_field(resource, part, label_text, field_text)) for part in parts)
    return Selector(tests=tuple(tests), labels=tuple(labels))


def selected_name(verb: str, query: Mapping[str, str]) -> str:
    """The only name that a list or watch selects, for RBAC; empty if there is none."""
    if verb not in {"list", "watch"}:
        return ""
    for part in query.get("fieldSelector", "").split(","):
        if (match := _FIELD.fullmatch(part)) and match[1] == "metadata.name" and match[2] != "!=":
            return match[3]
    return ""


def labels_of(obj: Json) -> Json:
    """The object's labels."""
    labels: Json = obj["metadata"].get("labels") or {}
    return labels


def _label(part: str) -> tuple[str, str]:
    """Equality; the other forms of a requirement are refused, although a real server accepts them."""
    if (match := _LABEL.fullmatch(part)) is None:
        raise bad_request(f"unable to parse requirement: found '{part.strip()}', expected: a label requirement")
    return match[1], match[2]


def _label_test(key: str, value: str) -> Test:
    return lambda obj: labels_of(obj).get(key) == value


def _field(resource: Resource, part: str, label_text: str, field_text: str) -> tuple[str, bool, str]:
    match = _FIELD.fullmatch(part)
    if match is None:
        raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
    field, operator, value = match.groups()
    if field not in _NAMES and field not in _FIELDS.get(resource.kind, ()):
        kind = f"{resource.group}/{resource.version}, Resource={resource.plural}"
        raise bad_request(
            f'Unable to find "{kind}" that match label selector "{label_text}", field selector "{field_text}": '
            f"field label not supported: {field}"
        )
    return field, operator != "!=", value


def _field_test(field: str, equal: bool, value: str) -> Test:
    path = tuple(field.split("."))

    def test(obj: Json) -> bool:
        part: object = obj
        for step in path:
            part = part.get(step, "") if isinstance(part, dict) else ""
        return (str(part) == value) == equal

    return test

"""What counts as an answer of Kubernetes to a request, and what does not, whatever its status code."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from stackd.errors import ClusterRefused, NamespaceMissing, UnexpectedAnswer
from stackd.kube.wire import KINDS, PASSING, TOKENS, KubeRequest, KubeResponse, check, error_of
from tests.kube.wire import all_recordings, answered, asked, recording, status

OURS = [
    name
    for name in all_recordings()
    if "response" in recording(name) and asked(recording(name)).resource in (*KINDS, "version", "pods/log")
]
DONE = [name for name in OURS if recording(name)["response"]["status"] < 300]
JSON_OR_REFUSED = [name for name in OURS if not isinstance(recording(name)["response"]["body"], str)]
LISTS = [name for name in DONE if asked(recording(name)).verb == "list"]
ONE_OBJECT = [
    name
    for name in sorted({*DONE} & {*JSON_OR_REFUSED} - {*LISTS})
    if asked(recording(name)).resource != TOKENS and "name" in recording(name)["response"]["body"].get("metadata", {})
]
PAGE = b"<html><body><h1>It works!</h1></body></html>\n"
FLAG = b"flag{0123456789abcdef}"
Changes = tuple[tuple[str, object], ...]


def refused(call: KubeRequest, answer: KubeResponse) -> str:
    with pytest.raises(UnexpectedAnswer) as caught:
        check(call, answer)
    assert "html" not in str(caught.value).lower()
    return str(caught.value)


def as_json(code: int, document: Any) -> KubeResponse:
    return KubeResponse(status=code, body=json.dumps(document).encode(), content_type="application/json")


def altered(name: str, path: str = "", value: object = None) -> tuple[KubeRequest, KubeResponse]:
    """The recording, with the field at ``path`` replaced, or removed if ``value`` is None."""
    document = recording(name)
    at = document["response"]["body"]
    *parts, last = path.split(".")
    for part in parts:
        at = at[part]
    if value is None:
        at.pop(last, None)
    else:
        at[last] = value
    return asked(document), answered(document)


@pytest.mark.parametrize("name", OURS)
def test_only_what_a_real_api_server_has_answered_is_believed(name: str) -> None:
    document = recording(name)
    call, answer = asked(document), answered(document)
    assert call.path == document["request"]["path"].partition("?")[0]
    check(call, answer)
    for code in (200, 201, 203, 302, 400, 401, 403, 404, 409, 410, 413, 422):
        refused(call, KubeResponse(status=code, body=PAGE, content_type="text/html"))
    if name in JSON_OR_REFUSED and answer.status not in PASSING:
        for part in (0.0, 0.5, 0.99):  # it is cut short
            refused(call, replace(answer, body=answer.body[: int(len(answer.body) * part)]))
        junk: tuple[object, ...] = ({}, [], None, "ok", 0, {"ok": True}, {"kind": "Status"}, {"metadata": {}})
        refused(call, replace(answer, body=b"[" * 5000 + b"]" * 5000))
        for one in junk:
            refused(call, as_json(answer.status, one))


@pytest.mark.parametrize("code", sorted(PASSING))
def test_a_page_of_an_overloaded_server_is_worth_another_try(code: int) -> None:
    call, answer = asked(recording("pod-delete-404")), KubeResponse(status=code, body=PAGE, content_type="text/html")
    check(call, answer)
    assert f"it answered {code} to delete pods in namespace rec" in str(error_of(call, answer))


# What makes another answer of one: of an object, of a list, of a status that an object is missing, and of others.
OBJECT: Changes = (
    ("kind", "Secret"), ("kind", None), ("apiVersion", "v2"), ("metadata", None), ("metadata.name", "another"),
    ("metadata.name", None), ("metadata.uid", None), ("metadata.uid", 7),
)  # fmt: skip
LIST: Changes = (
    ("items", None), ("items", {}), ("metadata", None), ("metadata.resourceVersion", ""),
    ("metadata.resourceVersion", "0"), ("metadata.continue", 3), ("kind", "List"),
)  # fmt: skip
STATUS: Changes = (
    ("details", None), ("details.name", "another"), ("details.kind", "namespaces2"), ("status", "Success"), ("code", 403),
    ("apiVersion", "v2"),
)  # fmt: skip
OTHERS: dict[str, Changes] = {
    "pod-create-404-namespace": (("details.name", "another"), ("details.kind", "pods")),
    "token-request-201": (("metadata.namespace", "another"), ("metadata.name", "another"), ("status.token", 7)),
    "token-request-404": (("details.name", "another"),),
}
MISSING = ["pod-get-404", "pod-delete-404", "service-delete-404", "namespace-get-404"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [*product(ONE_OBJECT, [OBJECT]), *product(LISTS, [LIST]), *product(MISSING, [STATUS]), *OTHERS.items()],
)
def test_an_answer_is_about_what_was_asked_for_or_none(name: str, changes: Changes) -> None:
    for path, value in changes:
        refused(*altered(name, path, value))


@pytest.mark.parametrize("name", [name for name in ONE_OBJECT if asked(recording(name)).namespace])
def test_an_object_of_another_namespace_is_none(name: str) -> None:
    refused(*altered(name, "metadata.namespace", "another"))


@pytest.mark.parametrize("name", ["pod-delete-200-grace0", "service-delete-200"])
def test_a_delete_of_another_uid_is_not_the_one_that_was_asked_for(name: str) -> None:
    call, answer = altered(name)
    check(replace(call, uid=recording(name)["response"]["body"]["metadata"]["uid"]), answer)
    assert "of another uid" in refused(replace(call, uid="another"), answer)


def test_a_namespace_is_missing_if_a_status_says_so() -> None:
    call = asked(recording("pods-list-empty"))
    refused(call, as_json(404, status(404, "NotFound", "the server could not find the requested resource")))
    call = asked(recording("pod-create-404-namespace"))
    missing = as_json(404, status(404, "NotFound", "not found", kind="namespaces", name=call.namespace))
    check(call, missing)
    assert isinstance(error_of(call, missing), NamespaceMissing)


def test_a_path_that_is_not_there_is_a_missing_crd_only_for_routes() -> None:
    """Before, a log for which something answered so was a KeyError."""
    answer = KubeResponse(status=404, body=b"404 page not found\n", content_type="text/plain")
    for resource in ("pods/log", "version", "pods"):
        refused(KubeRequest(verb="get", resource=resource, namespace="rec", name="p"), answer)
    with pytest.raises(ClusterRefused, match="does not serve httproutes: install the CRDs"):
        check(KubeRequest(verb="list", resource="httproutes", namespace="rec"), answer)


def test_older_api_servers_send_a_token_without_a_uid() -> None:
    check(*altered("token-request-201", "metadata.uid"))


DELETE = KubeRequest(verb="delete", resource="services", namespace="rec", name="s", uid="u1")


@pytest.mark.parametrize(
    ("details", "believed"),
    [
        ({}, True),
        ({"name": "s", "kind": "services", "uid": "u1"}, True),
        ({"name": "another", "kind": "services"}, False),
        ({"name": "s", "kind": "services", "uid": "u2"}, False),
    ],
)
def test_a_status_of_a_delete_is_believed_if_it_is_about_it(details: dict[str, str], *, believed: bool) -> None:
    answer = as_json(200, {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details})
    (check if believed else refused)(DELETE, answer)
    refused(DELETE, as_json(200, status(404, "NotFound", "no", **details)))  # a failure that comes with 200


@pytest.mark.parametrize("kind", ["text/html", "application/json", ""])
def test_a_log_is_plain_text(kind: str) -> None:
    document = recording("pod-log-200")
    refused(asked(document), replace(answered(document), content_type=kind))


@pytest.mark.parametrize(
    ("call", "body", "quoted"),
    [
        (KubeRequest(verb="delete", resource="pods", name="p", body=b"{}"), PAGE * 100, ": b'<html><body>"),
        (KubeRequest(verb="create", resource="pods", name="p", body=b"{}"), b"<p>refused: " + FLAG, ""),
        (KubeRequest(verb="list", resource="pods"), b' {"items": [{"value": "' + FLAG, ""),
        (KubeRequest(verb="get", resource="pods/log", name="p"), FLAG, ""),
    ],
)
def test_the_excerpt_is_short_and_repeats_no_generated_value(call: KubeRequest, body: bytes, quoted: str) -> None:
    """The excerpt is logged before any stack's values are hidden."""
    with pytest.raises(UnexpectedAnswer) as caught:
        check(call, KubeResponse(status=404, body=body, content_type="text/html"))
    start = f"404 text/html, {len(body)} bytes{quoted}"
    assert caught.value.excerpt.startswith(start) if quoted else caught.value.excerpt == start
    assert len(caught.value.excerpt) < 300

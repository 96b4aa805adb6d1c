"""What counts as an answer of Kubernetes to a request, and what does not, whatever its status code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stackd.errors import ClusterRefused, UnexpectedAnswer
from stackd.kube.wire import KINDS, PASSING, TOKENS, KubeRequest, KubeResponse, check, error_of
from tests.kube.wire import all_recordings, answered, asked, recording, status

OURS = [
    name
    for name in all_recordings()
    if "response" in recording(name) and asked(recording(name)).resource in (*KINDS, "version", "pods/log")
]
DONE = [name for name in OURS if recording(name)["response"]["status"] < 300]
LISTS = [name for name in DONE if asked(recording(name)).verb == "list"]
JSON_OR_REFUSED = [name for name in OURS if not isinstance(recording(name)["response"]["body"], str)]
ONE_OBJECT = [
    name
    for name in DONE
    if name not in LISTS
    and asked(recording(name)).resource != TOKENS
    and not isinstance(recording(name)["response"]["body"], str)
    and "name" in recording(name)["response"]["body"].get("metadata", {})
]
PAGE = b"<html><body><h1>It works!</h1></body></html>\n"
FLAG = b"flag{0123456789abcdef}"
Change = Callable[[dict[str, Any]], object]


def refused(call: KubeRequest, answer: KubeResponse) -> str:
    with pytest.raises(UnexpectedAnswer) as caught:
        check(call, answer)
    assert "html" not in str(caught.value).lower()
    return str(caught.value)


def as_json(code: int, document: Any) -> KubeResponse:
    return KubeResponse(status=code, body=json.dumps(document).encode(), content_type="application/json")


def altered(name: str, change: Change) -> tuple[KubeRequest, KubeResponse]:
    document = recording(name)
    change(document["response"]["body"])
    return asked(document), answered(document)


@pytest.mark.parametrize("name", OURS)
def test_what_a_real_api_server_has_answered_is_believed_and_nothing_else(name: str) -> None:
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
        for one in junk:
            refused(call, as_json(answer.status, one))


@pytest.mark.parametrize("code", sorted(PASSING))
def test_a_page_of_an_overloaded_server_is_worth_another_try_and_its_text_goes_nowhere(code: int) -> None:
    call, answer = asked(recording("pod-delete-404")), KubeResponse(status=code, body=PAGE, content_type="text/html")
    check(call, answer)
    detail = f"it answered {code} to delete pods in namespace rec"
    assert str(error_of(call, answer)) == f"Kubernetes cannot process this now (retry): {detail}"


@pytest.mark.parametrize("name", ONE_OBJECT)
def test_another_object_than_the_one_that_was_asked_for_is_none(name: str) -> None:
    changes: tuple[Change, ...] = (
        lambda body: body.update(kind="Secret"),
        lambda body: body.pop("kind"),
        lambda body: body.update(apiVersion="v2"),
        lambda body: body.pop("metadata"),
        lambda body: body["metadata"].update(name="another"),
        lambda body: body["metadata"].pop("name"),
        lambda body: body["metadata"].pop("uid"),
        lambda body: body["metadata"].update(uid=7),
    )
    for change in changes:
        refused(*altered(name, change))
    if asked(recording(name)).namespace:
        refused(*altered(name, lambda body: body["metadata"].update(namespace="another")))


@pytest.mark.parametrize("name", ["pod-delete-200-grace0", "service-delete-200"])
def test_a_delete_of_another_uid_is_not_the_one_that_was_asked_for(name: str) -> None:
    document = recording(name)
    call, answer = asked(document), answered(document)
    check(replace(call, uid=document["response"]["body"]["metadata"]["uid"]), answer)
    assert refused(replace(call, uid="another"), answer).endswith("of another uid; is a proxy in between?")


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_lacks_what_every_list_has_is_none(name: str) -> None:
    changes: dict[str, tuple[Change, ...]] = {
        "a list without items": (
            lambda body: body.pop("items"),
            lambda body: body.update(items=None),
            lambda body: body.update(items={}),
        ),
        "a list without a resourceVersion": (
            lambda body: body.pop("metadata"),
            lambda body: body["metadata"].update(resourceVersion=""),
            lambda body: body["metadata"].update(resourceVersion="0"),
        ),
        "a list that does not say whether it is complete": (lambda body: body["metadata"].update({"continue": 3}),),
        "not a list of": (lambda body: body.update(kind="List"),),
    }
    for fault, ways in changes.items():
        for change in ways:
            assert fault in refused(*altered(name, change))


@pytest.mark.parametrize("name", ["pod-get-404", "pod-delete-404", "service-delete-404", "namespace-get-404"])
@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("details"),  # for example when the path does not exist
        lambda body: body["details"].update(name="another"),
        lambda body: body["details"].update(kind="namespaces2"),
        lambda body: body.update(status="Success"),
        lambda body: body.update(code=403),
        lambda body: body.update(apiVersion="v2"),
    ],
    ids=["no details", "other name", "other kind", "success", "other code", "other version"],
)
def test_only_a_status_that_names_the_object_says_that_it_is_not_there(name: str, change: Change) -> None:
    refused(*altered(name, change))


def test_what_else_is_not_there_is_only_missing_if_it_is_what_was_asked_for() -> None:
    check(*altered("token-request-404", lambda body: None))
    for name, about in (
        ("token-request-404", {"name": "another"}),
        ("pod-create-404-namespace", {"name": "another"}),
        ("pod-create-404-namespace", {"kind": "pods"}),
    ):
        refused(*altered(name, lambda body, about=about: body["details"].update(about)))  # type: ignore[misc]
    call = asked(recording("pods-list-empty"))
    refused(call, as_json(404, status(404, "NotFound", "the server could not find the requested resource")))


@pytest.mark.parametrize("name", ["token-request-404", "pod-create-404-namespace"])
def test_a_namespace_that_is_not_there_is_named(name: str) -> None:
    call = asked(recording(name))
    missing = status(404, "NotFound", "not found", kind="namespaces", name=call.namespace)
    check(call, as_json(404, missing))
    assert str(error_of(call, as_json(404, missing))) == f"the namespace {call.namespace} does not exist"


def test_a_path_that_is_not_there_is_a_missing_crd_only_for_routes() -> None:
    """Before, a log for which something answered so was a KeyError."""
    answer = KubeResponse(status=404, body=b"404 page not found\n", content_type="text/plain")
    for resource in ("pods/log", "version", "pods"):
        refused(KubeRequest(verb="get", resource=resource, namespace="rec", name="p"), answer)
    with pytest.raises(ClusterRefused, match="does not serve httproutes: install the CRDs"):
        check(KubeRequest(verb="list", resource="httproutes", namespace="rec"), answer)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(kind="ServiceAccount"),
        lambda body: body["metadata"].update(name="another"),
        lambda body: body["metadata"].update(namespace="another"),
        lambda body: body["status"].update(token=7),
    ],
)
def test_a_token_is_believed_to_be_the_accounts_that_it_was_asked_for(change: Change) -> None:
    check(*altered("token-request-201", lambda body: body["metadata"].pop("uid")))  # older API servers do not send it
    refused(*altered("token-request-201", change))


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
    if believed:
        check(DELETE, answer)
    else:
        refused(DELETE, answer)
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
    sentence = f"unexpected response to {call}: a 404 that is not from Kubernetes; is a proxy in between?"
    assert str(caught.value) == sentence
    start = f"404 text/html, {len(body)} bytes{quoted}"
    assert caught.value.excerpt.startswith(start) if quoted else caught.value.excerpt == start
    assert len(caught.value.excerpt) < 300

"""What counts as an answer of Kubernetes to a request, and what does not, whatever its status code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from stackd.errors import UnexpectedAnswer
from stackd.kube.wire import PASSING, TOKENS, KubeRequest, KubeResponse, check, error_of
from tests.kube.wire import all_recordings, answered, asked, is_ours, recording, status

OURS = [name for name in all_recordings() if is_ours(recording(name))]
DONE = [name for name in OURS if recording(name)["response"]["status"] < 300]
JSON_DONE = [name for name in DONE if not isinstance(recording(name)["response"]["body"], str)]
ONE_OBJECT = [
    name
    for name in JSON_DONE
    if asked(recording(name)).verb != "list"
    and asked(recording(name)).resource != TOKENS
    and "name" in recording(name)["response"]["body"].get("metadata", {})
]
LISTS = [name for name in DONE if asked(recording(name)).verb == "list"]
REFUSED = [name for name in OURS if 400 <= recording(name)["response"]["status"] < 500]
PAGE = b"<html><body><h1>It works!</h1></body></html>\n"


def refused(call: KubeRequest, answer: KubeResponse) -> str:
    with pytest.raises(UnexpectedAnswer) as caught:
        check(call, answer)
    assert "html" not in str(caught.value).lower()
    return str(caught.value)


def as_json(code: int, document: Any) -> KubeResponse:
    return KubeResponse(status=code, body=json.dumps(document).encode(), content_type="application/json")


def altered(name: str, change: Callable[[dict[str, Any]], object]) -> tuple[KubeRequest, KubeResponse]:
    document = recording(name)
    change(document["response"]["body"])
    return asked(document), answered(document)


@pytest.mark.parametrize("name", OURS)
def test_whatever_a_real_api_server_was_recorded_to_answer_is_believed(name: str) -> None:
    document = recording(name)
    check(asked(document), answered(document))


@pytest.mark.parametrize("name", OURS)
def test_a_request_asks_where_the_recorded_one_did(name: str) -> None:
    document = recording(name)
    assert asked(document).path == document["request"]["path"].partition("?")[0]


@pytest.mark.parametrize("name", OURS)
def test_a_page_is_no_answer_to_anything_with_any_code(name: str) -> None:
    for code in (200, 201, 203, 302, 400, 401, 403, 404, 409, 410, 413, 422):
        refused(asked(recording(name)), KubeResponse(status=code, body=PAGE, content_type="text/html"))


@pytest.mark.parametrize("code", sorted(PASSING))
def test_a_page_of_an_overloaded_server_is_worth_another_try_and_its_text_goes_nowhere(code: int) -> None:
    call, answer = asked(recording("pod-delete-404")), KubeResponse(status=code, body=PAGE, content_type="text/html")
    check(call, answer)
    assert (
        str(error_of(call, answer))
        == f"Kubernetes cannot process this now (retry): it answered {code} to delete pods in namespace rec"
    )


@pytest.mark.parametrize("name", JSON_DONE + REFUSED)
def test_an_answer_that_is_cut_short_is_none(name: str) -> None:
    document = recording(name)
    whole = answered(document)
    for part in (0.0, 0.5, 0.99):
        refused(asked(document), dataclasses.replace(whole, body=whole.body[: int(len(whole.body) * part)]))


@pytest.mark.parametrize("name", JSON_DONE + REFUSED)
def test_json_that_is_something_else_is_none(name: str) -> None:
    document = recording(name)
    junk: tuple[object, ...] = ({}, [], None, "ok", 0, {"ok": True}, {"kind": "Status"}, {"metadata": {}})
    for one in junk:
        refused(asked(document), as_json(document["response"]["status"], one))


@pytest.mark.parametrize("name", ONE_OBJECT)
@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(kind="Secret"),
        lambda body: body.pop("kind"),
        lambda body: body.update(apiVersion="v2"),
        lambda body: body.pop("metadata"),
        lambda body: body["metadata"].update(name="another"),
        lambda body: body["metadata"].pop("name"),
        lambda body: body["metadata"].pop("uid"),
        lambda body: body["metadata"].update(uid=7),
    ],
    ids=["other kind", "no kind", "other version", "no metadata", "other name", "no name", "no uid", "odd uid"],
)
def test_another_object_than_the_one_that_was_asked_for_is_none(
    name: str, change: Callable[[dict[str, Any]], object]
) -> None:
    refused(*altered(name, change))


@pytest.mark.parametrize("name", ["pod-create-201", "pod-get-ok", "pod-delete-200-grace0", "service-delete-200"])
def test_an_object_of_another_namespace_is_none(name: str) -> None:
    refused(*altered(name, lambda body: body["metadata"].update(namespace="another")))


@pytest.mark.parametrize("name", ["pod-delete-200-grace0", "service-delete-200"])
def test_a_delete_of_another_uid_is_not_the_one_that_was_asked_for(name: str) -> None:
    document = recording(name)
    call = asked(document)
    check(dataclasses.replace(call, uid=document["response"]["body"]["metadata"]["uid"]), answered(document))
    trouble = refused(dataclasses.replace(call, uid="another"), answered(document))
    assert trouble.endswith("of another uid; is a proxy in between?")


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: body.pop("items"), "a list without items"),
        (lambda body: body.update(items=None), "a list without items"),
        (lambda body: body.update(items={}), "a list without items"),
        (lambda body: body.pop("metadata"), "a list without a resourceVersion"),
        (lambda body: body["metadata"].pop("resourceVersion"), "a list without a resourceVersion"),
        (lambda body: body["metadata"].update(resourceVersion=""), "a list without a resourceVersion"),
        (lambda body: body["metadata"].update(resourceVersion="0"), "a list without a resourceVersion"),
        (lambda body: body["metadata"].update({"continue": 3}), "a list that does not say whether it is complete"),
        (lambda body: body.update(kind="List"), "not a list of"),
    ],
)
def test_a_list_that_lacks_what_every_list_has_is_none(
    name: str, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    assert said in refused(*altered(name, change))


@pytest.mark.parametrize("name", ["pod-get-404", "pod-delete-404", "service-delete-404", "namespace-get-404"])
@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("details"),  # for example when the path does not exist
        lambda body: body["details"].update(name="another"),
        lambda body: body["details"].update(kind="namespaces2"),
        lambda body: body.update(status="Success"),
        lambda body: body.update(code=403),
        lambda body: body.pop("code"),
        lambda body: body.update(apiVersion="v2"),
    ],
    ids=["no details", "other name", "other kind", "success", "other code", "no code", "other version"],
)
def test_only_a_status_that_names_the_object_says_that_it_is_not_there(
    name: str, change: Callable[[dict[str, Any]], object]
) -> None:
    refused(*altered(name, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(kind="ServiceAccount"),
        lambda body: body.update(apiVersion="v1"),
        lambda body: body.pop("metadata"),
        lambda body: body["metadata"].update(name="another"),
        lambda body: body["metadata"].update(namespace="another"),
        lambda body: body.pop("status"),
        lambda body: body["status"].update(token=7),
    ],
    ids=["other kind", "other version", "no metadata", "other name", "other namespace", "no status", "no token"],
)
def test_a_token_is_believed_to_be_the_accounts_that_it_was_asked_for(
    change: Callable[[dict[str, Any]], object],
) -> None:
    check(*altered("token-request-201", lambda body: body["metadata"].pop("uid")))  # older API servers do not send it
    refused(*altered("token-request-201", change))


def test_an_account_that_is_not_there_is_only_missing_if_it_is_the_one_that_was_asked_for() -> None:
    check(*altered("token-request-404", lambda body: None))
    refused(*altered("token-request-404", lambda body: body["details"].update(name="another")))


def test_a_list_is_not_missing() -> None:
    call = asked(recording("pods-list-empty"))
    refused(call, as_json(404, status(404, "NotFound", "the server could not find the requested resource")))


def test_a_create_is_only_refused_for_its_own_missing_namespace() -> None:
    refused(*altered("pod-create-404-namespace", lambda body: body["details"].update(name="another")))
    refused(*altered("pod-create-404-namespace", lambda body: body["details"].update(kind="pods")))


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
def test_a_status_that_a_delete_was_done_is_believed_if_it_is_about_that(
    details: dict[str, str], *, believed: bool
) -> None:
    answer = as_json(200, {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details})
    if believed:
        check(DELETE, answer)
    else:
        refused(DELETE, answer)


def test_a_failure_that_comes_with_200_is_not_that_it_was_done() -> None:
    refused(DELETE, as_json(200, status(404, "NotFound", "no", name="s", kind="services")))


@pytest.mark.parametrize("kind", ["text/html", "application/json", ""])
def test_a_log_is_plain_text(kind: str) -> None:
    document = recording("pod-log-200")
    refused(asked(document), dataclasses.replace(answered(document), content_type=kind))


def test_the_sentence_is_for_anybody_and_the_detail_for_the_log() -> None:
    call = asked(recording("pod-delete-404"))
    with pytest.raises(UnexpectedAnswer) as caught:
        check(call, KubeResponse(status=404, body=PAGE * 100, content_type="text/html"))
    sentence = (
        "unexpected response to delete pods in namespace rec: a 404 that is not from Kubernetes; is a proxy in between?"
    )
    assert str(caught.value) == sentence
    assert caught.value.excerpt.startswith("404 text/html, 4500 bytes: b'<html><body>")
    assert len(caught.value.detail) < 300


FLAG = b"flag{0123456789abcdef}"


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (KubeRequest(verb="create", resource="pods", namespace="rec", name="p", body=b"{}"), b"<p>refused: " + FLAG),
        (KubeRequest(verb="list", resource="pods", namespace="rec"), b' {"items": [{"value": "' + FLAG),
        (KubeRequest(verb="get", resource="pods/log", namespace="rec", name="p"), FLAG),
    ],
)
def test_what_may_repeat_a_generated_value_is_not_quoted(call: KubeRequest, body: bytes) -> None:
    """The excerpt is logged before any stack's values are hidden."""
    with pytest.raises(UnexpectedAnswer) as caught:
        check(call, KubeResponse(status=404, body=body, content_type="text/html"))
    assert caught.value.excerpt == f"404 text/html, {len(body)} bytes"

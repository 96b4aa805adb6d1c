"""The OpenAPI document itself: it has every route, its references resolve, and its examples are valid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import jsonschema_rs

from stackd.config import Config
from stackd.web import pages, responses
from stackd.web.openapi import document
from stackd.web.routes import ROUTES
from stackd.web.schema import Schema

DESCRIBED: dict[str, Any] = document(ROUTES, Config())


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DESCRIBED["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def validator(schema: Schema) -> Any:
    return jsonschema_rs.validator_for(schema | {"components": DESCRIBED["components"]}, validate_formats=False)


def test_each_route_is_described_except_pages() -> None:
    described = {(method, path) for method, path, _ in operations()}
    undescribed = [route for route in ROUTES if (route.method, route.path) not in described]
    assert len(described) + len(undescribed) == len(ROUTES)
    pages = "/(|docs/?|docs/{page}|dashboard/?|favicon.ico|static/{folder}/{file}|openapi.json)"
    assert [route.path for route in undescribed if not (route.public and re.fullmatch(pages, route.path))] == []


def test_every_status_that_an_error_can_have_is_described() -> None:
    statuses = {*responses.STATUSES.values(), *responses.SENTENCES, 431}
    assert statuses == {int(status) for status in DESCRIBED["components"]["responses"]}
    used = {int(status) for _, _, operation in operations() for status in operation["responses"]}
    assert statuses <= used
    assert "405 with `Allow`" in DESCRIBED["info"]["description"], "which no operation of a path can answer"


def test_only_public_metrics_need_no_key() -> None:
    assert not [path for _, path, operation in operations() if "security" in operation]
    opened = document(ROUTES, Config.model_validate({"metrics": {"public": True}}))
    assert opened["paths"]["/metrics"]["get"]["security"] == []


def test_what_a_key_of_another_scope_may_not_do_can_be_a_403() -> None:
    for method, path, operation in operations():
        assert {"401", "429"} <= set(operation["responses"]), (method, path)
        open_to_all = method == "GET" and path in {"/healthz", "/readyz", "/owner"}
        assert ("403" in operation["responses"]) is not open_to_all, (method, path)


def test_every_example_is_valid() -> None:
    found = 0
    for _, _, operation in operations():
        contents = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in (media for each in contents for media in each.get("content", {}).values()):
            for example in content.get("examples", {}).values():
                validator(content["schema"]).validate(example["value"])
                found += 1
    assert found >= 15


def test_every_schema_is_used_and_every_reference_leads_somewhere() -> None:
    text = str(DESCRIBED)
    names = set(DESCRIBED["components"]["schemas"])
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) == names
    assert {ref.rpartition("/")[2] for ref in re.findall(r"#/components/responses/\w+", text)} <= set(
        DESCRIBED["components"]["responses"]
    )


# ---- The files of the pages for browsers: none is missing, and no script turns text into markup


def test_the_package_holds_every_file_that_a_page_names() -> None:
    known = pages.files()
    named = {
        name
        for path, file in known.items()
        if path.endswith(".html")
        for name in re.findall(rb'(?:src|href)="/static/([^"]+)"', file.body)
    }
    assert {name.decode() for name in named} <= set(known)
    for path, file in known.items():
        for name in re.findall(rb'(?:from|import) "(\./|\.\./)([\w./]+)"', file.body):
            folder = path.rpartition("/")[0] if name[0] == b"./" else ""
            assert f"{folder}/{name[1].decode()}".lstrip("/") in known, (path, name)
    assert all(files("stackd.web").joinpath("static", path).is_file() for path in known)


def test_scripts_never_turn_text_into_markup() -> None:
    forbidden = re.compile(rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser")
    for path, file in pages.files().items():
        assert not forbidden.search(file.body), path
        if path.endswith(".html"):
            assert b"style=" not in file.body
            assert not re.search(rb"<script>|\son\w+=", file.body), "inline scripts are against the policy"

"""The files of the pages for browsers: none is missing, and no script turns text into markup."""

from __future__ import annotations

import re
from importlib.resources import files

from stackd.web import pages


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

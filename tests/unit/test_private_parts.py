"""stackd uses no private part of aiohttp, and of the Kubernetes client only these.

The Kubernetes client is capped below its next version. To raise the cap, make these tests pass first: a failing test names
the place to look at.
"""

from __future__ import annotations

import ast
import inspect
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio import config as loading
from kubernetes.aio.client import ApiClient, Configuration
from packaging.requirements import Requirement

from stackd.web import connection, responses
from tests.unit.test_packaging import PROJECT

OURS: dict[type, type] = {connection.HttpConnection: web.RequestHandler, responses.ReadyAnswer: web.Response}
"""Subclasses of aiohttp's classes. They use none of its private parts."""


def test_the_next_version_of_the_kubernetes_client_is_not_installed_before_these_tests_have_seen_it() -> None:
    (found,) = [each for text in PROJECT["dependencies"] if (each := Requirement(text)).name == "kubernetes"]
    assert not found.specifier.contains("38.0.0")


def private_names(kind: type) -> set[str]:
    """The names of private attributes and methods in a class's source."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(kind))):
        match node:
            case (
                ast.Attribute(attr=name)
                | ast.Name(id=name)
                | ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
            ):
                names.add(name)
            case _:
                pass
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("ours", OURS, ids=lambda kind: kind.__name__)
def test_no_private_part_of_aiohttp_is_used(ours: type) -> None:
    bases = [base for base in OURS[ours].__mro__ if base.__module__.startswith("aiohttp")]
    theirs = set[str]().union(*(private_names(base) for base in bases))
    assert "_keep_alive" in theirs or "_keepalive" in theirs, "the search finds nothing"
    assert not private_names(ours) & theirs


# ---- the Kubernetes client


async def client(**settings: Any) -> ApiClient:
    configuration = Configuration()
    for name, value in settings.items():
        setattr(configuration, name, value)
    return ApiClient(configuration)


async def test_the_clients_pool_is_made_late_and_may_be_set() -> None:
    """Pool.session sets ``rest_client.pool_manager`` to stackd's own connections; ``close()`` closes them."""
    made = await client()
    rest = made.rest_client
    assert rest.pool_manager is None
    session = rest.pool_manager = aiohttp.ClientSession()
    await made.close()  # type: ignore[no-untyped-call]
    assert session.closed


async def test_the_clients_pool_takes_its_size_and_tls_from_the_configuration() -> None:
    """``rest_client.maxsize`` and ``rest_client.ssl_context`` go into stackd's connector."""
    made = await client(connection_pool_maxsize=7, verify_ssl=False)
    assert made.rest_client.maxsize == 7
    assert isinstance(made.rest_client.ssl_context, ssl.SSLContext)
    assert made.rest_client.ssl_context.verify_mode is ssl.CERT_NONE
    await made.close()  # type: ignore[no-untyped-call]


async def test_the_client_puts_the_token_into_headers_that_it_is_given() -> None:
    """Access.headers: ``update_params_for_auth`` with the name "BearerToken", which also runs the refresh hook."""
    made = await client()
    renewed: list[object] = []

    async def renew(configuration: Configuration) -> None:
        renewed.append(configuration)
        configuration.api_key["BearerToken"] = "Bearer fresh"

    made.configuration.api_key["BearerToken"] = "Bearer stale"
    made.configuration.refresh_api_key_hook = renew
    headers: dict[str, str] = {}
    await made.update_params_for_auth(headers, [], ["BearerToken"], None, None, None)
    assert headers == {"authorization": "Bearer fresh"}
    assert renewed == [made.configuration]
    await made.close()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "name", ["host", "proxy", "proxy_headers", "tls_server_name", "ssl_ca_cert", "verify_ssl", "api_key"]
)
async def test_the_configuration_has_what_is_read_of_it(name: str) -> None:
    made = await client()
    assert hasattr(made.configuration, name)
    await made.close()  # type: ignore[no-untyped-call]


async def test_a_kubeconfig_is_loaded_from_several_files_and_never_written(tmp_path: Path) -> None:
    """``config_file`` may be a list with colons, ``persist_config=False`` leaves the files alone."""
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text('{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [], "clusters": []}')
    second.write_text(
        '{"apiVersion": "v1", "kind": "Config", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],'
        ' "clusters": [{"name": "k", "cluster": {"server": "https://192.0.2.1:6443"}}],'
        ' "users": [{"name": "u", "user": {"token": "t"}}]}'
    )
    before = first.read_bytes(), second.read_bytes()
    configuration = Configuration()
    await loading.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=f"{first}:{second}", context=None, client_configuration=configuration, persist_config=False
    )
    assert configuration.host == "https://192.0.2.1:6443"
    assert (first.read_bytes(), second.read_bytes()) == before


def test_the_daemon_loads_no_second_client_of_kubernetes() -> None:
    """``stackd.kube`` keeps ``kubernetes`` from importing its synchronous client, with requests and a WebSocket library."""
    code = (
        "import sys, stackd.cli.process; "
        "print(*sorted({'kubernetes.client', 'requests', 'websocket'} & sys.modules.keys())); "
        "import kubernetes.client; print(kubernetes.client.CoreV1Api.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("\nCoreV1Api\n", "")

"""The private parts of aiohttp and the Kubernetes client that stackd uses: each one, why, and that it exists.

Both libraries are capped below their next versions. To raise a cap, make these tests pass first: a failing test names
the place to look at. A private part that the code begins to use has to be entered here.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web, web_protocol
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParser
from aiohttp.test_utils import TestServer, make_mocked_request
from kubernetes.aio import config as loading
from kubernetes.aio.client import ApiClient, Configuration
from packaging.requirements import Requirement

from stackd.web import connection, responses
from tests.unit.test_packaging import PROJECT

AIOHTTP: dict[tuple[type, str], str] = {
    (web.RequestHandler, "_waiter"): "Connection.data_received: while it is pending, what comes is a request's head",
    (web.RequestHandler, "_loop"): "Connection: timers for clients that do not read",
    (web.RequestHandler, "_messages"): "Connection.waiting: requests that came behind the one under way",
    (web.RequestHandler, "_manager"): "Connection.start: None once the connection is lost",
    (web.AppRunner, "_make_server"): "Runner: connections are our own, and server() may return no other kind",
    (web.SockSite, "_runner"): "Site.start: it accepts TLS connections itself, and hands them to the runner's server",
    (web.SockSite, "_backlog"): "Site.start",
    (web.SockSite, "_sock"): "Site.start",
    (web.Response, "_status"): "ReadyAnswer: made without __init__, which costs more than the answer",
    (web.Response, "_body"): "ReadyAnswer",
    (web.Response, "_keep_alive"): "ReadyAnswer: force_close() sets it; the connection goes on where it is true",
    (web.Response, "_eof_sent"): "ReadyAnswer: aiohttp is not to write the end of an answer again",
    (web.Response, "_headers"): "ReadyAnswer: it is there once somebody has looked at the answer's headers",
}
OURS: dict[type, type] = {
    connection.HttpConnection: web.RequestHandler,
    connection.Runner: web.AppRunner,
    connection.HttpSite: web.SockSite,
    responses.ReadyAnswer: web.Response,
}


def test_the_next_versions_are_not_installed_before_these_tests_have_seen_them() -> None:
    caps = {"aiohttp": "3.15.0", "kubernetes": "38.0.0"}
    found = {made.name: made for text in PROJECT["dependencies"] if (made := Requirement(text)).name in caps}
    assert {name: found[name].specifier.contains(version) for name, version in caps.items()} == dict.fromkeys(
        caps, False
    )


def private_names(kind: type) -> set[str]:
    """The private names that a class has or mentions: its own, methods, attributes, strings."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(kind))):
        match node:
            case (
                ast.Attribute(value=ast.Name(id="self"), attr=name) | ast.Name(id=name) | ast.Constant(value=str(name))
            ):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case _:
                pass
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def made_by(kind: type) -> set[str]:
    """The private names that aiohttp's class, or one of its bases, has or sets."""
    source = "".join(inspect.getsource(base) for base in kind.__mro__ if base.__module__.startswith("aiohttp"))
    set_there = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    return {name for name in {*dir(kind), *set_there} if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("ours", OURS, ids=lambda kind: kind.__name__)
def test_each_private_part_of_aiohttp_that_is_used_is_entered_here_and_no_other(ours: type) -> None:
    theirs = OURS[ours]
    used = private_names(ours) & made_by(theirs)
    assert used == {name for kind, name in AIOHTTP if kind is theirs}


@pytest.mark.parametrize(("kind", "name"), AIOHTTP, ids=lambda part: getattr(part, "__name__", part))
def test_aiohttp_still_has_it(kind: type, name: str) -> None:
    assert name in made_by(kind), AIOHTTP[kind, name]


async def test_a_connection_waits_for_a_head_exactly_while_waiter_is_pending() -> None:
    """``limits.header_size`` bounds heads, not bodies: Connection.data_received uses ``_waiter`` to tell them apart."""
    seen: list[bool] = []
    handlers: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        handlers.append(request.protocol)
        seen.append(request.protocol._waiter is None or request.protocol._waiter.done())
        return web.Response()

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            while handlers[-1]._waiter is None or handlers[-1]._waiter.done():
                await asyncio.sleep(0)
        writer.close()
    assert seen == [True, True]


@pytest.mark.parametrize(
    "option", ["max_line_size", "max_field_size", "max_headers", "lingering_time", "keepalive_timeout"]
)
def test_a_request_handler_takes_its_limits_as_arguments(option: str) -> None:
    assert option in inspect.signature(web.RequestHandler.__init__).parameters


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (web.RequestHandler.start, ["self"]),
        (web.RequestHandler.handle_error, ["self", "request", "status", "exc", "message"]),
        (web.RequestHandler.log_exception, ["self", "args", "kw"]),
        (web.RequestHandler.force_close, ["self"]),
        (web.AppRunner._make_server, ["self"]),
        (web.BaseSite.start, ["self"]),
        (web.Server.__call__, ["self"]),
    ],
    ids=lambda part: getattr(part, "__qualname__", ""),
)
def test_methods_that_are_replaced_are_called_as_before(method: Callable[..., Any], parameters: list[str]) -> None:
    assert list(inspect.signature(method).parameters) == parameters


async def test_a_server_keeps_what_it_was_made_of() -> None:
    """Entrance is built from the parts of aiohttp's own server."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response()

    made = web.Server(handler)
    assert made.request_handler is handler
    assert callable(made.request_factory)
    assert made.connections == []


def test_a_request_knows_its_connection_and_what_was_written() -> None:
    """Whether a response has begun is read from ``writer.output_size``; the key's connection from ``protocol``."""
    request = make_mocked_request("GET", "/")
    assert hasattr(request, "protocol")
    assert "output_size" in inspect.getsource(aiohttp.http_writer.StreamWriter)


def test_every_answer_is_asked_whether_it_is_an_exception() -> None:
    """ReadyAnswer has the attribute on its class; without it, the first access would make it an ordinary response."""
    assert "__http_exception__" in inspect.getsource(web_protocol)
    assert responses.ReadyAnswer.__http_exception__ is False


async def refused(head: bytes, **limits: Any) -> HttpProcessingError:
    """The parser's error for a head."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 16, **limits)
    with pytest.raises(HttpProcessingError) as caught:
        parser.feed_data(head)
    return caught.value


async def test_the_parser_says_what_connection_reads_from_its_errors() -> None:
    """The response 431 and "this port does not speak TLS" depend on the class and the text of these errors."""
    many = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(99)) + b"\r\n"
    assert connection._TOO_MANY_HEADERS in str(await refused(many, max_headers=64))
    hello = await refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50))
    assert isinstance(hello, BadHttpMethod)
    assert connection._TLS_HELLO in str(hello)
    long = await refused(b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", max_field_size=1000)
    assert isinstance(long, LineTooLong)


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

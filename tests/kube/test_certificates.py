"""Which API servers are trusted: the same as by kubectl, on each Python version."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stackd.cli.process import new_event_loop
from stackd.errors import ClusterUnavailable
from stackd.kube.client import Cluster
from tests.certificates import BARE, COMPLETE, HAVE_OPENSSL, NO_KEY_IDS, Pair, authority, issued
from tests.kube.samples import SYSTEM, UID, connected, kubeconfig
from tests.kube.wire import Wire

pytestmark = pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")


@pytest.fixture(autouse=True)
def strict_as_since_python_3_13(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every TLS context as strict as since Python 3.13, so that older versions test the same."""
    original = ssl.create_default_context

    def strict(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        context = original(*args, **kwargs)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)


@asynccontextmanager
async def reached(folder: Path, presents: Pair, trusts: Pair, **more: str) -> AsyncIterator[tuple[Cluster, Wire]]:
    """A client that trusts only ``trusts``, of an API server with the certificate ``presents``."""
    wire = Wire()
    await wire.start(tls=presents.server_context())
    wire.on("GET", SYSTEM, UID)
    trusted = {"certificate-authority": str(trusts.cert)}
    async with connected(kubeconfig(folder / "config", wire.url, {"token": "t"}, **trusted, **more)) as at:
        yield at, wire
    await wire.stop()


@pytest.mark.parametrize(
    ("extensions", "plain"),
    [
        (COMPLETE, False),
        (BARE, True),
        (BARE, False),
        (("basicConstraints=critical,CA:TRUE", *NO_KEY_IDS), True),
        (("basicConstraints=CA:TRUE", "subjectKeyIdentifier=hash", "authorityKeyIdentifier=none"), False),
        (("basicConstraints=CA:TRUE", "keyUsage=keyCertSign", *NO_KEY_IDS), True),
    ],
    ids=["complete", "bare", "bare root", "critical", "no AKI", "keyUsage not critical"],
)
async def test_what_kubectl_accepts_is_accepted(tmp_path: Path, extensions: tuple[str, ...], plain: bool) -> None:
    root = authority(tmp_path, extensions=extensions)
    async with reached(tmp_path, issued(tmp_path, root, plain=plain), root) as (cluster, _):
        assert await cluster.cluster_uid() == "cluster-1"


@pytest.mark.parametrize(
    ("other", "host", "days", "name", "why"),
    [
        (True, "IP:127.0.0.1", 1, "", "not accepted"),
        (False, "IP:192.0.2.1", 1, "", r"not accepted.*127\.0\.0\.1"),
        (False, "IP:127.0.0.1", -1, "", "not accepted.*expired"),
        (False, "DNS:api.example", 1, "api.example", None),
    ],
    ids=["another authority of the same name", "another host", "expired", "the kubeconfig's tls-server-name"],
)
async def test_a_certificate_that_does_not_hold_for_the_servers_name_is_refused(
    tmp_path: Path, other: bool, host: str, days: int, name: str, why: str | None
) -> None:
    (tmp_path / "other").mkdir()
    root = authority(tmp_path, extensions=BARE)
    issuer = authority(tmp_path / "other", extensions=BARE) if other else root
    server = issued(tmp_path, issuer, host=host, days=days, plain=True)
    async with reached(tmp_path, server, root, **({"tls-server-name": name} if name else {})) as (cluster, _):
        if why is None:
            assert await cluster.cluster_uid() == "cluster-1"
        else:
            with pytest.raises(ClusterUnavailable, match=why):
                await cluster.cluster_uid()


# ---- a connection that is given up just as it is open


def test_a_connect_that_is_cancelled_as_its_handshake_ends_leaves_no_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """uvloop closes the TCP transport behind the TLS then. A stop just after a takeover cancels many connects at a time."""
    caplog.set_level(logging.DEBUG)
    root = authority(tmp_path)
    behind, context = socket.create_server(("127.0.0.1", 0)), issued(tmp_path, root).server_context()

    class Opening(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connecting[0].cancel()

    def shake_hands() -> None:
        with behind, behind.accept()[0] as client, contextlib.suppress(OSError):
            context.wrap_socket(client, server_side=True)

    async def connect() -> None:
        loop, client = asyncio.get_running_loop(), socket.create_connection(behind.getsockname())
        trusted = ssl.create_default_context(cafile=str(root.cert))
        opening = loop.create_connection(Opening, sock=client, ssl=trusted, server_hostname="127.0.0.1")
        connecting.append(asyncio.ensure_future(opening))
        await asyncio.sleep(0)
        loop.call_soon(select.select, [client], [], [], 5)  # a busy loop: the answer is there when it looks again
        await asyncio.wait(connecting)
        await asyncio.sleep(0)

    connecting: list[asyncio.Future[Any]] = []
    server = threading.Thread(target=shake_hands)
    server.start()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(connect())
    server.join()
    assert connecting[0].cancelled()
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG] == []
    assert "of a connection that was given up" in caplog.text

"""HTTP to stackd. A call takes five seconds at most, from the first byte to the last. Knows nothing of CTFd."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

SECONDS = 5.0
LARGEST = 32 << 20


@dataclass(frozen=True)
class Reply:
    """``status`` 0 is no answer; ``detail`` then says why, and otherwise what stackd says about a refusal."""

    status: int
    data: dict[str, Any] = field(default_factory=dict)
    detail: str = ""
    retry_after: int = 0

    @property
    def code(self) -> str:
        """The code of a refusal."""
        return str(self.data.get("code") or "")

    @property
    def player_message(self) -> str:
        """What players may read of a refusal; empty if there is nothing."""
        return str(self.data.get("player_message") or "") if self.status >= 400 else ""

    @property
    def ok(self) -> bool:
        """Whether stackd did what was asked."""
        return 200 <= self.status < 300


@dataclass(frozen=True)
class Stackd:
    """``cafile`` holds the certificates to trust beside the system's, if stackd has one of its own."""

    url: str
    key: str
    cafile: str = ""

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        once: str = "",
        query: Any = (),
        kind: str = "application/json",
    ) -> Reply:
        """Send a request; ``once`` is its Idempotency-Key, and a body of another ``kind`` than JSON is a text. Never raises
        for what stackd or the network does.
        """
        headers = {"X-API-KEY": self.key, "Accept": "application/json", "Connection": "close"}
        if once:
            headers["Idempotency-Key"] = once
        payload = None if body is None else (json.dumps(body) if kind == "application/json" else str(body)).encode()
        if payload is not None:
            headers["Content-Type"] = kind
        target = path + (f"?{urlencode(query)}" if query else "")
        cut = threading.Event()
        try:
            return _reply(*self._exchange(cut, method, target, payload, headers))
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as exc:
            why = f"no whole answer within {SECONDS:g} s" if cut.is_set() else f"{type(exc).__name__}: {exc}"
            return Reply(status=0, detail=why)

    def _exchange(
        self, cut: threading.Event, method: str, target: str, payload: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes, str, str]:
        parts = urlsplit(self.url.rstrip("/"))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{self.url!r} is no address such as http://stackd.example:8081")
        if parts.scheme == "https":
            context = ssl.create_default_context()
            if self.cafile:
                context.load_verify_locations(self.cafile)
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=SECONDS, context=context)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=SECONDS)

        def cut_off() -> None:
            cut.set()
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(SECONDS, cut_off)  # a timeout of the socket begins again with each byte
        timer.daemon = True
        timer.start()
        try:
            connection.request(method, parts.path + target, payload, headers)
            response = connection.getresponse()
            raw = response.read(LARGEST)
            if cut.is_set():
                raise TimeoutError
            return response.status, raw, response.getheader("Retry-After", ""), response.getheader("Content-Type", "")
        finally:
            timer.cancel()
            connection.close()


def _reply(status: int, raw: bytes, retry_after: str, kind: str) -> Reply:
    if status == 200 and kind.startswith("text/plain"):  # a log
        return Reply(status=status, data={"text": raw.decode("utf-8", "replace")})
    try:
        data = json.loads(raw)
    except ValueError:
        data = None
    seconds = int(retry_after) if retry_after.isdecimal() else 0
    if not isinstance(data, dict):
        # What answers a success without JSON is not stackd; what it did is unknown.
        shown = raw[:200].decode("utf-8", "replace")
        return Reply(
            status=0 if 200 <= status < 400 else status, detail=f"{status} without JSON: {shown}", retry_after=seconds
        )
    detail = " ".join(str(data[part]) for part in ("error", "detail") if data.get(part)) if status >= 400 else ""
    return Reply(status=status, data=data, detail=detail, retry_after=seconds)

"""Which proxy stackd's own connections go through, by the environment, as kubectl and other programs in Go read it.

Neither aiohttp nor httpx2 reads a network such as ``10.0.0.0/8`` in NO_PROXY, which clusters' addresses need.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

HTTP: Final = ("http",)
_PORTS: Final = {"http": 80, "https": 443}


def proxy_for(url: str, schemes: tuple[str, ...] = HTTP, environ: Mapping[str, str] | None = None) -> str | None:
    """The proxy for requests to ``url``: of HTTPS_PROXY or HTTP_PROXY (or lower case), unless NO_PROXY has the address.

    Addresses of this machine have none. Raises ValueError for a proxy that cannot be used.
    """
    environ, address = os.environ if environ is None else environ, urlsplit(url)
    host, name = (address.hostname or "").rstrip("."), f"{address.scheme}_proxy".upper()
    proxy = _value(environ, name)
    port = address.port or _PORTS.get(address.scheme, 0)
    if not proxy or host == "localhost" or any(_matches(one, host, port) for one in _direct(environ)):
        return None
    return usable(proxy if "://" in proxy else f"http://{proxy}", name, schemes)


def usable(proxy: str, name: str, schemes: tuple[str, ...] = HTTP) -> str:
    """The proxy's address. Raises ValueError, which names the setting, and not the password in it."""
    expected = f"expected is {schemes[0]}://HOST:PORT"
    try:
        address = urlsplit(proxy)
        rest = address.path.strip("/") or address.query or address.fragment  # of a password with /, ? or # in it
        if not address.hostname or address.port == 0 or rest:
            raise ValueError  # as a port does that is no number
    except ValueError:
        raise ValueError(f"{name} is no proxy's address; {expected}") from None
    if address.scheme not in schemes:
        raise ValueError(f"{name} is {without_password(proxy)}, a kind of proxy that stackd cannot use; {expected}")
    return proxy


def without_password(proxy: str) -> str:
    """The proxy's address for a message."""
    address = urlsplit(proxy)
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}"


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.lower()) or ""


def _direct(environ: Mapping[str, str]) -> list[str]:
    listed = (one.strip().lower() for one in _value(environ, "NO_PROXY").split(","))
    return ["127.0.0.0/8", "::1", *filter(None, listed)]


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY is about the host: ``*``, an address, a network, a domain and what is below it, or
    with a dot before it only what is below it; all but networks also with a port.
    """
    if entry == "*":
        return True
    with suppress(ValueError):
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal():
        return int(number) == port and _matches(name, host, port)
    domain = entry.removeprefix("*")
    return host == domain or host.endswith(domain if domain.startswith(".") else f".{domain}")

"""Which addresses are reached through the environment's proxy, as programs in Go decide it (golang.org/x/net/http/httpproxy)."""

from __future__ import annotations

import pytest

from stackd.proxies import proxy_for, usable, without_password

PROXY = "http://proxy:3128"
API, V6 = "https://10.1.2.3:6443", "https://[2001:db8::5]:6443"


NAME, BELOW = "https://example.org", "https://api.example.org"


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("", API, False), ("*", API, True), ("other, *", API, True), ("10.0.0.0/8", API, True), ("10.0.0.0/16", API, False),
        ("10.1.2.3", API, True), ("10.1.2.3:6443", API, True), ("10.1.2.3:443", API, False), ("10.1.2.30", API, False),
        ("2001:db8::/32", V6, True), ("2001:db8::5", V6, True), ("[2001:db8::5]:6443", V6, True), ("[2001:db8::5]:1", V6, False),
        ("2001:db9::/32,10.0.0.0/8", V6, False), ("example.org", NAME, True), ("example.org", BELOW, True),
        ("EXAMPLE.org", "https://API.example.ORG.", True), ("example.org", "https://myexample.org", False),
        (".example.org", BELOW, True), (".example.org", NAME, False), ("*.example.org", BELOW, True),
        ("*.example.org", NAME, False), ("example.org:443", NAME, True), ("example.org:8443", NAME, False),
        ("10.0.0.0/8", NAME, False), (" , ,example.org ,", NAME, True), ("", "https://localhost:6443", True),
        ("", "https://127.9.9.9:6443", True), ("", "https://[::1]:6443", True),
    ],
)  # fmt: skip
def test_no_proxy_names_addresses_networks_domains_and_ports(no_proxy: str, url: str, direct: bool) -> None:
    for names in (("HTTPS_PROXY", "NO_PROXY"), ("https_proxy", "no_proxy")):
        environ = dict(zip(names, (PROXY, no_proxy), strict=True))
        assert proxy_for(url, environ=environ) == (None if direct else PROXY)


def test_each_scheme_has_its_proxy_and_capitals_win() -> None:
    environ = {"HTTPS_PROXY": "secure:3128", "https_proxy": "http://small", "http_proxy": "http://plain"}
    assert proxy_for("https://api", environ=environ) == "http://secure:3128"
    assert proxy_for("http://api", environ=environ) == "http://plain"
    assert proxy_for("https://api", environ={"HTTP_PROXY": "http://plain", "ALL_PROXY": "http://all"}) is None


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        ("socks5://me:secret@gw:1080", "socks5://gw:1080, a kind of proxy that stackd cannot use"),
        ("https://me:secret@gw", "https://gw, a kind of proxy that stackd cannot use"), ("http://me:secret@", "no proxy's"),
        ("http://me:secret@gw:port", "no proxy's"), ("http://[me:secret", "no proxy's"),
        ("http://me:12/secret@gw:1", "no proxy's"),
    ],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used_is_a_mistake_that_does_not_show_its_password(proxy: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        proxy_for("https://api", environ={"HTTPS_PROXY": proxy})
    assert "secret" not in str(caught.value)
    assert proxy_for("https://localhost", environ={"HTTPS_PROXY": proxy}) is None, "it is not needed here"


def test_a_message_names_a_proxy_without_its_user() -> None:
    assert without_password(usable("http://me:p%40ss@gw:3128", "proxy-url")) == "http://gw:3128"

"""The address at which stackd says that it listens."""

from __future__ import annotations

import pytest

from stackd.web.serving import host_and_port


@pytest.mark.parametrize(
    ("host", "text"),
    [("127.0.0.1", "127.0.0.1:8081"), ("::", "[::]:8081"), ("::1", "[::1]:8081"), ("localhost", "localhost:8081")],
)
def test_an_ipv6_address_stands_in_brackets(host: str, text: str) -> None:
    assert host_and_port(host, 8081) == text

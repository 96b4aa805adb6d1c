"""What a template's stacks may reach: ``network: {egress: none | dns | internet | [CIDR, …]}``.

Owns: the value that the pods' label has for it. ``kube.provision`` makes one NetworkPolicy for each value in use.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final

NONE: Final = "none"
DNS: Final = "dns"
INTERNET: Final = "internet"
MOST_NETWORKS: Final = 64
EXPECTED: Final = f'"{NONE}", "{DNS}", "{INTERNET}" or a list of networks such as [192.0.2.0/24] is expected'


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """``kind`` is the value of the pods' label; empty leaves it to the policies for all stacks.

    ``networks``: the only ones that the stacks reach, if the kind is neither ``none``, ``dns`` nor ``internet``.
    """

    kind: str = ""
    networks: tuple[str, ...] = ()


SITE_EGRESS: Final = Egress()


def parse_egress(value: Any) -> Egress:
    """Read ``network.egress``. Raises ValueError with what is wrong."""
    if value in (NONE, DNS, INTERNET):
        return Egress(kind=value)
    if not isinstance(value, list) or not value or len(value) > MOST_NETWORKS:
        raise ValueError(f"{EXPECTED}, of at most {MOST_NETWORKS}")
    if not all(isinstance(one, str) for one in value):
        raise ValueError(EXPECTED)
    try:
        listed = tuple(sorted({str(ip_network(one)) for one in value}))
    except ValueError as error:
        raise ValueError(f"{error}; {EXPECTED}") from None
    return Egress(kind=f"only-{hashlib.sha256(' '.join(listed).encode()).hexdigest()[:12]}", networks=listed)

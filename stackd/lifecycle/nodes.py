"""Which nodes take stacks, at which address they are reached, and what is wrong if stacks could not work. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address

from stackd.config import Config
from stackd.kube.objects import NodeState
from stackd.printable import some_of

_FAMILIES: Mapping[str, str] = {"ipv4": "IPv4", "ipv6": "IPv6"}
NAMED = 5  # a sentence names this many nodes; of the others it gives the count


def selector(config: Config) -> str:
    """``stacks.node_selector`` as kubectl writes it."""
    return ",".join(f"{key}={value}" for key, value in config.stacks.node_selector.items())


def selected(config: Config, nodes: Iterable[NodeState]) -> list[NodeState]:
    """Those with the labels of ``stacks.node_selector``."""
    wanted = config.stacks.node_selector.items()
    return [node for node in nodes if wanted <= node.labels.items()]


def eligible(config: Config, nodes: Iterable[NodeState]) -> list[NodeState]:
    """Those that take stacks now: selected, ready and not cordoned."""
    return [node for node in selected(config, nodes) if node.ready and not node.unschedulable]


def address(config: Config, node: NodeState, families: Sequence[str] = ()) -> str | None:
    """The address at which a stack on this node is reached: ``stacks.public_ips`` first, then one of the node's own.

    Of the node's addresses only those of the ``families`` of the stack's Service (``IPv4``, ``IPv6``) count, in that
    order; all count while the families are unknown. A host name counts for every family.
    """
    stacks = config.stacks
    if node.name in stacks.public_ips:
        return stacks.public_ips[node.name]
    wanted = families if stacks.address_family == "auto" else (_FAMILIES[stacks.address_family],)
    for kind in stacks.address_types:
        having = [text for one, text in node.addresses if one == kind]
        for family in wanted or ("",):
            for text in having:
                if family in ("", (of := _family(text))) or not of:
                    return text
    return None


@lru_cache(maxsize=1024)
def _family(text: str) -> str:
    """The family of an address; empty for a name."""
    try:
        return f"IPv{ip_address(text).version}"
    except ValueError:
        return ""


def none_eligible(config: Config, nodes: Sequence[NodeState]) -> str:
    """Why no node takes stacks; empty if one does."""
    if eligible(config, nodes):
        return ""
    if not nodes:
        return "the cluster has none"
    if (having := len(selected(config, nodes))) == 0:
        return f"none of {len(nodes)} has {selector(config)}"
    verb, labels = "has" if having == 1 else "have", selector(config) or "any label"
    return f"{having} of {len(nodes)} {verb} {labels}, and none is ready and takes pods"


def without_address(config: Config, nodes: Iterable[NodeState]) -> str:
    """The eligible nodes for which no address is known, by name; empty if there are none."""
    names = sorted(node.name for node in eligible(config, nodes) if address(config, node) is None)
    return some_of(names, NAMED)


def remarks(config: Config, nodes: Sequence[NodeState]) -> list[str]:
    """Why stacks could not work, or not be reached, on these nodes, with what to do."""
    if why := none_eligible(config, nodes):
        labels = config.stacks.node_selector if nodes else {}
        label = f"; kubectl label node NAME {selector(config).replace(',', ' ')}" if labels else ""
        return [f"no node takes stacks: {why}{label}"]
    if names := without_address(config, nodes):
        types = ", ".join(config.stacks.address_types)
        return [
            f"no public address ({types}) for {names}: their stacks have node_public_ip: null; "
            "name them in stacks.public_ips, or add a kind that they have to stacks.address_types"
        ]
    return []

"""Rules that join several keys, or a key and the machine."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from typing import Final

from stackd.config.policy import policy_of
from stackd.config.sections import Config
from stackd.config.units import format_duration
from stackd.errors import ConfigError

Finding = tuple[tuple[str, ...], str]
_RESERVED: Final = "stackd.io/"


def mistakes(config: Config) -> Iterator[Finding]:
    """(the keys as ``section.key``, the one to blame first; a sentence) of each rule that is broken."""
    stacks = config.stacks
    if stacks.node_port_min > stacks.node_port_max:
        yield (
            ("stacks.node_port_min", "stacks.node_port_max"),
            f"node_port_min {stacks.node_port_min} is above node_port_max {stacks.node_port_max}; "
            "a range with a port in it is expected",
        )
    if stacks.ttl > stacks.max_ttl:
        yield (
            ("stacks.ttl", "stacks.max_ttl"),
            f'ttl "{format_duration(stacks.ttl)}" is longer than max_ttl "{format_duration(stacks.max_ttl)}"; '
            "at most that is expected",
        )
    if not stacks.address_types:
        yield ("stacks.address_types",), 'this is empty; a list such as ["ExternalIP", "InternalIP"] is expected'
    yield from _tls(config)
    yield from _policy(config)


def _tls(config: Config) -> Iterator[Finding]:
    server = config.server
    if bool(server.tls_cert) != bool(server.tls_key):
        given, other = ("tls_cert", "tls_key") if server.tls_cert else ("tls_key", "tls_cert")
        yield (f"server.{given}", f"server.{other}"), f"{given} is set and {other} is not; both or neither are expected"
    for key, path in (("tls_cert", server.tls_cert), ("tls_key", server.tls_key)):
        if path and not (os.path.isfile(path) and os.access(path, os.R_OK)):
            yield (f"server.{key}",), "there is no such file, or it cannot be read; a PEM file is expected"


def _policy(config: Config) -> Iterator[Finding]:
    policy = config.policy
    try:
        policy_of(config)
    except ConfigError as error:
        for mistake in error.mistakes:
            key, _, text = mistake.partition(": ")
            yield (key, "policy.profile"), text
    for key, names in (("labels", policy.labels), ("annotations", policy.annotations)):
        ours = [name for name in names if name.startswith(_RESERVED) or name == "app.kubernetes.io/managed-by"]
        if ours:
            yield (f"policy.{key}",), f'"{ours[0]}" is stackd\'s own; another key is expected'


def warnings(config: Config) -> Iterator[str]:
    """What is allowed and yet worth a line at every start."""
    if not config.auth.enabled:
        yield "auth.enabled is false: whoever reaches the port can create and delete stacks"
    if not config.server.tls_cert and not _is_loopback(config.server.host):
        host = config.server.host
        yield f"server.host {host} is not loopback and there is no TLS: keys cross the network unencrypted"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

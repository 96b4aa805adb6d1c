"""Which images a pod may use.

Owns: parsing an image reference as container runtimes do, one name for all of its spellings, and matching it with the
operator's patterns. Never asks a registry.
"""

from __future__ import annotations

import functools
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

from stackd.names import matches_any
from stackd.podspec.policy import Policy

_REFERENCE = re.compile(
    r"(?P<name>[^@]+?)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}))?\Z"
)
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*\Z")
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_REGISTRY = re.compile(
    rf"(?:(?P<host>{_LABEL}(?:\.{_LABEL})*)\.?|\[(?P<version6>[0-9a-f:.]+)\])(?::(?P<port>[0-9]{{1,9}}))?\Z"
)
_NUMBERS = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}\Z")
_LONGEST = 1024
_LONGEST_NAME = 255
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_HUB = "docker.io"
_HUB_TOO = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com")
_OFFICIAL = "library/"
_TLS, _PLAIN = 443, 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image reference: the registry's host and port (None: the default), the repository, the tag and the digest."""

    host: str
    port: int | None
    path: str
    tag: str | None
    digest: str | None

    def names(self, *ports: int | None) -> Iterator[str]:
        """The names of the same repository, with each of these ports."""
        for port in ports:
            yield _named(self.host, port, self.path)
        if self.host == _HUB and self.port is None:
            official = self.path.removeprefix(_OFFICIAL)
            if "/" not in official:
                yield from (official, f"{_HUB}/{official}")
            if not _is_host(self.path.partition("/")[0]):
                yield self.path
            yield from (f"{host}/{self.path}" for host in _HUB_TOO)

    def allowed_forms(self) -> Iterator[str]:
        """The forms that an allowing pattern may match: the repository, or the complete reference."""
        suffix = (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
        for name in self.names(*((None, _TLS) if self.port is None else (self.port,))):
            yield from (name, name + suffix)

    def denied_forms(self) -> Iterator[str]:
        """The forms that a denying pattern may match: also the tag or the digest alone, and the host without its port."""
        yield from self.allowed_forms()
        for name in self.names(*((None, _TLS, _PLAIN) if self.port in (None, _PLAIN) else (None, self.port))):
            yield name
            if self.tag:
                yield f"{name}:{self.tag}"
            if self.digest:
                yield f"{name}@{self.digest}"


def parse_reference(image: str) -> Reference | None:
    """The parts of ``image`` as a container runtime reads it; ``None`` if it is not valid, or ambiguous.

    All spellings of a registry give the same result: letter case, a final dot, the default port, another name of Docker
    Hub, another way to write an address.
    """
    match = _REFERENCE.match(image)
    if match is None:
        return None
    path, tag, digest = match.group("name", "tag", "digest")
    registry: tuple[str, int | None] | None = _HUB, None
    first, slash, rest = path.partition("/")
    if slash and _is_host(first):
        registry, path = _registry(first), rest
    if registry is None:
        return None
    host, port = registry
    if registry == (_HUB, None) and "/" not in path:
        path = _OFFICIAL + path
    if not _PATH.match(path) or len(host) + len(path) >= _LONGEST_NAME:
        return None
    return Reference(host=host, port=port, path=path, tag=tag or (None if digest else "latest"), digest=digest)


def image_refusal(image: str, policy: Policy) -> str:
    """Why the policy refuses ``image``; empty if it does not."""
    if len(image) > _LONGEST or _BLANK.search(image):
        return f"must be an image reference, without blanks and of at most {_LONGEST} characters"
    if not (policy.require_digest or policy.images_allow or policy.images_deny):
        return ""
    reference = parse_reference(image)
    if reference is None:
        return "not a valid image reference"
    if policy.require_digest and reference.digest is None:
        return "must be pinned by its digest (policy.require_digest)"
    if _fits(policy.images_deny, reference.denied_forms()):
        return "this image is denied (policy.images_deny)"
    if policy.images_allow and not _fits(policy.images_allow, reference.allowed_forms()):
        return "not among the images that policy.images_allow permits"
    return ""


def _fits(patterns: tuple[str, ...], forms: Iterable[str]) -> bool:
    plain = [_pattern(pattern) for pattern in patterns]
    return bool(plain) and any(matches_any(plain, form) for form in forms)


@functools.lru_cache(maxsize=1024)
def _pattern(pattern: str) -> str:
    """The operator's pattern with the registry in the spelling of ``Reference``, if it names one."""
    first, slash, rest = pattern.partition("/")
    if not slash:
        return pattern
    registry = _registry(first) if _is_host(first) else None
    return _named(*registry, rest) if registry else f"{first.lower()}/{rest}"


def _named(host: str, port: int | None, path: str) -> str:
    return f"{host}/{path}" if port is None else f"{host}:{port}/{path}"


def _is_host(first: str) -> bool:
    """Whether the part before the first slash is a registry, not a user of Docker Hub."""
    return first == "localhost" or "." in first or ":" in first


def _registry(text: str) -> tuple[str, int | None] | None:
    """Host and port; the port is None if it is the default one."""
    match = _REGISTRY.match(text.lower())
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 0 < port < 65536):
        return None
    host = _version6(match["version6"]) if match["version6"] else _version4(match["host"])
    if host == _HUB or host.endswith("." + _HUB) or host in _HUB_TOO:
        return _HUB, None if port in (None, _TLS, _PLAIN) else port
    return (host, None if port == _TLS else port) if host else None


def _version4(text: str) -> str:
    """The host, in the usual form if it is an address of IPv4."""
    try:
        return socket.inet_ntoa(socket.inet_aton(text)) if _NUMBERS.match(text) else text
    except OSError:
        return text


def _version6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except ValueError:
        return ""
    return str(address.ipv4_mapped or f"[{address}]")

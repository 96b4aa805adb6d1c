"""Which images a pod may use.

Owns: parsing an image reference as container runtimes do, one name for all of its spellings, and matching it with the
operator's patterns. Never asks a registry.
"""

from __future__ import annotations

import functools
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

from stackd.names import matches_any
from stackd.podspec.policy import Policy
from stackd.podspec.reasons import Reasons

_REFERENCE = re.compile(
    r"(?P<name>[^@]+?)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}))?\Z"
)
_PATH = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*\Z")
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_HOST = re.compile(rf"(?P<host>{_LABEL}(?:\.{_LABEL})*)\.?(?::(?P<port>[0-9]{{1,9}}))?\Z")
_HOST_V6 = re.compile(r"\[(?P<host>[0-9a-f:.]+)\](?::(?P<port>[0-9]{1,9}))?\Z")
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
        """The names under which the same repository is known, with each of these ports."""
        for port in ports:
            yield _named(self.host, port, self.path)
        if self.host == _HUB and self.port is None:
            official = self.path.removeprefix(_OFFICIAL)
            if "/" not in official:
                yield from (official, f"{_HUB}/{official}")
            if not _is_host(self.path.partition("/")[0]):
                yield self.path
            yield from (f"{host}/{self.path}" for host in _HUB_TOO)

    def exact(self) -> Iterator[str]:
        """The forms that an allowing pattern may match: the repository, or the whole reference."""
        suffix = (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
        ports = (None, _TLS) if self.port is None else (self.port,)
        for name in self.names(*ports):
            yield from (name, name + suffix)

    def loose(self) -> Iterator[str]:
        """The forms that a denying pattern may match: also the tag or the digest alone, and the host without its port."""
        yield from self.exact()
        ports = (None, _TLS, _PLAIN) if self.port in (None, _PLAIN) else (None, self.port)
        for name in self.names(*ports):
            yield name
            yield from (
                name + part for part in (self.tag and f":{self.tag}", self.digest and f"@{self.digest}") if part
            )


def parse_reference(image: str) -> Reference | None:
    """The parts of ``image`` as a container runtime reads it; ``None`` if it is not valid, or ambiguous.

    All spellings of a registry give the same result: letter case, a final dot, the default port, another name of Docker
    Hub, another way to write an address.
    """
    match = _REFERENCE.match(image)
    if match is None:
        return None
    name, tag, digest = match.group("name", "tag", "digest")
    first, slash, path = name.partition("/")
    registry: tuple[str, int | None] | None = _HUB, None
    if not slash or not _is_host(first):
        path = name
    else:
        registry = _registry(first)
    if registry is None:
        return None
    host, port = registry
    if host == _HUB and port is None and "/" not in path:
        path = _OFFICIAL + path
    if not _PATH.match(path) or len(host) + len(path) >= _LONGEST_NAME:
        return None
    return Reference(host=host, port=port, path=path, tag=tag or (None if digest else "latest"), digest=digest)


def check_image(image: str, path: str, policy: Policy, reasons: Reasons) -> None:
    """Report why ``image`` is refused, if it is."""
    if len(image) > _LONGEST or _BLANK.search(image):
        reasons.add(path, f"must be an image reference, without blanks and of at most {_LONGEST} characters")
        return
    if not (policy.require_digest or policy.images_allow or policy.images_deny):
        return
    reference = parse_reference(image)
    if reference is None:
        reasons.add(path, "not a valid image reference")
    elif policy.require_digest and reference.digest is None:
        reasons.add(path, "must be pinned by its digest (policy.require_digest)")
    elif _fits(policy.images_deny, reference.loose()):
        reasons.add(path, "this image is denied (policy.images_deny)")
    elif policy.images_allow and not _fits(policy.images_allow, reference.exact()):
        reasons.add(path, "not among the images that policy.images_allow permits")


def _fits(patterns: tuple[str, ...], forms: Iterator[str]) -> bool:
    plain = [_pattern(pattern) for pattern in patterns]
    return any(matches_any(plain, form) for form in forms) if plain else False


@functools.lru_cache(maxsize=1024)
def _pattern(pattern: str) -> str:
    """The operator's pattern with the registry in the spelling of ``Reference``, if it names one."""
    first, slash, rest = pattern.partition("/")
    registry = _registry(first) if slash and _is_host(first) else None
    if registry is None:
        return f"{first.lower()}{slash}{rest}" if slash else pattern
    return _named(*registry, rest)


def _named(host: str, port: int | None, path: str) -> str:
    return f"{host}/{path}" if port is None else f"{host}:{port}/{path}"


def _is_host(first: str) -> bool:
    """Whether the part before the first slash is a registry, not a user of Docker Hub."""
    return first == "localhost" or "." in first or ":" in first


def _registry(text: str) -> tuple[str, int | None] | None:
    """Host and port; the port is None if it is the default one."""
    match = _HOST.match(text.lower()) or _HOST_V6.match(text.lower())
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        return None
    host = _host(match["host"], version6=text.startswith("["))
    if host is None:
        return None
    if host == _HUB or host.endswith("." + _HUB) or host in _HUB_TOO:
        return _HUB, None if port in (None, _TLS, _PLAIN) else port
    return host, None if port == _TLS else port


def _host(text: str, *, version6: bool) -> str | None:
    try:
        if version6:
            address = IPv6Address(text)
            return str(address.ipv4_mapped or f"[{address}]")
        return socket.inet_ntoa(socket.inet_aton(text)) if _NUMBERS.match(text) else text
    except ValueError:
        return None
    except OSError:
        return text

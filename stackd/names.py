"""The syntax of Kubernetes' names, and the operator's patterns for them.

Owns: regular expressions for labels, keys, port names and paths, and their descriptions for messages; glob patterns;
the suggestion of the nearest known name for a typo; and the names at which routed ports are reached, each one DNS label
before the domain, with a token of 80 random bits. Does not know pods.
"""

from __future__ import annotations

import base64
import difflib
import functools
import ipaddress
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from stackd.contract import BARE_KEY

LABEL = r"\A[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z"
_LABEL = re.compile(LABEL)
SUBDOMAIN = r"\A[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\Z"
_SUBDOMAIN = re.compile(SUBDOMAIN)
_BARE_KEY = re.compile(BARE_KEY + r"\Z")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?\Z")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*\Z")
_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")
LONGEST_LABEL: Final = 63
LONGEST_SUBDOMAIN = 253
"""The longest name of an object in the cluster, in characters."""

LABEL_FORM = "at most 63 lower-case letters, digits and inner hyphens"
SUBDOMAIN_FORM = f"at most {LONGEST_SUBDOMAIN} lower-case letters, digits, inner hyphens and dots"
PORT_NAME_FORM = "at most 15 lower-case letters, digits and single inner hyphens"
LONGEST_GUESSED = 64
_SEPARATORS = str.maketrans("", "", "_-")


def is_loopback(host: str) -> bool:
    """Whether an address, or a name, is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_label(text: str) -> bool:
    """A DNS label (RFC 1123): containers, volumes, host names."""
    return _LABEL.match(text) is not None


def is_subdomain(text: str) -> bool:
    """A DNS subdomain (RFC 1123): pods, Secrets, ConfigMaps."""
    return len(text) <= LONGEST_SUBDOMAIN and _SUBDOMAIN.match(text) is not None


def is_bare_key(text: str) -> bool:
    """A label's or annotation's key without a prefix."""
    return _BARE_KEY.match(text) is not None


def is_key(text: str) -> bool:
    """A label's key, with or without a prefix."""
    prefix, slash, name = text.rpartition("/")
    return is_bare_key(name) and (not slash or is_subdomain(prefix))


def is_label_value(text: str) -> bool:
    return not text or is_bare_key(text)


def is_port_name(text: str) -> bool:
    """A port's name (RFC 6335): at most 15 characters, including a letter."""
    return _PORT_NAME.match(text) is not None


def is_env_name(text: str) -> bool:
    return _ENV_NAME.match(text) is not None and not (text == "." or text.startswith(".."))


def is_header_name(text: str) -> bool:
    return _HEADER_NAME.match(text) is not None


def is_inner_path(text: str) -> bool:
    """A relative path that stays within its folder."""
    return bool(text) and not text.startswith("/") and ".." not in text.split("/")


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """Whether a pattern matches the whole name. Takes time in proportion to the name, whatever the patterns are.

    ``*`` stands for anything but a slash, ``**`` for anything, ``?`` for one character that is not a slash.
    """
    return _compiled(tuple(patterns)).match(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Automaton:
    """The parts of all patterns in a row, as bits of a number; a set bit is a part that comes next, or the end of its pattern.

    ``steps``  the parts that each character matches, and ``other`` those that every other one does
    ``stay``   the parts that go on after it: ``**``, and after no slash also ``*``
    ``empty``  the parts that may match nothing
    """

    begin: int
    end: int
    steps: Mapping[str, int]
    other: int
    stay: int
    stay_at_slash: int
    empty: int

    def match(self, name: str) -> bool:
        at = self.begin
        for character in name:
            stay = self.stay_at_slash if character == "/" else self.stay
            at = (at & self.steps.get(character, self.other)) << 1 | at & stay
            at |= (at & self.empty) << 1  # once: no such part follows another
            if not at:
                break
        return at & self.end != 0


_PART: Final = re.compile(r"\*+|.", re.DOTALL)


@functools.lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> _Automaton:
    begin = end = one = star = stars = 0
    literal: dict[str, int] = {"/": 0}
    bit = 1
    for pattern in patterns:
        begin |= bit
        for part in _PART.findall(pattern):
            if part == "?":
                one |= bit
            elif part == "*":
                star |= bit
            elif part[0] == "*":
                stars |= bit
            else:
                literal[part] = literal.get(part, 0) | bit
            bit <<= 1
        end |= bit
        bit <<= 1
    empty = star | stars
    return _Automaton(
        begin=begin | (begin & empty) << 1,
        end=end,
        steps={character: bits | (one if character != "/" else 0) for character, bits in literal.items()},
        other=one,
        stay=empty,
        stay_at_slash=stars,
        empty=empty,
    )


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that is closest to ``name``, ignoring case, hyphens and underscores; None if none is close.

    A name of more than ``LONGEST_GUESSED`` characters gets no guess: comparing it would take too long.
    """
    if len(name) > LONGEST_GUESSED:
        return None
    plain = {_plain(candidate): candidate for candidate in candidates}
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.7)
    return plain[close[0]] if close else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`` (did you mean "…"?)`` with the nearest candidate, to end a message with; empty if none is close."""
    close = nearest(name, candidates)
    return suggest(f'"{close}"') if close else ""


def suggest(right: str) -> str:
    """`` (did you mean …?)``, to end a message with."""
    return f" (did you mean {right}?)"


def _plain(name: str) -> str:
    return name.lower().translate(_SEPARATORS)


# ---- the names of routed ports: ``PREFIX-TOKEN.DOMAIN``; whoever knows one may use it

TOKEN_BYTES: Final = 10
LONGEST_PREFIX: Final = LONGEST_LABEL - 1 - TOKEN_BYTES * 8 // 5
LONGEST_DOMAIN: Final = 253 - LONGEST_LABEL - 1
DEFAULT_PREFIX: Final = "stack"


def prefix_from(name: str) -> str:
    """The prefix that is made of a template's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:LONGEST_PREFIX].strip("-") or DEFAULT_PREFIX


def new_hostname(prefix: str, domain: str) -> str:
    """A name that nobody can guess."""
    token = base64.b32encode(secrets.token_bytes(TOKEN_BYTES)).decode().lower()
    return f"{prefix}-{token}.{domain}"


def renamed(host: str) -> str:
    """Another name like this one; a port after it stays."""
    label, _, domain = host.partition(".")
    return new_hostname(label.rpartition("-")[0], domain)


LINK_LABEL: Final = "link"
"""The label of the stacks of an open link, whose total counts them: nobody else may give it."""


def require_unreserved(labels: Iterable[str]) -> None:
    """Raise ValueError if one of these names of labels, in any spelling, is stackd's own."""
    for name in labels:
        if name.lower() == LINK_LABEL:
            raise ValueError(
                f"{name} is the label of open links, which stackd gives to their stacks; choose another name"
            )

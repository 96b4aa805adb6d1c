"""The syntax of Kubernetes' names, and the operator's patterns for them.

Owns: regular expressions for labels, keys, port names and paths; glob patterns; and the nearest known name for a typo.
Does not know pods.
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import re
from collections.abc import Iterable

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\Z")
BARE_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
"""The pattern of a label key without a prefix, and of a label value that is not empty."""
_BARE_KEY = re.compile(BARE_KEY + r"\Z")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?\Z")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*\Z")
_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")
_LONGEST_SUBDOMAIN = 253
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
    return len(text) <= _LONGEST_SUBDOMAIN and _SUBDOMAIN.match(text) is not None


def is_bare_key(text: str) -> bool:
    """A label's or annotation's key without a prefix."""
    return _BARE_KEY.match(text) is not None


def is_key(text: str) -> bool:
    """A label's key, with or without a prefix."""
    prefix, slash, name = text.rpartition("/")
    return is_bare_key(name) and (not slash or is_subdomain(prefix))


def is_label_value(text: str) -> bool:
    """A label's value."""
    return not text or is_bare_key(text)


def is_port_name(text: str) -> bool:
    """A port's name (RFC 6335): at most 15 characters, including a letter."""
    return _PORT_NAME.match(text) is not None


def is_env_name(text: str) -> bool:
    """An environment variable's name."""
    return _ENV_NAME.match(text) is not None and not (text == "." or text.startswith(".."))


def is_header_name(text: str) -> bool:
    """An HTTP header's name."""
    return _HEADER_NAME.match(text) is not None


def is_inner_path(text: str) -> bool:
    """A relative path that stays within its folder."""
    return not text.startswith("/") and ".." not in text.split("/")


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """Whether a pattern matches the whole name.

    ``*`` stands for anything but a slash, ``**`` for anything, ``?`` for one character that is not a slash.
    """
    return any(_compiled(pattern).match(name) for pattern in patterns)


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    translated = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    return re.compile("".join(translated.get(part) or re.escape(part) for part in parts) + r"\Z", re.DOTALL)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is closest to ``name``, ignoring case, hyphens and underscores; None if none is close.

    A name of more than ``LONGEST_GUESSED`` characters gets no guess: comparing it would take too long.
    """
    if len(name) > LONGEST_GUESSED:
        return None
    plain = {_plain(candidate): candidate for candidate in known}
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.7)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    return name.lower().translate(_SEPARATORS)

"""Values that are made anew for each stack, from patterns such as ``flag{<hex:32>}``.

Owns the three placeholders. This is no template language: anything else between angle brackets is a mistake.
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final

from stackd.names import is_env_name

LONGEST_PATTERN: Final = 1024
MOST_DIGITS: Final = 256
MOST_VALUES: Final = 32
PLACEHOLDERS: Final = "<hex:N>, <base32:N>, <uuid>"
_BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_HEX: Final = "0123456789abcdef"
_BRACKETS: Final = re.compile(r"<([^<>]*)>")
_PLACEHOLDER: Final = re.compile(r"(?:(hex|base32):([1-9][0-9]{0,2})|uuid)\Z")


def generate(patterns: Mapping[str, str]) -> dict[str, str]:
    """A fresh value for each pattern, from the system's source of randomness."""
    return {name: _BRACKETS.sub(_fresh, pattern) for name, pattern in patterns.items()}


def mistakes(patterns: Mapping[str, Any], taken: Iterable[str]) -> list[tuple[str, str]]:
    """What is wrong with ``values`` of a template whose containers have the variables ``taken``, by name."""
    in_pod = set(taken)
    found = []
    for name, pattern in patterns.items():
        if not is_env_name(name):
            text = 'is not the name of a variable: letters, digits, "_", "-" and ".", not a digit first'
        elif name in in_pod:
            text = "a container of the pod has this variable already; take it out of there, or choose another name"
        else:
            text = _mistake(pattern)
        if text:
            found.append((name, text))
    return found


def _mistake(pattern: object) -> str:
    if not isinstance(pattern, str):
        return 'must be a string such as "flag{<hex:32>}"'
    if len(pattern) > LONGEST_PATTERN:
        return f"has {len(pattern)} characters; {LONGEST_PATTERN} at most"
    found = [match.group(1) for match in _BRACKETS.finditer(pattern)]
    for inside in found:
        match = _PLACEHOLDER.match(inside)
        if match is None:
            return f"<{inside[:40]}> is not known; there are {PLACEHOLDERS}, with N from 1 to {MOST_DIGITS}"
        if int(match.group(2) or 0) > MOST_DIGITS:
            return f"<{inside}> is too long; N is {MOST_DIGITS} at most"
    if not found:
        return f"it has no placeholder ({PLACEHOLDERS}); put a constant into the pod's env"
    return ""


def _fresh(bracket: re.Match[str]) -> str:
    match = _PLACEHOLDER.match(bracket.group(1))
    assert match is not None, "patterns are checked when they are read"
    kind, digits = match.groups()
    if kind is None:
        return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
    alphabet = _HEX if kind == "hex" else _BASE32
    return "".join(secrets.choice(alphabet) for _ in range(int(digits)))

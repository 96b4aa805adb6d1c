"""Whether the operator has granted what a pod refers to by name.

Owns: the sentence that names the policy's key. Knows nothing of what is referred to.
"""

from __future__ import annotations

from stackd.podspec.names import is_subdomain, matches_any
from stackd.podspec.reasons import Reasons


def check_granted(name: str, patterns: tuple[str, ...], path: str, key: str, reasons: Reasons) -> None:
    """Note a reference to something that the operator has not granted under ``policy.<key>``."""
    if not patterns:
        reasons.add(path, f"not accepted, unless policy.{key} allows it")
    elif not is_subdomain(name):
        reasons.add(path, "must give a name in lower-case letters, digits, hyphens and dots")
    elif not matches_any(patterns, name):
        reasons.add(path, f"only what policy.{key} names may be used")


def check_choice(value: str | None, allowed: tuple[str, ...], path: str, reasons: Reasons) -> None:
    """Note a value that is not one of ``allowed``; ``None`` is fine."""
    if value is not None and value not in allowed:
        reasons.add(path, f"must be one of {', '.join(allowed)}")

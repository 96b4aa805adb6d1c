"""The labels that a client gives its stack: at most sixteen, with names and values as Kubernetes takes them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stackd.model import NO_LABELS
from stackd.names import is_bare_key, is_label_value

MAX_LABELS = 16
"""As the name of a label of Kubernetes; the prefix is stackd's."""


def parse_labels(value: object) -> Mapping[str, str]:
    """The labels, read-only. Raises ValueError with what is wrong, in a sentence that begins with ``labels``."""
    if not isinstance(value, dict):
        raise ValueError('labels must be an object such as {"team": "7"}')
    if len(value) > MAX_LABELS:
        raise ValueError(f"{len(value)} labels; {MAX_LABELS} at most")
    for key, text in value.items():
        if not is_bare_key(key):
            raise ValueError(f"labels: {key[:64]!r} is not a label name (at most 63 of A-Za-z0-9._-)")
        if not isinstance(text, str) or not is_label_value(text):
            raise ValueError(f"labels.{key} must be a string of at most 63 of A-Za-z0-9._-")
    return MappingProxyType(value) if value else NO_LABELS

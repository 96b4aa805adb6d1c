"""Values of an environment in the texts of templates: ``web-1.pool=20``.

Owns: how one value of a YAML text is replaced or added. Everything else in the text, comments too, stays as it is.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def overridden(text: str, path: list[str], value: str) -> str:
    """The text with the value, as YAML, at this path of keys and, in lists, numbers. Raises ValueError with what is wrong."""
    try:
        wanted = json.dumps(yaml.safe_load(value))
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
        for at, name in enumerate(path):
            inner = _inside(node, name)
            if inner is None:
                return _checked(_added(text, node, path[at:], wanted), path, wanted)
            node = inner
        start, end = node.start_mark.index, node.end_mark.index
        rest = text[end - (len(text[start:end]) - len(text[start:end].rstrip())) :]
        return _checked(f"{text[:start]} {wanted}{rest}", path, wanted)
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(f"it is not YAML: {error}") from error


def _inside(node: Any, name: str) -> Any:
    """The value of this key or number; None if a mapping has no such key."""
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == name), None)
    if isinstance(node, yaml.SequenceNode) and name.isdecimal() and int(name) < len(node.value):
        return node.value[int(name)]
    raise ValueError(f"there is no {name} in what is not a mapping, or not so long a list")


def _added(text: str, node: yaml.MappingNode, path: list[str], wanted: str) -> str:
    """The text with a new key at the beginning of a mapping."""
    for name in reversed(path[1:]):
        wanted = f"{{{json.dumps(name)}: {wanted}}}"
    entry = f"{path[0] if PLAIN.fullmatch(path[0]) else json.dumps(path[0])}: {wanted}"
    start = node.start_mark.index
    if node.flow_style:
        return f"{text[: start + 1]}{entry}{', ' if node.value else ''}{text[start + 1 :]}"
    return f"{text[:start]}{entry}\n{' ' * node.start_mark.column}{text[start:]}"


def _checked(text: str, path: list[str], wanted: str) -> str:
    found = yaml.safe_load(text)
    for name in path:
        found = found[int(name) if isinstance(found, list) else name]
    if json.dumps(found) != wanted:
        raise ValueError("the value cannot be set in this text; write it there")
    return text

"""The two sources of keys: a TOML file and the environment.

Owns the line of each key in the file, which ``tomllib`` does not tell; the variables' names
(``STACKD_<SECTION>__<KEY>``); and how the text of a variable becomes a value of the key's kind: strings, numbers and
flags as they are; lists and tables as JSON, as TOML, or as ``a,b`` and ``k=v,k2=v2``. Knows nothing of what keys mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args, get_origin

from pydantic.fields import FieldInfo

from stackd.clock import BOOT_VARIABLE
from stackd.errors import ConfigError

_STATEMENT: Final = re.compile(
    r"""\s*(?P<brackets>\[\[?)?(?P<key>(?:"[^"]*"|'[^']*'|[^\s\[\]"'#=]|[ \t])+)(?(brackets)\]|=)"""
)

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TomlFile:
    """The content of a file, with the lines of its keys."""

    name: str
    data: Mapping[str, object]
    lines: Mapping[KeyPath, int]

    def line(self, path: KeyPath) -> int | None:
        """The line of the key, or of the nearest table or list that holds it; None if the file does not have it."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return None

    def place(self, path: KeyPath) -> str:
        """``config.toml:12`` for a key, ``config.toml`` for one that the file does not have."""
        line = self.line(path)
        return self.name if line is None else f"{self.name}:{line}"


def read_toml(path: Path) -> TomlFile:
    """Read the file. Raises ConfigError (one mistake, with the line if known) if that is not possible."""
    name = str(path)
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        who = f" (user {user()})" if isinstance(error, PermissionError) else ""
        raise ConfigError([f"{name}: cannot be read: {error.strerror}{who}"]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError([f"{name}:{line}: this is not UTF-8 text"]) from error
    text = text.removeprefix("\ufeff")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, at = str(error).rpartition(" (at ")
        line = int(at.split()[1].rstrip(",")) if at.startswith("line ") else text.rstrip().count("\n") + 1
        raise ConfigError([f"{name}:{line}: this is not TOML: {message}"]) from error
    return TomlFile(name=name, data=data, lines=dict(_positions(text.replace("\r\n", "\n"))))


def user() -> str:
    """The name of the user whose rights this process has."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _positions(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Each header and key of a valid TOML text, with its line; of keys, those that begin a line."""
    table: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    for line, content in enumerate(text.split("\n"), 1):
        match = _STATEMENT.match(content)
        path = _split(match["key"]) if match is not None else ()
        if match is None or not path:
            continue
        if not match["brackets"]:
            yield table + path, line
            continue
        table = ()
        for part in path:  # within an array of tables, its latest entry is meant
            table = (*table, counts[table], part) if table in counts else (*table, part)
        if match["brackets"] == "[[":
            counts[table] = counts.get(table, -1) + 1
            if counts[table] == 0:
                yield table, line
            table = (*table, counts[table])
        yield table, line


def _split(key: str) -> KeyPath:
    """The parts of a dotted, perhaps quoted key; empty if it is none, as in the middle of a text of several lines."""
    parts: list[str | int] = []
    try:
        value: object = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    while isinstance(value, dict):
        part, value = next(iter(value.items()))
        parts.append(part)
    return tuple(parts)


PREFIX: Final = "STACKD_"
KEY_VARIABLE: Final = "STACKD_AUTH__KEY"
_TRUE: Final = dict.fromkeys(("true", "1", "yes", "on"), True)
_FLAGS: Final = _TRUE | dict.fromkeys(("false", "0", "no", "off"), False)
_OTHERS: Final = frozenset(
    {KEY_VARIABLE, BOOT_VARIABLE, "STACKD_URL", "STACKD_API_KEY", "STACKD_CA_FILE", "STACKD_CONFIG"}
)
_NUMBER: Final = re.compile(r"\s*-?[0-9]{1,18}(\.[0-9]{1,18})?\s*")
_SERVICE_LINK: Final = re.compile(r"STACKD_(?:SERVICE_(?:HOST|PORT(?:_.*)?)|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_.*)?)?)")


def variable(section: str, key: str) -> str:
    """The variable that sets a key: ``STACKD_BATCH_DELETE__MAX_IDS``."""
    return f"{PREFIX}{section.upper()}__{key.upper()}"


def is_ours(name: str) -> bool:
    """Whether a variable is meant for the configuration.

    Variables of the client and of the tests are not, nor those that Kubernetes sets in a pod for a Service named
    ``stackd``.
    """
    if not name.startswith(PREFIX) or name in _OTHERS:
        return False
    return not name.startswith("STACKD_TEST_") and not _SERVICE_LINK.fullmatch(name)


def value_of(text: str, field: FieldInfo) -> object:
    """The text as a value of the field's kind; other text stays as it is, and the model refuses it."""
    kind = field.annotation
    if kind is bool:
        return _FLAGS.get(text.strip().lower(), text)
    if kind is int or (kind is float and not any(getattr(item, "unit", "") for item in field.metadata)):
        return _number(text, float if kind is float else int)
    if get_origin(kind) not in (tuple, Mapping):
        return text
    if text.strip()[:1] in ("[", "{"):
        return _structured(text)
    words = [word.strip() for word in text.split(",") if word.strip()]
    if get_origin(kind) is tuple:
        return words
    if not all("=" in word for word in words):
        return text
    pairs = ((name.strip(), value.strip()) for name, _, value in (word.partition("=") for word in words))
    numbers = int in get_args(get_args(kind)[1])  # as in Mapping[str, Annotated[int, …]]
    return {name: _number(value, int) if numbers else value for name, value in pairs}


def _number(text: str, kind: type[int] | type[float]) -> object:
    match = _NUMBER.fullmatch(text)
    return text if match is None or (kind is int and match[1]) else kind(text)


def _structured(text: str) -> object:
    """The value of JSON or TOML in brackets; invalid text as it is."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    with contextlib.suppress(tomllib.TOMLDecodeError):
        return tomllib.loads(f"value = {text.strip()}")["value"]
    return text

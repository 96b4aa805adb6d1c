"""The two sources of keys: a TOML file and the environment.

Owns the line of each key in the file, which ``tomllib`` does not tell; the variables' names
(``STACKD_<SECTION>__<KEY>``); and how the text of a variable becomes a value of the key's kind: strings, numbers and
flags as they are; lists and tables as JSON, as TOML, or as ``a,b`` and ``k=v,k2=v2``. Knows nothing of what keys mean.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic.fields import FieldInfo

from stackd.clock import BOOT_VARIABLE
from stackd.errors import ConfigError

_STATEMENT: Final = re.compile(
    r"""\s*(?P<brackets>\[\[?)?(?P<key>(?:"[^"]*"|'[^']*'|[^\s\[\]"'#=]|[ \t])+)(?(brackets)\]|=)"""
)
_POSITION: Final = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")

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
        raise ConfigError([_syntax_mistake(name, text, str(error))]) from error
    return TomlFile(name=name, data=data, lines=dict(_positions(text.replace("\r\n", "\n"))))


def user() -> str:
    """The name of the user whose rights this process has."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _syntax_mistake(name: str, text: str, message: str) -> str:
    match = _POSITION.search(message)
    if match is None:
        return f"{name}: {message}"
    line = int(match[1]) if match[1] else text.rstrip().count("\n") + 1
    return f"{name}:{line}: this is not TOML: {message[: match.start()]}"


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
        table = _within(path, counts)
        if match["brackets"] == "[[":
            counts[table] = counts.get(table, -1) + 1
            if counts[table] == 0:
                yield table, line
            table = (*table, counts[table])
        yield table, line


def _within(path: KeyPath, counts: Mapping[KeyPath, int]) -> KeyPath:
    """The path, with the index of the latest entry after each array of tables that it passes through."""
    full: KeyPath = ()
    for part in path[:-1]:
        full = (*full, part)
        if full in counts:
            full = (*full, counts[full])
    return (*full, path[-1])


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
    if kind is int:
        return _whole(text)
    if kind is float and not _has_unit(field):
        return _number(text)
    if get_origin(kind) is tuple:
        return _list(text)
    if get_origin(kind) is Mapping:
        return _table(text, get_args(kind)[1])
    return text


def _has_unit(field: FieldInfo) -> bool:
    return any(getattr(item, "unit", "") for item in field.metadata)


def _whole(text: str) -> object:
    return int(text) if re.fullmatch(r"\s*-?[0-9]{1,18}\s*", text) else text


def _number(text: str) -> object:
    return float(text) if re.fullmatch(r"\s*-?[0-9]{1,18}(?:\.[0-9]{1,18})?\s*", text) else text


def _list(text: str) -> object:
    parsed = _structured(text)
    if parsed is not None:
        return parsed
    return [part.strip() for part in text.split(",") if part.strip()]


def _table(text: str, kind: Any) -> object:
    parsed = _structured(text)
    if parsed is not None:
        return parsed
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(equals for _, equals, _ in pairs):
        return text
    numbers = (get_args(kind)[0] if get_origin(kind) is Annotated else kind) is int
    return {name.strip(): _whole(value) if numbers else value.strip() for name, _, value in pairs}


def _structured(text: str) -> object:
    """The value of JSON or TOML in brackets, invalid text as it is; None if the text does not begin with a bracket."""
    if text.strip()[:1] not in ("[", "{"):
        return None
    try:
        parsed: object = json.loads(text)
    except ValueError:
        try:
            parsed = tomllib.loads(f"value = {text.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return parsed

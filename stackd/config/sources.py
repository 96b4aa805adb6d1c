"""The two sources of keys, a TOML file and the environment, and the draft in which their values are gathered.

Owns the line of each key in the file, which ``tomllib`` does not report; the variables' names
(``STACKD_<SECTION>__<KEY>``); and how the text of a variable becomes a value of the key's kind: strings, numbers and
flags as they are; lists and tables as JSON, as TOML, or as ``a,b`` and ``k=v,k2=v2``. Owns the place of each mistake.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from stackd.clock import BOOT_VARIABLE
from stackd.config.sections import SECTIONS, expectation, fields
from stackd.errors import ConfigError
from stackd.files import user_name
from stackd.names import did_you_mean, suggest

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
        who = f" (user {user_name(os.geteuid())})" if isinstance(error, PermissionError) else ""
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


_NONE: Final[Mapping[Any, str]] = {tuple: "[]", Mapping: "{}", BaseModel: "{}"}
"""How a list or table without entries is written."""


def _shape(kind: Any) -> Any:
    """``tuple`` of a list, ``Mapping`` of a table of any names, ``BaseModel`` of one with keys of its own, else None."""
    return BaseModel if isinstance(kind, type) and issubclass(kind, BaseModel) else get_origin(kind)


def value_of(text: str, field: FieldInfo) -> object:
    """The text as a value of the field's kind; other text stays as it is, and the model refuses it."""
    kind = field.annotation
    if kind in (bool, int) or (kind is float and not expectation(field).unit):
        return _scalar(text, kind)
    if (shape := _shape(kind)) not in (tuple, Mapping, BaseModel):
        return text
    if text.strip()[:1] in ("[", "{"):
        return _structured(text)
    if shape is BaseModel:
        return text
    words = [word.strip() for word in text.split(",") if word.strip()]
    if get_origin(kind) is tuple:
        return words
    if not all("=" in word for word in words):
        return text
    pairs = ((name.strip(), value.strip()) for name, _, value in (word.partition("=") for word in words))
    numbers = int in get_args(get_args(kind)[1])  # as in Mapping[str, Annotated[int, …]]
    return {name: _scalar(value, int) if numbers else value for name, value in pairs}


def _scalar(text: str, kind: Any) -> object:
    """The number or flag in the text, as pydantic reads it; other text as it is."""
    try:
        return TypeAdapter(kind).validate_python(text.strip())
    except ValidationError:
        return text


def _structured(text: str) -> object:
    """The value of JSON or TOML in brackets; invalid text as it is."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    with contextlib.suppress(tomllib.TOMLDecodeError):
        return tomllib.loads(f"value = {text.strip()}")["value"]
    return text


# ---- what has been gathered so far


DEFAULT: Final = "default"
_IN_NO_FILE: Final = 1 << 30
_NO_KEY_TEXT: Final = (
    "the text of a key does not belong in a file that others read; use STACKD_AUTH__KEY, key_file, "
    "or its SHA-256 in [[auth.keys]]"
)


class Draft:
    """The values of all sources, unchecked, and what was found wrong with them.

    ``origins``   for each ``section.key`` that is set: ``FILE:LINE``, ``environment NAME`` or ``credential NAME``
    ``bad``       the keys with mistakes
    ``warnings``  sentences to log at every start
    """

    def __init__(self, file: TomlFile | None, environment: Mapping[str, str], credentials: Path | None) -> None:
        self.file, self.environment, self.credentials = file, environment, credentials
        self.raw: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        self.origins: dict[str, str] = {}
        self.bad: set[str] = set()
        self.warnings: list[str] = []
        self._mistakes: list[tuple[int, str]] = []
        if file is not None:
            self._take_file(file)
        self._take_environment()

    def mistake(self, path: KeyPath, text: str, *, name: str = "") -> None:
        """Note a mistake in a key, with the place where the key was set; ``name`` if the key is in no section."""
        key = ".".join(map(str, path[:2]))
        self.bad.add(key)
        origin, line = self.origins.get(key, DEFAULT), None
        if origin.startswith("environment "):
            place = origin
        elif self.file is None:
            place = "configuration"
        else:
            place, line = self.file.place(path), self.file.line(path)
        self._mistakes.append((line or _IN_NO_FILE, f"{place}: {name or _name(path)}: {text}"))

    def mistakes(self) -> list[str]:
        """The mistakes, in the order of the file."""
        return [text for _, text in sorted(self._mistakes, key=lambda entry: entry[0])]

    def _take_file(self, file: TomlFile) -> None:
        for section, table in file.data.items():
            if section not in SECTIONS:
                self.mistake((section,), _unknown_section(section), name="" if isinstance(table, dict) else section)
            elif not isinstance(table, dict):
                self.mistake((section,), f"this is not a section; [{section}] on a line of its own is expected")
            else:
                for key, value in table.items():
                    if key in SECTIONS[section].model_fields:
                        self.raw[section][key] = value
                        self.origins[f"{section}.{key}"] = file.place((section, key))
                    else:
                        self.mistake((section, key), _unknown_key(section, key))

    def _take_environment(self) -> None:
        variables = {variable(section, key): (section, key, info) for section, key, info in fields()}
        for name in sorted(filter(is_ours, self.environment)):
            if name in variables:
                section, key, info = variables[name]
                text, none = self.environment[name], _NONE.get(_shape(info.annotation))
                self.origins[f"{section}.{key}"] = f"environment {name}"
                if none and not text.strip(
                    ", \t\n"
                ):  # a variable that another one did not fill must not take rules away
                    self.mistake((section, key), f"this is empty; set it to {none} if you mean none")
                else:
                    self.raw[section][key] = value_of(text, info)
            else:
                suggestion = did_you_mean(name, [*variables, KEY_VARIABLE])
                self._mistakes.append((_IN_NO_FILE, f"environment {name}: unknown key{suggestion}"))


def _name(path: KeyPath) -> str:
    """``[auth] keys[0].sha256``."""
    section, *rest = path
    text = ""
    for part in rest:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return f"[{section}] {text}".rstrip()


def _unknown_key(section: str, key: str) -> str:
    """The sentence for an unknown key, with the nearest name in the section, or the section that has the key."""
    if (section, key) == ("auth", "key"):
        return _NO_KEY_TEXT
    if (section, key) == ("play", "work"):
        return (
            "this key has gone, and proof of work with it: take it out; the total of an open link limits its visitors"
        )
    owner = next((other for other, model in SECTIONS.items() if key in model.model_fields), "")
    return "unknown key" + (suggest(f"[{owner}] {key}") if owner else did_you_mean(key, SECTIONS[section].model_fields))


def _unknown_section(section: str) -> str:
    """The sentence for an unknown section, with the nearest name; or the section in which this key belongs."""
    owner = next((other for other, model in SECTIONS.items() if section in model.model_fields), "")
    if owner:
        return "this key belongs in a section" + suggest(f"[{owner}] {section}")
    return "unknown section" + did_you_mean(section, SECTIONS)

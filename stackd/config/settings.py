"""The keys as a flat list: their values as TOML text, and what a reload may change.

A test compares the example file with it; after adding a key, print that again with ``python -m tests.unit.config.reference``.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from stackd.config.sections import Config, OidcSection, expectation, fields
from stackd.config.sources import variable
from stackd.keys import ApiKey
from stackd.kinds import AT_START, LIVE
from stackd.podspec.policy import Toleration
from stackd.units import format_duration, format_size

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key: its section, its default (as TOML), and its purpose."""

    section: str
    key: str
    default: str
    why: str
    unit: str
    live: bool

    @property
    def name(self) -> str:
        """``section.key``."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return variable(self.section, self.key)

    def value(self, config: Config) -> object:
        return getattr(getattr(config, self.section), self.key)

    def text(self, config: Config) -> str:
        """Its value in ``config``, as TOML."""
        return toml(self.value(config), self.unit)


def settings() -> tuple[Setting, ...]:
    """All keys, in the order of the file."""
    return tuple(itertools.starmap(_setting, fields()))


def _setting(section: str, key: str, field: FieldInfo) -> Setting:
    unit = expectation(field).unit
    default = toml(field.get_default(call_default_factory=True), unit)
    in_live_section = LIVE in Config.model_fields[section].metadata and AT_START not in field.metadata
    live = in_live_section or LIVE in field.metadata
    return Setting(section=section, key=key, default=default, why=field.description or "", unit=unit, live=live)


def toml(value: object, unit: str = "") -> str:
    """A value as TOML; durations and sizes as people write them, API keys without their hash."""
    if unit and isinstance(value, int | float):
        return f'"{format_duration(value) if unit == "seconds" else format_size(int(value))}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, ApiKey):
        tenant = {"labels": value.labels, "templates": value.templates} if value.tenant else {}
        return toml({"name": value.name, "scope": value.scope, **tenant})
    if isinstance(value, OidcSection):
        return toml(value.model_dump(exclude_defaults=True))
    if isinstance(value, SecretStr):
        return '"…"' if value.get_secret_value() else '""'
    if isinstance(value, Toleration):
        return toml(value.manifest())
    if isinstance(value, tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_key(str(key))} = {toml(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return _string(value) if isinstance(value, str) else json.dumps(value)


def _string(text: str) -> str:
    """A TOML basic string: JSON's form, except for DEL; half of a surrogate pair is replaced, because TOML has none."""
    return json.dumps(_SURROGATE.sub("\ufffd", text), ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChange:
    """A key (``section.key``) and its values as TOML; API keys show only their names."""

    key: str
    old: str
    new: str


def diff(old: Config, new: Config) -> tuple[list[SettingChange], list[SettingChange]]:
    """The keys that differ, in the order of the file: those that a reload changes, and those that need a restart."""
    live, restart = list[SettingChange](), list[SettingChange]()
    for setting in settings():
        if setting.value(old) != setting.value(new):
            change = SettingChange(key=setting.name, old=setting.text(old), new=setting.text(new))
            (live if setting.live else restart).append(change)
    return live, restart


def merge_live(old: Config, new: Config) -> Config:
    """``old`` with the live keys of ``new``: the configuration in force after a reload, until the restart."""
    live: dict[str, dict[str, object]] = {}
    for setting in settings():
        if setting.live:
            live.setdefault(setting.section, {})[setting.key] = setting.value(new)
    parts = {section: getattr(old, section).model_copy(update=values) for section, values in live.items()}
    return old.model_copy(update=parts)

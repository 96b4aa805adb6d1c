"""The keys as a flat list, and their values as TOML text.

What the example file, the README's table, ``stackd check --effective`` and reloads are written from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stackd.config import environ, wording
from stackd.config.policy import Toleration
from stackd.config.sections import Config
from stackd.config.units import format_duration, format_size
from stackd.keys import ApiKey

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key: where it stands, what it is without being set (as TOML), and why it is there."""

    section: str
    key: str
    default: str
    why: str
    unit: str

    @property
    def name(self) -> str:
        """``section.key``."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return environ.variable(self.section, self.key)

    def text(self, config: Config) -> str:
        """Its value in ``config``, as TOML."""
        return toml(getattr(getattr(config, self.section), self.key), self.unit)


def settings() -> tuple[Setting, ...]:
    """All keys, in the order of the file."""
    return tuple(_settings())


def _settings() -> Iterator[Setting]:
    for section, model in wording.sections().items():
        for key, field in model.model_fields.items():
            yield _setting(section, key, field)


def _setting(section: str, key: str, field: FieldInfo) -> Setting:
    unit = wording.expectation(field).unit
    default = toml(field.get_default(call_default_factory=True), unit)
    return Setting(section=section, key=key, default=default, why=field.description or "", unit=unit)


def toml(value: object, unit: str = "") -> str:
    """A value as TOML; durations and sizes as people write them, keys without their hash."""
    if unit and isinstance(value, int | float):
        return f'"{format_duration(value) if unit == "seconds" else format_size(int(value))}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, ApiKey):
        return toml({"name": value.name, "scope": value.scope})
    if isinstance(value, Toleration):
        return toml(value.manifest())
    if isinstance(value, tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_key(str(key))} = {toml(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key)


def section_docs() -> dict[str, str]:
    """What each section is about, in a few words."""
    models: dict[str, type[BaseModel]] = wording.sections()
    return {name: (model.__doc__ or "").strip() for name, model in models.items()}

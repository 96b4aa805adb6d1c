"""What a reload may change: which keys take effect at once, and which wait for a restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stackd.config.sections import Config
from stackd.config.settings import Setting, settings

_LIVE_SECTIONS: Final = ("limits", "policy", "log", "batch_delete", "reconcile")
_RESTART_IN_THEM: Final = frozenset({"limits.header_size"})
_LIVE_SINGLE: Final = frozenset(
    {
        "auth.keys",
        "auth.key_file",
        "stacks.ttl",
        "stacks.max_ttl",
        "stacks.scheduling_timeout",
        "stacks.unschedulable_grace",
        "stacks.image_pull_grace",
        "stacks.public_ips",
        "stacks.address_types",
        "stacks.keep_history",
        "metrics.public",
    }
)
LIVE_KEYS: Final = _LIVE_SINGLE | {
    setting.name for setting in settings() if setting.section in _LIVE_SECTIONS and setting.name not in _RESTART_IN_THEM
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A key (``section.key``) and its values as TOML; API keys show their names only."""

    key: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What differs between two configurations, by when it can take effect."""

    live: tuple[Change, ...]
    restart: tuple[Change, ...]


def diff(old: Config, new: Config) -> Changes:
    """The keys that differ, in the order of the file."""
    changed = [setting for setting in settings() if _value(old, setting) != _value(new, setting)]
    found = [Change(key=setting.name, old=setting.text(old), new=setting.text(new)) for setting in changed]
    return Changes(
        live=tuple(change for change in found if change.key in LIVE_KEYS),
        restart=tuple(change for change in found if change.key not in LIVE_KEYS),
    )


def merge_live(old: Config, new: Config) -> Config:
    """``old`` with the live keys of ``new``: what is in force after a reload, until the restart."""
    parts = {}
    for section in {name.partition(".")[0] for name in LIVE_KEYS}:
        live = [setting for setting in settings() if setting.section == section and setting.name in LIVE_KEYS]
        update = {setting.key: _value(new, setting) for setting in live}
        parts[section] = getattr(old, section).model_copy(update=update)
    return old.model_copy(update=parts)


def _value(config: Config, setting: Setting) -> object:
    return getattr(getattr(config, setting.section), setting.key)

"""The configuration, written out: the example file and the README's table.

Tests hold ``config.example.toml`` and the README to these; after adding a key, print them anew with
``python -c "from stackd.config.reference import example; print(example(), end='')"`` (or ``table``).
"""

from __future__ import annotations

from typing import Final

from stackd.config.reload import LIVE_KEYS
from stackd.config.settings import section_docs, settings

TABLE_BEGIN: Final = "<!-- configuration table: begin -->"
TABLE_END: Final = "<!-- configuration table: end -->"
_HEADER: Final = """\
# stackd's configuration: every key with its default. Delete what you do not change.
#
# Each key can be set from the environment, which wins over this file: STACKD_<SECTION>__<KEY>, such as
# STACKD_STACKS__TTL=30m or STACKD_STACKS__NODE_SELECTOR=role=stack,zone=a. Durations are written "1h30m", sizes "1MiB".
# `stackd check` tells all mistakes at once; keys marked (live) take effect at a reload, the others at a restart.
"""
_KEYS: Final = """\
# [[auth.keys]]
# name = "platform"
# sha256 = "<64 hex digits>"
# scope = "admin"  # or "read"
"""


def example() -> str:
    """The text of ``config.example.toml``."""
    return _HEADER + "".join(_example_section(section, doc) for section, doc in section_docs().items())


def _example_section(section: str, doc: str) -> str:
    text = f"\n# {doc}\n[{section}]\n"
    for setting in settings():
        if setting.section != section:
            continue
        live = " (live)" if setting.name in LIVE_KEYS else ""
        body = _KEYS if setting.name == "auth.keys" else f"{setting.key} = {setting.default}\n"
        text += f"# {setting.why}{live}\n{body}"
    return text


def table() -> str:
    """The README's table of keys, to stand between ``TABLE_BEGIN`` and ``TABLE_END``."""
    rows = ["| key | default | at | what for |", "|---|---|---|---|"]
    for setting in settings():
        when = "reload" if setting.name in LIVE_KEYS else "restart"
        rows.append(f"| `{setting.name}` | `{setting.default}` | {when} | {setting.why.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"

"""Which files of a folder are templates, and what identifies a template's text. Knows nothing of what is in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from stackd.names import LABEL_FORM, is_label

SUFFIX: Final = ".yaml"


def template_files(folder: Path, mistakes: list[str]) -> list[Path]:
    """The files that are templates, in the order of their names; ignores hidden files and those of other kinds."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        mistakes.append(f"templates.directory: {folder} cannot be read: {error.strerror}")
        return []
    paths = []
    for path in entries:
        if path.name.startswith(".") or path.suffix not in (SUFFIX, ".yml"):
            continue
        if mistake := mistake_in_name(path):
            mistakes.append(mistake)
        else:
            paths.append(path)
    return paths


def mistake_in_name(path: Path) -> str | None:
    """What is wrong with the name of a template's file."""
    if path.suffix != SUFFIX:
        return f"{path}: a template's file ends in {SUFFIX}; rename it to {path.stem}{SUFFIX}"
    if not is_label(path.stem):
        return f'{path}: "{path.stem}" is not the name of a template; {LABEL_FORM} are expected before {SUFFIX}'
    return None


def version_of(text: bytes) -> str:
    """What identifies a template's text."""
    return hashlib.sha256(text).hexdigest()[:16]

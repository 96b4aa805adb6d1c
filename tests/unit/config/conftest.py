"""Helpers to load a configuration from text and to list its mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from stackd.config import LoadedConfig, load
from stackd.errors import ConfigError

KEY = "sk-0123456789abcdef0123456789abcdef"
Load = Callable[..., LoadedConfig]
Mistakes = Callable[..., list[str]]


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    """Load a text as config.toml, with one API key in the environment and no cluster."""

    def run(text: str = "", environ: Mapping[str, str] | None = None, credentials: Path | None = None) -> LoadedConfig:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return load(path, {"STACKD_AUTH__KEY": KEY} if environ is None else environ, credentials)

    return run


@pytest.fixture
def mistakes_in(tmp_path: Path, load_text: Load) -> Mistakes:
    """The mistakes in a text, without the path of the file's folder."""

    def run(text: str = "", environ: Mapping[str, str] | None = None, credentials: Path | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load_text(text, environ, credentials)
        return [mistake.removeprefix(f"{tmp_path}/") for mistake in caught.value.mistakes]

    return run

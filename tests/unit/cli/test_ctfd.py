"""``stackd ctfd install``: the plugin that this stackd comes with is in a CTFd, whole, or nothing has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stackd.cli import DRIFT, stackd
from stackd.cli.ctfd import PLUGIN


@pytest.fixture
def ctfd(tmp_path: Path) -> Path:
    """What the command knows of a CTFd 3.8.7: its version, and the folder of its plugins."""
    (tmp_path / "CTFd" / "plugins").mkdir(parents=True)
    (tmp_path / "CTFd" / "__init__.py").write_text('import os\n\n__version__ = "3.8.7"\n__channel__ = "oss"\n')
    return tmp_path


def install(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(stackd, ["ctfd", "install", str(folder), *words])


def plugins(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "CTFd" / "plugins").iterdir())


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*.*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_it_is_installed_whole_and_replaces_an_older_one_and_what_an_interrupted_install_has_left(ctfd: Path) -> None:
    target = ctfd / "CTFd" / "plugins" / "stackd_instances"
    result = install(ctfd)
    assert result.exit_code == 0, result.output
    assert content(target) == content(PLUGIN)
    (target / "assets" / "stale.js").write_text("of an older version")
    (target / "models.py").write_text("")
    for word in ("new", "old"):
        (left := target.with_name(f".stackd_instances.{word}")).mkdir()
        (left / "models.py").write_text("")
    assert "in place of another one" in install(ctfd).output
    assert (content(target), plugins(ctfd)) == (content(PLUGIN), ["stackd_instances"])


def test_everybody_can_read_it_whatever_the_umask(ctfd: Path) -> None:
    before = os.umask(0o077)
    try:
        assert install(ctfd).exit_code == 0
    finally:
        os.umask(before)
    target = ctfd / "CTFd" / "plugins" / "stackd_instances"
    assert {path.stat().st_mode & 0o777 for path in (target, *target.rglob("*/"))} == {0o755}
    assert {path.stat().st_mode & 0o777 for path in target.rglob("*.*") if path.is_file()} == {0o644}


def test_a_check_says_whether_it_is_current_and_changes_nothing(ctfd: Path) -> None:
    target = ctfd / "CTFd" / "plugins" / "stackd_instances"
    assert (install(ctfd, "--check").exit_code, plugins(ctfd)) == (DRIFT, [])
    install(ctfd)
    (target / "__pycache__").mkdir()
    (target / "__pycache__" / "models.cpython-311.pyc").write_bytes(b"of CTFd")
    assert install(ctfd, "--check").exit_code == 0
    (target / "models.py").write_text("# changed")
    assert install(ctfd, "--check").exit_code == DRIFT
    assert (target / "models.py").read_text() == "# changed"


def test_another_ctfd_and_what_is_none_are_refused(ctfd: Path) -> None:
    for version in ("3.6.1", "3.70.0", "4.0.0"):
        (ctfd / "CTFd" / "__init__.py").write_text(f'__version__ = "{version}"\n')
        result = install(ctfd)
        assert (result.exit_code, f"is CTFd {version}, and the plugin is for" in result.output) == (1, True)
    for folder, code in ((ctfd / "CTFd", 1), (ctfd / "CTFd" / "plugins", 1), (ctfd / "nowhere", 2)):
        assert install(folder).exit_code == code
    assert plugins(ctfd) == []


def test_a_link_to_a_checkout_is_not_overwritten(ctfd: Path) -> None:
    (mine := ctfd / "mine").mkdir()
    (ctfd / "CTFd" / "plugins" / "stackd_instances").symlink_to(mine)
    assert (install(ctfd).exit_code, list(mine.iterdir())) == (1, [])

"""The contents of the Debian package."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from stackd.config.settings import settings
from stackd.store.schema import FORMAT
from tests.package.conftest import Built
from tests.package.debian import field, run
from tests.systemd.machine import ROOT

pytestmark = pytest.mark.systemd

SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
DOC = "usr/share/doc/stackd"
FILES = {
    "usr/bin/stackd",
    "usr/lib/stackd/bin/hand-over",
    *(f"usr/lib/systemd/system/stackd{name}" for name in (".service", "-backup.service", "-backup.timer")),
    "usr/lib/sysusers.d/stackd.conf",
    "usr/lib/tmpfiles.d/stackd.conf",
    "usr/share/man/man1/stackd.1.gz",
    "usr/share/man/man5/stackd-config.5.gz",
    "usr/share/bash-completion/completions/stackd",
    "usr/share/zsh/vendor-completions/_stackd",
    "usr/share/fish/vendor_completions.d/stackd.fish",
    f"{DOC}/README.md",
    f"{DOC}/docs/integrate.md",
    f"{DOC}/examples/integrate.py",
    f"{DOC}/integrations/ctfd/stackd_instances/__init__.py",
    f"{DOC}/examples/config.example.toml",
    f"{DOC}/examples/monitoring/alerts.yaml",
}


def control(deb: Path, name: str) -> str:
    return run("dpkg-deb", "--info", str(deb), name)


def manual(deb: Path, name: str) -> str:
    page = run("bash", "-c", f"dpkg-deb --fsys-tarfile {deb} | tar -xO ./usr/share/man/{name}.gz | zcat")
    return page.replace("\\-", "-")


def test_its_fields_name_version_machine_type_and_the_python_that_it_was_built_for(deb: Path) -> None:
    version = run(str(ROOT / "deb/version.sh")).strip().replace(".dev", "~dev")
    assert field(deb, "Version") == version
    assert deb.name == f"stackd_{version}_{field(deb, 'Architecture')}.deb"
    assert f'"stackd {version}"' in manual(deb, "man1/stackd.1")
    major, minor = run("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2])").split()
    depends = field(deb, "Depends")
    python = f"python3 (>= {major}.{minor}~), python3 (<< {major}.{int(minor) + 1})"
    for part in (python, "systemd (>= 254)", "libc6 (>= "):
        assert part in depends


def test_it_has_only_what_is_used(built: Built) -> None:
    """Nothing may be written by others, or is newer than the commit."""
    lines = run("dpkg-deb", "--contents", str(built.deb)).splitlines()
    names = {re.split(" \\./", line, maxsplit=1)[1].partition(" -> ")[0]: line.partition(" ./")[0] for line in lines}
    assert names.keys() >= FILES
    assert control(built.deb, "conffiles") == "/etc/stackd/config.toml\n"
    assert names["etc/stackd/config.toml"].startswith("-rw-r----- root/root")
    packages = {name.partition("site-packages/")[2].partition("/")[0] for name in names if "site-packages/" in name}
    assert {"stackd", "aiohttp", "kubernetes"} <= packages
    assert not {name for name in packages if name.startswith(("pip", "setuptools", "pkg_resources"))}
    programs = {Path(name).name for name in names if name.startswith("usr/lib/stackd/bin/") and name[-1] != "/"}
    assert {name for name in programs if not name.startswith("python")} == {"stackd", "hand-over"}
    day_of_commit = run("date", "-u", "-d", f"@{built.commit_time}", "+%Y-%m-%d %H:%M").strip()
    for name, attributes in names.items():
        mode, owner = attributes.split()[:2]
        assert owner == "root/root", name
        assert mode[0] == "l" or "w" not in mode[4:], name
        assert attributes.endswith(day_of_commit), name


@pytest.mark.parametrize("name", SCRIPTS)
def test_its_scripts_are_what_a_plain_shell_understands_and_fetch_nothing(deb: Path, tmp_path: Path, name: str) -> None:
    script = control(deb, name)
    assert script.startswith("#!/bin/sh\n")
    assert "://" not in script
    assert not re.search(r"\b(pip|curl|wget|apt|apt-get)\b", script)
    assert "@" not in re.sub(r"\"\$@\"", "", script)
    (tmp_path / name).write_text(script)
    subprocess.run(["dash", "-n", str(tmp_path / name)], check=True, timeout=60)
    assert name != "preinst" or f"\nformats={FORMAT}\n" in script


def test_its_manuals_have_each_key_with_its_default_and_each_command(deb: Path) -> None:
    from stackd.cli import stackd as group

    page = manual(deb, "man5/stackd-config.5")
    for one in settings():
        assert f"\\fB{one.key} = {one.default}\\fR\n{one.why}" in page
    assert "STACKD_AUTH__KEY" in page
    page = manual(deb, "man1/stackd.1")
    names = group.list_commands(click.Context(group))
    assert "setup" in names
    for part in (*(f'.SS "stackd {name}' for name in names), "/etc/stackd/config.toml", "STACKD_CONFIG"):
        assert part in page

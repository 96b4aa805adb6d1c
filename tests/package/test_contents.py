"""The contents of the Debian package."""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
from pathlib import Path

import click
import pytest

import stackd
from stackd.config.settings import settings
from stackd.store.schema import FORMAT
from tests.package.conftest import Built
from tests.package.debian import field, run

pytestmark = pytest.mark.systemd


def control(deb: Path, name: str) -> str:
    return run("dpkg-deb", "--info", str(deb), name)


@functools.cache
def listing(deb: Path) -> dict[str, str]:
    """Name, mode, owner, size and time of each file."""
    lines = run("dpkg-deb", "--contents", str(deb)).splitlines()
    return {re.split(" \\./", line, maxsplit=1)[1].partition(" -> ")[0]: line.partition(" ./")[0] for line in lines}


def test_the_name_tells_version_and_machine_type(deb: Path) -> None:
    assert field(deb, "Version") == stackd.__version__
    assert deb.name == f"stackd_{stackd.__version__}_{field(deb, 'Architecture')}.deb"


def test_it_depends_on_the_version_of_python_that_it_was_built_for(deb: Path) -> None:
    major, minor = run("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2])").split()
    depends = field(deb, "Depends")
    assert f"python3 (>= {major}.{minor}~), python3 (<< {major}.{int(minor) + 1})" in depends
    assert "systemd (>= 254)" in depends
    assert "libc6 (>= " in depends


def test_it_has_command_units_manual_page_and_completions(deb: Path) -> None:
    names = listing(deb)
    for name in (
        "usr/bin/stackd",
        "usr/lib/stackd/bin/hand-over",
        "usr/lib/systemd/system/stackd.service",
        "usr/lib/systemd/system/stackd-backup.service",
        "usr/lib/systemd/system/stackd-backup.timer",
        "usr/lib/sysusers.d/stackd.conf",
        "usr/lib/tmpfiles.d/stackd.conf",
        "usr/share/man/man1/stackd.1.gz",
        "usr/share/man/man5/stackd-config.5.gz",
        "usr/share/bash-completion/completions/stackd",
        "usr/share/zsh/vendor-completions/_stackd",
        "usr/share/fish/vendor_completions.d/stackd.fish",
        "usr/share/doc/stackd/README.md",
        "usr/share/doc/stackd/docs/integrate.md",
        "usr/share/doc/stackd/examples/integrate.py",
        "usr/share/doc/stackd/integrations/ctfd/stackd_instances/__init__.py",
        "usr/share/doc/stackd/examples/config.example.toml",
        "usr/share/doc/stackd/examples/monitoring/alerts.yaml",
    ):
        assert name in names
    assert control(deb, "conffiles") == "/etc/stackd/config.toml\n"
    assert names["etc/stackd/config.toml"].startswith("-rw-r----- root/root")


def test_it_carries_nothing_that_only_a_build_needs(deb: Path) -> None:
    names = listing(deb)
    packages = {name.partition("site-packages/")[2].partition("/")[0] for name in names if "site-packages/" in name}
    assert {"stackd", "aiohttp", "kubernetes"} <= packages
    assert not {name for name in packages if name.startswith(("pip", "setuptools", "pkg_resources"))}
    programs = {Path(name).name for name in names if name.startswith("usr/lib/stackd/bin/") and name[-1] != "/"}
    assert {name for name in programs if not name.startswith("python")} == {"stackd", "hand-over"}


def test_all_belongs_to_root_and_nobody_else_may_write_it_and_nothing_is_newer_than_the_commit(built: Built) -> None:
    day_of_commit = run("date", "-u", "-d", f"@{built.commit_time}", "+%Y-%m-%d %H:%M").strip()
    for name, said in listing(built.deb).items():
        mode, owner = said.split()[:2]
        assert owner == "root/root", name
        assert mode[0] == "l" or "w" not in mode[4:], name
        assert said.endswith(day_of_commit), name


def test_the_scripts_name_no_host_and_fetch_nothing(deb: Path) -> None:
    for name in ("preinst", "postinst", "prerm", "postrm"):
        script = control(deb, name)
        assert "://" not in script
        assert not re.search(r"\b(pip|curl|wget|apt|apt-get)\b", script)
    assert f"\nformats={FORMAT}\n" in control(deb, "preinst")


def test_the_scripts_are_what_a_plain_shell_understands(deb: Path, tmp_path: Path) -> None:
    for name in ("preinst", "postinst", "prerm", "postrm"):
        script = tmp_path / name
        script.write_text(control(deb, name))
        assert script.read_text().startswith("#!/bin/sh\n")
        assert "@" not in re.sub(r"\"\$@\"", "", script.read_text())
        subprocess.run(["dash", "-n", str(script)], check=True, timeout=60)


def manual(deb: Path, name: str) -> str:
    page = run("bash", "-c", f"dpkg-deb --fsys-tarfile {deb} | tar -xO ./usr/share/man/{name}.gz | zcat")
    return page.replace("\\-", "-")


def test_the_manual_of_the_configuration_has_each_key_with_its_default(deb: Path) -> None:
    page = manual(deb, "man5/stackd-config.5")
    for one in settings():
        assert f"\\fB{one.key} = {one.default}\\fR\n{one.why}" in page
    assert "STACKD_AUTH__KEY" in page


def test_the_manual_page_has_each_command(deb: Path) -> None:
    from stackd.cli import stackd as group

    page = manual(deb, "man1/stackd.1")
    names = group.list_commands(click.Context(group))
    assert "setup" in names
    for name in names:
        assert f'.SS "stackd {name}' in page
    for setting in ("/etc/stackd/config.toml", "STACKD_CONFIG"):
        assert setting in page


# ---- the Debian package is reproducible, and lintian finds nothing wrong. Both checks run beside the other tests


def test_two_builds_in_two_folders_are_the_same_to_the_last_byte(built: Built) -> None:
    assert built.again is not None
    done = built.again.result()
    assert done.code == 0, done.out + done.err
    (other,) = built.elsewhere.glob("stackd_*.deb")
    assert other.name == built.deb.name
    assert hashlib.sha256(other.read_bytes()).digest() == hashlib.sha256(built.deb.read_bytes()).digest()


def test_lintian_has_nothing_to_say(built: Built) -> None:
    assert built.lintian is not None
    done = built.lintian.result()
    assert (done.code, done.out, done.err) == (0, "", "")

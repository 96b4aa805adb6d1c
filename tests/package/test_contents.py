"""The contents of the Debian package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stackd.store.schema import FORMAT
from tests.package.debian import field, run
from tests.systemd.machine import ROOT

pytestmark = pytest.mark.systemd

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


def test_its_fields_name_version_machine_type_and_the_python_that_it_was_built_for(deb: Path) -> None:
    version = run(str(ROOT / "deb/version.sh")).strip().replace(".dev", "~dev")
    assert field(deb, "Version") == version
    assert deb.name == f"stackd_{version}_{field(deb, 'Architecture')}.deb"
    major, minor = run("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2])").split()
    depends = field(deb, "Depends")
    python = f"python3 (>= {major}.{minor}~), python3 (<< {major}.{int(minor) + 1})"
    for part in (python, "systemd (>= 254)", "libc6 (>= "):
        assert part in depends


def test_it_has_only_what_is_used(deb: Path) -> None:
    """Nothing may be written by others."""
    lines = run("dpkg-deb", "--contents", str(deb)).splitlines()
    names = {re.split(" \\./", line, maxsplit=1)[1].partition(" -> ")[0]: line.partition(" ./")[0] for line in lines}
    assert names.keys() >= FILES
    assert f"\nformats={FORMAT}\n" in control(deb, "preinst"), "an older package is refused over a newer file"
    assert control(deb, "conffiles") == "/etc/stackd/config.toml\n"
    assert names["etc/stackd/config.toml"].startswith("-rw-r----- root/root")
    packages = {name.partition("site-packages/")[2].partition("/")[0] for name in names if "site-packages/" in name}
    assert {"stackd", "aiohttp", "kubernetes"} <= packages
    assert not {name for name in packages if name.startswith(("pip", "setuptools", "pkg_resources"))}
    programs = {Path(name).name for name in names if name.startswith("usr/lib/stackd/bin/") and name[-1] != "/"}
    assert {name for name in programs if not name.startswith("python")} == {"stackd", "hand-over"}
    for name, attributes in names.items():
        mode, owner = attributes.split()[:2]
        assert owner == "root/root", name
        assert mode[0] == "l" or "w" not in mode[4:], name

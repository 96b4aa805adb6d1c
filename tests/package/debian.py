"""Builds Debian packages and reads them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.systemd import machine
from tests.systemd.machine import HOST_VARIABLE, ROOT, Ran

NEWER = "99.1"
TOOLS = ("dpkg", "dpkg-deb", "dpkg-shlibdeps", "apt-get", "make")
UNWANTED = ("MAKE", "PYTHON", "VIRTUAL_ENV", "DEB", "DIST", "SOURCE_DATE_EPOCH")


def why_not() -> str:
    """Why no package can be built or installed here; empty if it can."""
    missing = [name for name in TOOLS if not shutil.which(name)]
    if missing:
        return f"packages are built and installed with {', '.join(missing)}"
    if os.environ.get(HOST_VARIABLE) == "1":
        return "packages are installed into a machine of their own only"
    return machine.why_not()


def built(factory: pytest.TempPathFactory) -> Path:
    """The package, which the first process of this run that needs it builds. Each installation would decompress it again."""
    of_all = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder = of_all / "deb"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not any(folder.glob("*.deb")):
            done = build(folder)
            assert done.code == 0, done.out + done.err
    (deb,) = folder.glob("stackd_*.deb")
    return deb


def build(folder: Path) -> Ran:
    """Run ``make deb``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(UNWANTED)}
    environment["DPKG_DEB_COMPRESSOR_TYPE"] = "none"
    command = ("make", "--no-print-directory", "-C", str(ROOT), "deb", f"DIST={folder}")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    return Ran(code=done.returncode, out=done.stdout, err=done.stderr)


def run(*command: str) -> str:
    """The output of a command, which must succeed."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


def build_newer(deb: Path, folder: Path) -> None:
    """A later version, with another default configuration, a later format of the state file, and other files."""
    tree = folder / "tree"
    run("dpkg-deb", "--raw-extract", str(deb), str(tree))
    for name, before, after in (
        ("control", f"Version: {field(deb, 'Version')}", f"Version: {NEWER}"),
        ("preinst", "\nformats=", "\nformats=1"),
    ):
        file = tree / "DEBIAN" / name
        file.write_text(file.read_text().replace(before, after))
    (record,) = tree.glob("usr/lib/stackd/lib/python*/site-packages/stackd-*.dist-info/RECORD")
    for file, line in ((tree / "etc/stackd/config.toml", "# a new default\n"), (record, "stackd/new.py,sha256=1,1\n")):
        with file.open("a") as opened:
            opened.write(line)
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(folder / f"stackd_{NEWER}.deb"))
    shutil.rmtree(tree)


def field(deb: Path, name: str) -> str:
    """A field of the package's control file."""
    return run("dpkg-deb", "--field", str(deb), name).strip()

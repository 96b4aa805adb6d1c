"""`make install` runs as root: it installs only what the lock file names, checked by its hash."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.test_packaging import PROJECT, ROOT, pins

LOCK = ROOT / "requirements.lock"
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]


def locked() -> dict[str, tuple[Requirement, list[str]]]:
    """Each package of the lock file with its hashes, in the file's order."""
    text = "".join(line for line in LOCK.read_text().splitlines(keepends=True) if not line.startswith("#"))
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for entry in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = entry.split(" --hash=")
        made = Requirement(requirement.strip())
        found[made.name] = (made, [each.strip() for each in hashes])
    return found


def test_the_lock_and_the_constraints_name_the_same_versions() -> None:
    for name, (requirement, _) in locked().items():
        assert requirement.specifier == pins()[name].specifier, f"{name}: run `make lock`"
        assert requirement.marker == pins()[name].marker, f"{name}: run `make lock`"


def test_the_lock_holds_what_is_needed_at_run_time_and_to_build_and_no_more() -> None:
    wanted, needed = [*PROJECT["dependencies"], *BUILD], set[str]()
    while wanted:
        requirement = Requirement(wanted.pop())
        name = canonicalize_name(requirement.name)
        extras = ("", *requirement.extras)
        applies = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
        if applies and name not in needed:
            needed.add(name)
            wanted += metadata.requires(name) or ()
    here = {name for name, (one, _) in locked().items() if one.marker is None or one.marker.evaluate()}
    assert here == needed, "run `make lock`"


def test_each_package_is_named_by_hashes_and_none_by_where_it_is() -> None:
    for name, (requirement, hashes) in locked().items():
        assert hashes, name
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes), name
        assert requirement.url is None
    assert "://" not in LOCK.read_text()
    assert "--index" not in LOCK.read_text()


def test_a_package_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    """All packages are there with their names and versions, but their content is not what was locked."""
    folder = tmp_path / "index"
    folder.mkdir()
    for requirement, _ in locked().values():
        forge(folder, requirement)
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=60)
    (tmp_path / "copy").mkdir()
    done = subprocess.run(
        ["bash", "-c", f"source {ROOT}/systemd/install.sh; install_packages {python} {tmp_path}/copy"],
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "WHEEL": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    listed = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "aiohttp" not in listed
    assert "stackd" not in listed


def forge(folder: Path, requirement: Requirement) -> None:
    """A wheel with this name and version that pip can install; it has one module."""
    (specifier,) = requirement.specifier
    name = requirement.name.replace("-", "_")
    info = f"{name}-{specifier.version}.dist-info"
    files = {
        f"{name}_forged.py": "raise SystemExit('this has run')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {requirement.name}\nVersion: {specifier.version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: forged\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_hash(text)},{len(text)}\n" for path, text in files.items())
    with zipfile.ZipFile(folder / f"{name}-{specifier.version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
            wheel.writestr(path, text)


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")

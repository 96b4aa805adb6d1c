"""`make install` runs as root: it installs only what the lock file names, checked by its hash."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.test_packaging import PROJECT, ROOT, pins

LOCK = ROOT / "requirements.lock"
TOOL: dict[str, Any] = runpy.run_path(str(ROOT / ".ci/lock.py"), run_name="lock")


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


def test_the_lock_holds_exactly_what_is_needed_at_run_time_and_to_build() -> None:
    assert list(locked()) == list(TOOL["runtime"]()), "run `make lock`"
    for text in PROJECT["dependencies"]:
        assert canonicalize_name(Requirement(text).name) in locked()
    for name in ("pytest", "mypy", "ruff", "playwright"):
        assert name not in locked()


def test_each_package_is_named_by_hashes_and_none_by_where_it_is() -> None:
    for name, (requirement, hashes) in locked().items():
        assert hashes, name
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes), name
        assert requirement.url is None
    text = LOCK.read_text()
    assert "://" not in text
    assert "--index" not in text
    assert TOOL["render"](locked_as_the_tool_has_it()) == text


def locked_as_the_tool_has_it() -> dict[str, tuple[Requirement, list[str]]]:
    return {name: (pin, [each.removeprefix("sha256:") for each in hashes]) for name, (pin, hashes) in locked().items()}


@pytest.mark.parametrize(
    ("wheel", "fits"),
    [
        ("rich-15.0.0-py3-none-any.whl", True),
        ("yarl-1.25.1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", True),
        ("yarl-1.25.1-cp314-cp314-musllinux_1_2_aarch64.whl", True),
        ("x-1-cp38-abi3-manylinux_2_28_s390x.whl", True),
        ("yarl-1.25.1-cp310-cp310-manylinux_2_17_x86_64.whl", False),
        ("yarl-1.25.1-cp314-cp314t-manylinux_2_17_x86_64.whl", False),
        ("yarl-1.25.1-cp313-cp313-macosx_11_0_arm64.whl", False),
        ("yarl-1.25.1-cp313-cp313-win_amd64.whl", False),
    ],
)
def test_the_wheels_are_those_for_linux_and_the_promised_pythons(wheel: str, fits: bool) -> None:
    assert TOOL["_fits"](wheel) is fits


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

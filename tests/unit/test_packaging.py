"""`make install` runs as root: it installs only what the lock file names, checked by its hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def wheel(folder: Path, name: str) -> Path:
    """A wheel with one empty module."""
    file = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(f"{name}.py", "")
        packed.writestr(f"{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        packed.writestr(f"{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{name}-1.dist-info/RECORD", "")
    return file


@pytest.mark.parametrize(
    ("locked_hash", "installed"),
    [("--hash=sha256:{sha256}", ["own.py", "part.py"]), ("--hash=sha256:" + "0" * 64, [])],
    ids=["as-locked", "another-hash"],
)
def test_root_installs_only_what_has_the_hashes_of_the_lock(
    tmp_path: Path, locked_hash: str, installed: list[str]
) -> None:
    index, checkout, target = (tmp_path / name for name in ("index", "checkout", "target"))
    for folder in (index, checkout / "systemd", target):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "systemd/install.sh", checkout / "systemd")
    sha256 = hashlib.sha256(wheel(index, "part").read_bytes()).hexdigest()
    (checkout / "requirements.lock").write_text(f"part==1 {locked_hash.format(sha256=sha256)}\n")
    script = f"source {checkout}/systemd/install.sh; install_packages {sys.executable} {tmp_path}"
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_TARGET": str(target), "PIP_CONFIG_FILE": os.devnull}
    env = os.environ | pip | {"WHEEL": str(wheel(tmp_path, "own"))}
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, timeout=60, check=False)
    assert (done.returncode == 0) == bool(installed), done.stderr
    assert sorted(path.name for path in target.glob("*.py")) == installed

"""`make install` runs as root: it installs only what the lock file names, checked by its hash."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def ran(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The end of a command at the top of the checkout."""
    env = os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def wheel(folder: Path, name: str) -> Path:
    """A wheel with one empty module."""
    file = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(f"{name}.py", "")
        packed.writestr(f"{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        packed.writestr(f"{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{name}-1.dist-info/RECORD", "")
    return file


def source(folder: Path, name: str) -> Path:
    """A source archive whose build needs nothing, and leaves a file ``ran`` in the folder."""
    file, files = (
        folder / f"{name}-1.tar.gz",
        {
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
            "backend.py": f"open({str(folder / 'ran')!r}, 'w')\n",
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        },
    )
    with tarfile.open(file, "w:gz") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{name}-1/{path}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return file


@pytest.mark.parametrize(
    ("kind", "locked_hash", "installed"),
    [
        (wheel, "--hash=sha256:{sha256}", ["own.py", "part.py"]), (wheel, "--hash=sha256:" + "0" * 64, []), (wheel, "", []),
        (source, "--hash=sha256:{sha256}", []),
    ],
    ids=["as-locked", "another-hash", "no-hash", "a-source-archive"],
)  # fmt: skip
def test_root_installs_only_wheels_with_the_hashes_of_the_lock(
    tmp_path: Path, kind: Callable[[Path, str], Path], locked_hash: str, installed: list[str]
) -> None:
    index, checkout, target = (tmp_path / name for name in ("index", "checkout", "target"))
    for folder in (index, checkout / "systemd", target):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "systemd/install.sh", checkout / "systemd")
    sha256 = hashlib.sha256(kind(index, "part").read_bytes()).hexdigest()
    (checkout / "requirements.lock").write_text(f"part==1 {locked_hash.format(sha256=sha256)}\n")
    script = f"source {checkout}/systemd/install.sh; install_packages {sys.executable} {tmp_path}"
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_TARGET": str(target), "PIP_CONFIG_FILE": os.devnull}
    done = ran("bash", "-c", script, WHEEL=str(wheel(tmp_path, "own")), **pip)
    assert (done.returncode == 0) == bool(installed), done.stderr
    assert sorted(path.name for path in target.glob("*.py")) == installed
    assert not (index / "ran").exists(), "the build ran"

"""What is installed, and with which versions, is written down once and agrees everywhere."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LOCK = (ROOT / "requirements.lock").read_text()


def ran(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The end of a command at the top of the checkout."""
    env = os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in requirements}


def locked() -> dict[str, tuple[Requirement, list[str]]]:
    """Each package of the lock file with its hashes."""
    text = "".join(line for line in LOCK.splitlines(keepends=True) if not line.startswith("#"))
    entries = [entry.split(" --hash=") for entry in text.replace("\\\n", " ").splitlines()]
    requirements = [(Requirement(requirement.strip()), hashes) for requirement, *hashes in entries]
    return {one.name: (one, [each.strip() for each in hashes]) for one, hashes in requirements}


def test_each_dependency_is_pinned_to_a_version_that_it_admits() -> None:
    extras = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        (specifier,) = pins()[canonicalize_name(requirement.name)].specifier
        assert specifier.operator == "==", requirement
        assert requirement.specifier.contains(specifier.version), requirement


# ---- `make install` runs as root: it installs only what the lock file names, checked by its hash


def test_the_lock_holds_only_what_is_needed_with_its_hashes() -> None:
    for name, (requirement, hashes) in locked().items():
        assert (requirement.specifier, requirement.marker) == (pins()[name].specifier, pins()[name].marker), "make lock"
        assert hashes
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes), name
    assert not re.search("://|--index", LOCK)
    daemon = PROJECT["optional-dependencies"]["server"]
    wanted, needed = [*PROJECT["dependencies"], *daemon, *PYPROJECT["build-system"]["requires"]], set[str]()
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


def test_the_daemon_loads_no_second_client_of_kubernetes() -> None:
    """``stackd.kube`` keeps ``kubernetes`` from importing its synchronous client, with requests and a WebSocket library."""
    code = (
        "import sys, stackd.cli.process; "
        "print(*sorted({'kubernetes.client', 'requests', 'websocket'} & sys.modules.keys())); "
        "import kubernetes.client; print(kubernetes.client.CoreV1Api.__name__)"
    )
    done = ran(sys.executable, "-c", code)
    assert (done.stdout, done.stderr) == ("\nCoreV1Api\n", "")

"""What is installed, and with which versions, is written down once and agrees everywhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import runpy
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
from packaging.version import Version

from stackd.version import VERSION, __version__

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


def test_the_source_distribution_has_all_that_an_installation_needs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "tests", "benchmarks", "build", "dist")
    shutil.copytree(ROOT, source, ignore=ignore)
    build = f"import setuptools.build_meta as backend; backend.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (archive,) = tmp_path.glob("stackd-*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    folders = ("systemd", "deb", "monitoring", "docs", "examples")
    kept = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix != ".pyc"]
    units = {file.relative_to(ROOT).as_posix() for file in kept if file.is_file()}
    rest = {
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "README.md",
        "Makefile",
        "config.example.toml",
        "constraints.txt",
        "stackd.py",
    }
    assert (units | rest | {"requirements.lock", "stackd/daemon.py"}) - names == set()


def test_a_release_of_another_version_than_the_tag_is_refused() -> None:
    done = ran("bash", ".ci/release", GITHUB_REF_TYPE="tag", GITHUB_REF_NAME="v99.1", SOURCE_DATE_EPOCH="1")
    refusal = f"the tag is v99.1, and this is stackd {version()}\n"
    assert (done.returncode, done.stderr) == (1, refusal)


def test_a_build_has_the_version_of_its_tag_and_off_a_tag_one_of_its_own(tmp_path: Path) -> None:
    for name in ("deb/version.sh", "stackd/version.py"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    literal, copy = (tmp_path / "stackd/version.py").read_text(), tmp_path / "copy"
    shutil.copytree(tmp_path / "stackd", copy / "stackd")
    assert version(tmp_path) == __version__  # a source archive

    def git(*words: str) -> str:
        settings = ("-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false")
        environment = {"GIT_COMMITTER_DATE": "2026-11-30T23:30:00-0500", "GIT_CONFIG_GLOBAL": os.devnull}
        return ran("git", *settings, "-C", tmp_path, *words, **environment).stdout

    git("init")
    assert version(tmp_path) == __version__  # no commit yet
    git("add", "deb", "stackd")
    git("commit", "--message", "First")
    off_the_tag = f"{__version__}.dev20261201043000+g{git('rev-parse', 'HEAD')[:7]}"
    assert version(tmp_path) == off_the_tag
    assert str(Version(off_the_tag)) == off_the_tag
    git("tag", f"v{__version__}0")
    assert version(tmp_path) == off_the_tag
    git("tag", "--annotate", "--message", "It", f"v{__version__}")
    assert version(tmp_path) == __version__
    (tmp_path / "stackd/version.py").write_text(literal + "# changed\n")
    assert version(tmp_path, copy) == f"{off_the_tag}.dirty"
    git("commit", "--all", "--message", "It")
    refused = ran(tmp_path / "deb/version.sh")
    assert (refused.returncode, refused.stdout) == (1, ""), "1.0.0~dev… sorts before 1.0.0"
    assert f"v{__version__} is released already" in refused.stderr
    shown = ran(sys.executable, "-c", (copy / "stackd/version.py").read_text() + "print(__version__, VERSION)").stdout
    assert shown == f"{off_the_tag}.dirty {off_the_tag.replace('.dev', '~dev')}.dirty\n"


def version(checkout: Path = ROOT, *copy: Path) -> str:
    """What a build of the checkout calls itself, as Python's packaging has it."""
    done = ran(checkout / "deb/version.sh", *copy)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_checkout_says_what_its_metadata_say() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert ran(sys.executable, "stackd.py", "--version").stdout == f"stackd, version {VERSION}\n"


def test_the_bill_of_materials_has_each_package_of_the_lock() -> None:
    done = ran(sys.executable, ".ci/sbom.py", "1.0.0.dev20261130+g1a2b3c4", SOURCE_DATE_EPOCH="1700000000")
    document = json.loads(done.stdout)
    assert document["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert document["metadata"]["component"]["purl"] == "pkg:pypi/stackd@1.0.0.dev20261130%2Bg1a2b3c4"
    parts = {f"{one['name']}=={one['version']}": (one["purl"], one["scope"]) for one in document["components"]}
    assert parts == {
        f"{name}{pin.specifier}": (
            f"pkg:pypi/{name}@{str(pin.specifier).removeprefix('==')}",
            "excluded" if name == "setuptools" else "required",
        )
        for name, (pin, _) in locked().items()
    }


def test_the_packages_conffile_is_settings_alone_so_that_it_changes_only_with_them() -> None:
    """dpkg asks about each other change, such as a comment's, whoever has edited the file."""
    text = (ROOT / "deb/config.toml").read_text()
    settings = [(name, *setting) for name, table in tomllib.loads(text).items() for setting in table.items()]
    tables = (f"\n[{table}]\n{key} = {json.dumps(value)}\n" for table, key, value in settings)
    assert text == "# Each key with its default: man stackd-config\n" + "".join(tables)


def test_the_source_archive_is_the_same_whenever_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    normalize = runpy.run_path(str(ROOT / ".ci/dists.py"), run_name="dists")["normalize"]
    made = []
    for name, moment in (("one", 1), ("two", 2)):
        tree = tmp_path / name / "stackd-1"
        tree.mkdir(parents=True)
        for letter in ("a", "b"):
            (tree / letter).write_text(letter)
            os.utime(tree / letter, (moment, moment))
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
            for entry in sorted(tree.iterdir(), reverse=name == "one"):
                archive.add(entry, f"stackd-1/{entry.name}")
        normalize(tmp_path / f"{name}.tar.gz", tmp_path / f"{name}.out")
        made.append((tmp_path / f"{name}.out").read_bytes())
    assert made[0] == made[1]
    with tarfile.open(tmp_path / "one.out") as archive:
        assert [(one.name, one.mtime, one.uname) for one in archive] == [
            ("stackd-1/a", 1700000000, "root"),
            ("stackd-1/b", 1700000000, "root"),
        ]


def test_the_units_call_the_command_below_the_prefix(tmp_path: Path) -> None:
    script = "source systemd/install.sh; install_help() { :; }; install_files"
    assert ran("bash", "-c", script, DESTDIR=str(tmp_path), PREFIX="/opt/here").returncode == 0
    unit = (tmp_path / "usr/local/lib/systemd/system/stackd.service").read_text()
    assert "ExecStart=/opt/here/bin/stackd serve" in unit
    assert "ExecReload=+/opt/here/lib/stackd/bin/hand-over " in unit
    assert "/usr/local" not in unit


# ---- `make install` runs as root: it installs only what the lock file names, checked by its hash


def test_the_lock_holds_only_what_is_needed_with_its_hashes() -> None:
    for name, (requirement, hashes) in locked().items():
        assert (requirement.specifier, requirement.marker) == (pins()[name].specifier, pins()[name].marker), "make lock"
        assert hashes
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes), name
    assert not re.search("://|--index", LOCK)
    wanted, needed = [*PROJECT["dependencies"], *PYPROJECT["build-system"]["requires"]], set[str]()
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


def test_no_helper_comes_from_a_file_of_tests() -> None:
    tests = ROOT / "tests"
    taken = {
        path: re.findall(r"^ *from tests\..*\.?test_\w+ import.*", path.read_text(), re.M)
        for path in tests.rglob("*.py")
    }
    assert {path.name: lines for path, lines in taken.items() if lines} == {}, "move it to a module beside them"

"""What is installed, and with which versions, is written down once and agrees everywhere."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import stackd

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(text)
    for text in [
        *PROJECT["dependencies"],
        *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
    ]
]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def test_the_package_and_the_project_have_one_version() -> None:
    assert stackd.__version__ == PROJECT["version"]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_each_dependency_is_pinned_to_a_version_that_it_admits(requirement: Requirement) -> None:
    pin = pins()[canonicalize_name(requirement.name)]
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    assert requirement.specifier.contains(specifier.version)


def test_each_dependency_says_why_it_is_there() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in REQUIREMENTS:
        assert re.search(rf'^    "{requirement.name}[^"]*", +# \S', text, re.MULTILINE), requirement


def test_constraints_are_versions_and_nothing_else() -> None:
    assert all(len(pin.specifier) == 1 and pin.url is None and not pin.extras for pin in pins().values())


def test_every_python_that_is_promised_is_checked() -> None:
    promised = set(re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"])))
    workflow = (ROOT / ".github/workflows/check.yml").read_text()
    checked = set(re.findall(r'"(3\.\d+)"', workflow.partition("python: [")[2].partition("]")[0]))
    assert promised == checked == {"3.11", "3.12", "3.13", "3.14"}


def test_the_script_of_a_checkout_is_the_installed_command() -> None:
    module, _, function = PROJECT["scripts"]["stackd"].partition(":")
    script = runpy.run_path(str(ROOT / "stackd.py"), run_name="stackd_script")
    assert script[function].__module__.startswith(module)


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
    rest = {"CHANGELOG.md", "LICENSE", "README.md", "Makefile", "config.example.toml", "constraints.txt", "stackd.py"}
    assert (units | rest | {"requirements.lock", "stackd/daemon.py"}) - names == set()


def test_a_tag_builds_and_publishes_all_that_make_release_does() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads "on" as true
    runs = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert "make release" in runs
    assert any("lintian" in run and "dist/*.deb" in run for run in runs)
    assert any(run.startswith("gh release create") and "dist/*" in run for run in runs)
    assert workflow["jobs"]["build"]["container"] == "debian:13"


def test_a_release_of_another_version_than_the_tag_is_refused() -> None:
    done = subprocess.run(
        ["bash", str(ROOT / ".ci/release")],
        env={**os.environ, "GITHUB_REF_TYPE": "tag", "GITHUB_REF_NAME": "v99.1", "SOURCE_DATE_EPOCH": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"the tag is v99.1, and pyproject.toml says {PROJECT['version']}\n"


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
    environment = {**os.environ, "DESTDIR": str(tmp_path), "PREFIX": "/opt/here"}
    subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, check=True, timeout=60)
    unit = (tmp_path / "usr/local/lib/systemd/system/stackd.service").read_text()
    assert "ExecStart=/opt/here/bin/stackd serve" in unit
    assert "ExecReload=+/opt/here/lib/stackd/bin/hand-over " in unit
    assert "/usr/local" not in unit

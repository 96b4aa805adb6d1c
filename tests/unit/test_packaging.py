"""What is installed, and with what, is written down once and agrees."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
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

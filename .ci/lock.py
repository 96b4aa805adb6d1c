"""Write ``requirements.lock``: what `make install` installs, each package with the SHA-256 of every wheel that may be it.

Run by `make lock` in the virtual environment, after a change of pyproject.toml or constraints.txt. Which packages these
are is what the installed ones say of themselves, for every Python that is promised; their versions are the pins of
constraints.txt; the hashes are those of the index that pip is configured for, of all wheels for Linux on any machine. The
file names no index.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
HEADER = """\
# What `make install` installs (pip install --require-hashes): the packages at run time and the build backend, with the
# SHA-256 of every wheel for Linux. Written by `make lock`; a test holds it to pyproject.toml and constraints.txt.
"""
SIMPLE = "application/vnd.pypi.simple.v1+json"


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins() -> dict[str, Requirement]:
    """constraints.txt, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def pythons() -> list[str]:
    """The versions of Python that pyproject.toml promises."""
    return re.findall(r"Python :: (3\.\d+)", "\n".join(project()["project"]["classifiers"]))


def environments() -> Iterator[dict[str, str]]:
    """Linux with each of them, as markers see it."""
    for version in pythons():
        yield {
            "python_version": version,
            "python_full_version": f"{version}.0",
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_system": "Linux",
            "sys_platform": "linux",
        }


def runtime() -> dict[str, Requirement]:
    """The packages to be locked, by canonical name: what the project needs, what these need, and the build backend."""
    described = project()
    wanted = [Requirement(text) for text in described["project"]["dependencies"]]
    wanted += [Requirement(text) for text in described["build-system"]["requires"]]
    known, found = pins(), dict[str, Requirement]()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        for environment in environments():
            if not _applies(requirement, environment, ()):
                continue
            if name not in known:
                raise SystemExit(f"constraints.txt: {name} is missing; it is needed at run time")
            if name not in found:
                found[name] = known[name]
            wanted += _needs(name, environment, requirement.extras, found)
    return dict(sorted(found.items()))


def _needs(
    name: str, environment: dict[str, str], extras: set[str], found: dict[str, Requirement]
) -> Iterator[Requirement]:
    for text in requires(name) or ():
        needed = Requirement(text)
        if canonicalize_name(needed.name) not in found and _applies(needed, environment, extras):
            needed.marker = None
            yield needed


def _applies(requirement: Requirement, environment: dict[str, str], extras: Any) -> bool:
    marker = requirement.marker
    if marker is None:
        return True
    return any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras))


def index() -> str:
    """The index that pip asks, from its own help text: configuration and environment are pip's to read."""
    command = [sys.executable, "-m", "pip", "install", "--help"]
    wide = {**os.environ, "COLUMNS": "1000"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=wide).stdout  # noqa: S603  ours
    match = re.search(r"--index-url <url>.*?\(default\s+(\S+?)\)", said, re.DOTALL)
    if match is None:
        raise SystemExit("pip does not say which index it asks")
    return match[1].rstrip("/")


def hashes(at: str, name: str, version: str) -> list[str]:
    """The SHA-256 of each wheel of that version that may be installed and was not withdrawn, sorted."""
    request = urllib.request.Request(f"{at}/{name}/", headers={"Accept": SIMPLE})  # noqa: S310  the operator's own index
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        files = json.loads(answer.read())["files"]
    found = {
        file["hashes"]["sha256"]
        for file in files
        if file["filename"].endswith(".whl")
        and file["filename"].split("-")[1] == version
        and not file.get("yanked")
        and _fits(file["filename"])
    }
    if not found:
        raise SystemExit(f"{name} {version}: the index has no wheel")
    return sorted(found)


def _fits(wheel: str) -> bool:
    """Whether some promised Python on some Linux would take it."""
    ours = {f"cp{version.replace('.', '')}" for version in pythons()}
    return any(
        (tag.platform == "any" or "linux" in tag.platform)
        and (tag.interpreter.startswith("py") or tag.abi == "abi3" or (tag.interpreter in ours and tag.abi in ours))
        for tag in parse_wheel_filename(wheel)[3]
    )


def render(entries: dict[str, tuple[Requirement, list[str]]]) -> str:
    """The text of the lock file."""
    blocks = []
    for name, (pin, found) in entries.items():
        (specifier,) = pin.specifier
        marker = f"; {pin.marker}" if pin.marker else ""
        lines = [f"{name}=={specifier.version}{marker}", *(f"    --hash=sha256:{each}" for each in found)]
        blocks.append(" \\\n".join(lines))
    return HEADER + "\n".join(blocks) + "\n"


def main() -> None:
    """Write the file as a whole, or leave it as it was."""
    at = index()
    entries = {}
    for name, pin in runtime().items():
        (specifier,) = pin.specifier
        entries[name] = (pin, hashes(at, name, specifier.version))
        sys.stderr.write(f"{name} {specifier.version}: {len(entries[name][1])} wheels\n")
    fresh = LOCK.with_suffix(".new")
    fresh.write_text(render(entries))
    fresh.replace(LOCK)


if __name__ == "__main__":
    main()

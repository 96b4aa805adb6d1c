"""Print the bill of materials (CycloneDX) of a version, from requirements.lock: ``sbom.py VERSION``; reads SOURCE_DATE_EPOCH."""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PIN = re.compile(r"^([a-z0-9-]+)==([^\s;]+)", re.MULTILINE)
BUILD_ONLY = {"setuptools"}


def bill(lock: str, version: str, time: datetime) -> dict[str, Any]:
    """What an installation consists of. What only builds it is ``excluded``, as the format calls it."""
    stackd = component("stackd", version) | {"type": "application", "licenses": [{"license": {"id": "Apache-2.0"}}]}
    parts = [
        component(*pin) | {"scope": "excluded" if pin[0] in BUILD_ONLY else "required"} for pin in PIN.findall(lock)
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": time.isoformat(), "component": stackd},
        "components": parts,
    }


def component(name: str, version: str) -> dict[str, Any]:
    """A package of PyPI."""
    purl = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    lock = (Path(__file__).parents[1] / "requirements.lock").read_text()
    time = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    sys.stdout.write(json.dumps(bill(lock, sys.argv[1], time), indent=2) + "\n")

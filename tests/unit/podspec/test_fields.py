"""The fields that stackd knows are those of the Kubernetes client's models."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import BaseModel

from stackd.podspec.fields import MODELS, WHY, Use
from tests.unit.podspec.models import POD, fields_of


def reached(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The models below this one, by their names in Kubernetes."""
    found: dict[str, type[BaseModel]] = {}
    left = [model]
    while left:
        one = left.pop()
        name = one.__name__.removeprefix("V1")
        if name not in found:
            found[name] = one
            left += [field.model for field in fields_of(one).values() if field.model is not None]
    return found


THEIRS = reached(POD)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_fields_and_types_of_the_client_library(name: str) -> None:
    def named(model: type[BaseModel] | None) -> str | None:
        known = model.__name__.removeprefix("V1") if model is not None else ""
        return known if known in MODELS else None

    theirs = fields_of(THEIRS[name.removeprefix("Init")])
    ours = {key: (one.kind, one.model and one.model.removeprefix("Init")) for key, one in MODELS[name].items()}
    assert ours == {key: (one.kind, named(one.model)) for key, one in theirs.items()}


def test_each_reason_is_for_a_field_that_is_never_accepted() -> None:
    for model, _, name in (path.partition(".") for path in WHY):
        assert MODELS[model][name].use is Use.NEVER


def test_a_pod_spec_is_read_without_the_client_library() -> None:
    """Its models take a third of a second to import."""
    code = (
        "import sys; from stackd.podspec import Policy, sanitize; "
        "limits = '{limits: {cpu: 1, memory: 1Gi}}'; "
        "container = '{name: a, image: nginx, resources: ' + limits + '}'; "
        "sanitize('{apiVersion: v1, kind: Pod, spec: {containers: [' + container + ']}}', (), Policy()); "
        "assert 'kubernetes' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")

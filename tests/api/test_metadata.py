"""Labels and annotations on pods: the operator's are all set, a tenant's only where nothing acts on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import Harness, harness, seed


def with_metadata(**fields: Any) -> dict[str, Any]:
    body = seed()
    pod = yaml.safe_load(body["pod_spec"])
    pod["metadata"] |= fields
    return body | {"pod_spec": json.dumps(pod)}


async def metadata_of(at: Harness, stack_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await at.objects("pods"))[stack_id]["metadata"]
    return found


async def test_what_the_operator_adds_reaches_the_pod_with_its_prefix(tmp_path: Path) -> None:
    settings = {
        "STACKD_POLICY__ANNOTATIONS": '{ "example.org/team" = "blue", plain = "1" }',
        "STACKD_POLICY__LABELS": '{ "example.org/event" = "finals", tier = "stacks" }',
    }
    async with harness(tmp_path, settings) as at:
        created = await at.create(with_metadata(labels={"tier": "mine", "own": "1"}))
        metadata = await metadata_of(at, created["stack_id"])
        assert metadata["annotations"].items() >= {"example.org/team": "blue", "plain": "1"}.items()
        assert metadata["labels"].items() >= {"example.org/event": "finals", "tier": "stacks", "own": "1"}.items()


@pytest.mark.parametrize("key", ["io.katacontainers.config_path", "dev.gvisor.flag.network", "cpu-quota.crio.io"])
async def test_an_annotation_is_a_400_that_names_it_and_reaches_no_pod(at: Harness, key: str) -> None:
    reply = await at.call("POST", "/stacks", with_metadata(annotations={key: "x"}))
    assert reply.status == 400
    assert reply.error.startswith(f'invalid pod spec: metadata.annotations["{key}"]: ')
    assert "policy.allow_annotations" in reply.error
    assert not await at.objects("pods")


async def test_an_allowed_annotation_reaches_the_pod_and_stays_when_it_is_restarted(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_POLICY__ALLOW_ANNOTATIONS": '["example.org/*"]'}) as at:
        stack_id = (await at.create(with_metadata(annotations={"example.org/note": "x"})))["stack_id"]
        assert (await metadata_of(at, stack_id))["annotations"]["example.org/note"] == "x"
        await at.until_status(stack_id, "running")
        assert (await at.call("POST", f"/stacks/{stack_id}/restart")).status == 200
        assert (await metadata_of(at, stack_id))["annotations"]["example.org/note"] == "x"
        refused = await at.call("POST", "/stacks", with_metadata(annotations={"stackd.io/generation": "9"}))
        assert (refused.status, refused.error.endswith("is reserved for stackd")) == (400, True)

"""The ConfigMap of a template: what stackd writes, what it reads, and what it takes for its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stackd.clock import to_nanoseconds
from stackd.kube.template_maps import (
    DIGEST,
    KEY,
    LONGEST_TEXT,
    OWNER,
    SCOPE,
    TemplateMap,
    template_manifest,
    template_map,
)
from stackd.model import CLUSTER, Principal, StoredTemplate

TEXT = "title: Cookie jar\n"
STORED = StoredTemplate(
    name="web-1", text=TEXT, by=Principal(id="key:1f2e", name="ci"), tenant=True, at=1_795_560_959_000_000_123
)
SERVER = {"uid": "u-1", "resourceVersion": "7", "creationTimestamp": "2026-11-25T01:02:03Z"}
BY_OTHERS: dict[str, Any] = {
    "by": CLUSTER,
    "source": "cluster",
    "at": to_nanoseconds("2026-11-25T03:33:20Z"),
}


def manifest(**metadata: Any) -> dict[str, Any]:
    made = template_manifest(STORED, namespace="stacks", instance="blue")
    return {**made, "metadata": made["metadata"] | SERVER | metadata}


def seen(raw: dict[str, Any]) -> TemplateMap:
    return template_map(raw)


def test_what_stackd_writes_it_reads_back_as_its_own() -> None:
    raw = manifest()
    assert (raw["kind"], raw["metadata"]["name"]) == ("ConfigMap", "stackd-blue-web-1")
    assert raw["metadata"]["labels"] == {"stackd.io/template": "web-1", "stackd.io/instance": "blue"}
    state = seen(raw)
    assert (state.stored, state.is_ours, state.instance, state.mistake) == (STORED, True, "blue", "")


@pytest.mark.parametrize("gone", [DIGEST, OWNER, SCOPE, "stackd.io/written-at", "stackd.io/written-by"])
def test_without_all_of_the_annotations_it_is_somebody_elses(gone: str) -> None:
    raw = manifest(managedFields=[{"time": "2026-11-25T02:02:03Z"}, {"time": "2026-11-25T03:33:20Z"}])
    del raw["metadata"]["annotations"][gone]
    state = seen(raw)
    assert (state.is_ours, state.stored) == (False, replace(STORED, **BY_OTHERS))


def test_with_another_text_than_stackd_wrote_it_is_somebody_elses() -> None:
    raw = manifest() | {"data": {KEY: TEXT + "pool: 9\n"}}
    state = seen(raw)
    assert state.stored is not None
    assert (state.is_ours, state.stored.tenant, state.stored.source, state.stored.by.id) == (
        False,
        True,
        "cluster",
        "cluster",
    )


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"data": {}}, "has no template.yaml"),
        ({"data": None}, "has no template.yaml"),
        ({"data": {KEY: "#" * (LONGEST_TEXT + 1)}}, f"is longer than {LONGEST_TEXT} bytes"),
        ({"metadata": {"name": "web-1"}}, "must have the name stackd-blue-web-1"),
    ],
)
def test_what_holds_no_template_says_why(change: dict[str, Any], mistake: str) -> None:
    raw = manifest()
    raw = {**raw, **change, "metadata": raw["metadata"] | change.get("metadata", {})}
    state = seen(raw)
    assert (state.stored, mistake in state.mistake) == (None, True)


def test_what_has_no_label_of_a_template_belongs_to_no_instance() -> None:
    assert seen(manifest(labels={"stackd.io/instance": "blue"})).instance == ""

"""Each recipe of the page for a network policy protects as well as the policies that it is added to."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from stackd.cli.provision import ManifestOptions, documents
from stackd.kube import labels
from stackd.kube.policies import EGRESS, INGRESS, lets_through, opens, protects
from tests.docs.markdown import ROOT, blocks

PAGE = ROOT / "docs" / "network.md"
RECIPES: list[dict[str, Any]] = [yaml.safe_load(one.text) for one in blocks(PAGE) if "policy" in one.marks]
assert len(RECIPES) == 3
CLUSTER = ("10.244.0.0/16", "10.96.0.0/12")
SITE = ManifestOptions(
    namespace="stacks", profile="baseline", account="stackd", account_namespace="stackd", stacks=10,
    cluster_cidrs=CLUSTER,
)  # fmt: skip
METADATA = ("169.254.169.254/32",)


def applied() -> list[dict[str, Any]]:
    return [one for one in documents(SITE) if one["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: one["metadata"]["name"])
def test_a_recipe_keeps_stacks_apart_from_the_cluster_and_its_metadata(recipe: dict[str, Any]) -> None:
    together = [*applied(), recipe]
    assert recipe["metadata"]["namespace"] == SITE.namespace
    selected = {key for one in RECIPES for key in one["spec"]["podSelector"]["matchLabels"]}
    assert selected == {labels.MANAGED_BY, f"{labels.CLIENT_LABEL_PREFIX}challenge"}, "labels of a create"
    for direction in (INGRESS, EGRESS):
        assert protects(together, "default", direction)
        assert not opens(recipe, direction)
    everybody = recipe | {"spec": recipe["spec"] | {"podSelector": {}}}  # as if the recipe selected every pod
    for networks in (CLUSTER, METADATA):
        assert not list(lets_through([*applied(), everybody], "default", networks, EGRESS))

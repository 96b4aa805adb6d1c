"""Which resources a create lacks when a quota has refused it."""

from __future__ import annotations

import pytest

from stackd.lifecycle.needs import short_of


@pytest.mark.parametrize(
    ("refusal", "short"),
    [
        ("ResourceQuota q: requested: requests.cpu=900m, used: requests.cpu=2300m, limited: requests.cpu=3", {"cpu": 200}),
        (
            "ResourceQuota q: requested: limits.memory=128Mi,pods=1, used: limits.memory=1Gi,pods=7,"
            " limited: limits.memory=1Gi,pods=7",
            {"memory": 128 << 20, "pods": 1},
        ),
        (
            "ResourceQuota q: requested: services.nodeports=2, used: services.nodeports=9, limited: services.nodeports=10",
            {"ports": 1},
        ),
        ("ResourceQuota q: requested: cpu=1m,pods=1, used: cpu=5m,pods=1, limited: cpu=5m,pods=9", {"cpu": 1, "pods": 0}),
        ("ResourceQuota q: must specify limits.cpu for: app", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_a_quotas_refusal_tells_what_is_short(refusal: str, short: dict[str, int]) -> None:
    assert short_of(refusal) == short

"""What is accepted and what is refused by default, field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stackd.cli.provision import ManifestOptions, documents
from stackd.errors import InvalidRequest
from stackd.kube.manifests import service_manifest
from stackd.podspec import Policy, parse_target_ports
from stackd.podspec.fields import MODELS
from stackd.podspec.policy import is_reserved
from tests.kube.samples import STACK
from tests.unit.podspec.specs import (
    DEFAULT_POLICY,
    REFUSALS,
    admit,
    changed,
    container,
    manifest,
    metadata,
    reasons,
    seed,
    spec,
    with_init,
    with_volume,
)

SECRET = "flag{not-to-be-shown}"
SAMPLES: dict[str, Any] = {
    "string": "a", "integer": 1, "boolean": False, "integer or string": 1, "strings": ["a"], "map": {"a": "b"},
    "object": {}, "objects": [{}], "other": "a",
}  # fmt: skip
NEVER = [
    (model, name)
    for model in ("PodSpec", "Container", "ObjectMeta", "Volume")
    for name, field in MODELS[model].items()
    if not field.use
]


@pytest.mark.parametrize(("model", "name"), NEVER)
def test_a_field_that_is_not_listed_is_refused_whatever_its_value(model: str, name: str) -> None:
    put, path = {
        "PodSpec": (spec, "spec"), "Container": (container, "spec.containers[0]"), "ObjectMeta": (metadata, "metadata"),
        "Volume": (lambda **source: with_volume(source), "spec.volumes[0]"),
    }[model]  # fmt: skip
    (reason,) = reasons(put(**{name: SAMPLES[MODELS[model][name].kind]}))
    assert reason.startswith(f"{path}.{name}: ")


@pytest.mark.parametrize("case", REFUSALS["pods"], ids=lambda case: case["reasons"][0][:60])
def test_a_pod_is_refused_with_these_reasons(case: dict[str, Any]) -> None:
    assert reasons(changed(case), Policy(**case.get("policy", {}))) == case["reasons"]


def test_all_reasons_are_given_at_once_and_thousands_end_after_a_hundred() -> None:
    pod = container(image=1, ports=[{"containerPort": 80, "hostPort": 80}])
    pod["spec"].update(hostPID=True, hostname="A")
    assert {reason.partition(":")[0] for reason in reasons(pod | {"kind": "Job"})} == {
        "kind", "spec.hostname", "spec.hostPID", "spec.containers[0].image", "spec.containers[0].ports[0].hostPort",
    }  # fmt: skip
    refused = reasons(container(**{f"k{index}": 1 for index in range(3000)}))
    assert len(refused) == 101
    assert refused[-1].startswith("(root): there may be more")


def test_reasons_do_not_show_values_that_may_be_secret() -> None:
    pod = container(
        env=[{"name": "FLAG", "value": [SECRET]}, {"name": "1", "value": SECRET}, {"name": "F", "valeu": SECRET}],
        args=[{"x": SECRET}, SECRET + "\0"],
        command=SECRET,
        livenessProbe={"exec": {"command": SECRET}},
    )
    refused = reasons(pod)
    assert len(refused) >= 6
    assert SECRET not in "; ".join(refused)


def test_everything_that_is_allowed_is_kept() -> None:
    everything: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("everything.yaml").read_text())
    admitted, wanted = manifest(everything, Policy(allow_annotations=("description",))), everything["spec"]
    assert admitted["metadata"] == everything["metadata"]
    (app,), (asked,) = admitted["spec"]["containers"], wanted["containers"]
    assert admitted["spec"] | {"containers": 0} == admitted["spec"] | wanted | {"containers": 0}
    assert app.pop("securityContext")
    assert app.pop("resources")["requests"] == asked.pop("resources")["limits"]
    assert app == asked


def test_what_is_empty_or_not_the_tenants_leaves_no_trace() -> None:
    pod = container(env=[], args=[], command=None, tty=False, workingDir="", volumeMounts=[], envFrom=[])
    pod["spec"].update(volumes=[], nodeSelector={}, hostname="", initContainers=[], hostNetwork=None, affinity=None)
    pod["spec"].update(restartPolicy="Always", enableServiceLinks=True, automountServiceAccountToken=True)
    pod["metadata"].update(labels={}, annotations=None, namespace="kube-system", creationTimestamp=None)
    assert admit(pod | {"status": {}}) == admit(seed())
    del pod["metadata"]
    assert "metadata: {}\n" in admit(pod).text
    assert admit({**seed(), "kind": "POD"}).manifest == admit(seed()).manifest


def test_an_empty_value_of_a_variable_is_left_out() -> None:
    reference = {"resourceFieldRef": {"resource": "requests.cpu"}}
    asked = container(env=[{"name": "A", "value": ""}, {"name": "B", "valueFrom": reference}])
    assert manifest(asked)["spec"]["containers"][0]["env"] == [
        {"name": "A"},
        {"name": "B", "valueFrom": {"resourceFieldRef": {"divisor": "0", "resource": "requests.cpu"}}},
    ]


CONFINED = {"appArmorProfile": {"type": "RuntimeDefault"}}
DROPPED = {"capabilities": {"drop": ["ALL"]}}
TIGHTENING: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("container", one) for one in (
        DROPPED, {"capabilities": {"drop": ["NET_RAW", "KILL"]}}, {"allowPrivilegeEscalation": False}, {"privileged": False},
        {"seccompProfile": {"type": "RuntimeDefault"}}, {"runAsNonRoot": True}, {"readOnlyRootFilesystem": True}, CONFINED,
        {**DROPPED, "allowPrivilegeEscalation": False, "privileged": False, "seccompProfile": {"type": "RuntimeDefault"}},
    )),
    *(("pod", one) for one in ({"seccompProfile": {"type": "RuntimeDefault"}}, {"runAsNonRoot": True}, CONFINED)),
)  # fmt: skip


@pytest.mark.parametrize("policy", [DEFAULT_POLICY, Policy(profile="restricted"), Policy(run_as_root=False)])
@pytest.mark.parametrize(("where", "context"), TIGHTENING, ids=lambda value: str(value)[:60])
def test_whatever_only_tightens_is_accepted_and_kept(where: str, context: dict[str, Any], policy: Policy) -> None:
    """Charts and scanners write these into each manifest."""
    asked = spec(securityContext=context) if where == "pod" else container(securityContext=context)
    admitted, default = manifest(asked, policy), manifest(seed(), policy)
    assert manifest(admitted, policy) == admitted
    own, base = (pod["spec"] if where == "pod" else pod["spec"]["containers"][0] for pod in (admitted, default))
    assert own["securityContext"] == context | base["securityContext"]


# ---- labels and annotations: a tenant's own are kept; those that something acts on are refused by their path

ANY = Policy(allow_annotations=("**",))


def test_there_is_an_end_to_annotations() -> None:
    (only,) = reasons(metadata(annotations={"a": "x" * 70_000}), Policy(allow_annotations=("**",), max_text=1 << 20))
    assert only == "metadata.annotations: must be at most 65536 bytes in all"


def test_no_label_of_a_tenant_is_one_that_stackds_own_objects_select_by() -> None:
    own = {"app": "web", "team": "7", "job": "x", "pod-template": "y", "k8s.io": "z"}
    assert manifest(metadata(labels=own))["metadata"]["labels"] == own
    options = ManifestOptions(
        namespace="stacks", profile="baseline", account="stackd", account_namespace="stackd", stacks=9,
        egress="internet", dns=True, target_ports=((80, 80),),
    )  # fmt: skip
    policies = [one["spec"]["podSelector"] for one in documents(options) if one["kind"] == "NetworkPolicy"]
    assert len(policies) == 4
    selectors = [
        service_manifest(STACK, "default")["spec"]["selector"],
        *(one.get("matchLabels", {}) for one in policies),
    ]
    for key in {key for selector in selectors for key in selector}:
        assert is_reserved(key)
        assert reasons(metadata(labels={key: "stackd"}), ANY)


# ---- the request's target_port


@pytest.mark.parametrize("case", REFUSALS["target_ports"], ids=lambda case: case["reason"][:60])
def test_a_wrong_target_port_is_refused_by_path(case: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_target_ports(case["value"])
    assert str(refused.value) == f"invalid request body: {case['reason']}"


@pytest.mark.parametrize(
    ("ports", "init", "found"),
    [
        ([{"containerPort": 80}], {}, True), ([{"containerPort": 80, "protocol": "UDP"}], {}, False),
        ([{"containerPort": 81}], {}, False), ([], {}, False), ([], {"ports": [{"containerPort": 80}]}, False),
        ([], {"ports": [{"containerPort": 80}], "restartPolicy": "Always"}, True),
    ],
)  # fmt: skip
def test_a_target_port_is_one_of_a_lasting_container(ports: list[Any], init: dict[str, Any], found: bool) -> None:
    pod = with_init(init)
    pod["spec"]["containers"][0]["ports"] = ports
    expected = [] if found else ["target_port[0]: no container of the pod spec has the port 80/TCP"]
    assert reasons(pod) == expected

"""What the operator can allow, require and add."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from stackd.names import matches_any
from stackd.podspec import Policy, harden
from stackd.podspec.policy import Toleration
from tests.unit.podspec.specs import (
    DEFAULT_POLICY,
    admit,
    container,
    manifest,
    reasons,
    seed,
    spec,
    with_init,
    with_volume,
)

DIGEST = "sha256:" + "0" * 64


def env_from(kind: str, name: str) -> dict[str, Any]:
    return container(envFrom=[{kind: {"name": name}}])


def key_ref(kind: str, name: str) -> dict[str, Any]:
    return container(env=[{"name": "A", "valueFrom": {kind: {"name": name, "key": "k"}}}])


def projected(kind: str, name: str) -> dict[str, Any]:
    return with_volume({"projected": {"sources": [{kind: {"name": name}}]}})


def adding(*names: str) -> dict[str, Any]:
    return container(securityContext={"capabilities": {"add": list(names)}})


def resource(name: str, amount: Any) -> dict[str, Any]:
    return container(resources={"limits": {"cpu": "1", "memory": "1Gi", name: amount}})


CLAIM, OTHER_CLAIM = ({"persistentVolumeClaim": {"claimName": name}} for name in ("data", "other"))
INLINE = {"csi": {"driver": "inline.example.com", "volumeAttributes": {"size": "1"}}}
AS_ROOT = {"runAsUser": 0, "runAsGroup": 5, "runAsNonRoot": False}


@pytest.mark.parametrize(
    ("key", "value", "granted", "other"),
    [
        ("secrets", ("ctf-*",), env_from("secretRef", "ctf-a"), env_from("secretRef", "db")),
        ("secrets", ("ctf-*",), key_ref("secretKeyRef", "ctf-a"), key_ref("secretKeyRef", "db")),
        ("secrets", ("ctf-*",), projected("secret", "ctf-a"), projected("secret", "db")),
        ("secrets", ("ctf-*",), *(with_volume({"secret": {"secretName": name}}) for name in ("ctf-a", "db"))),
        ("config_maps", ("a",), env_from("configMapRef", "a"), env_from("configMapRef", "b")),
        ("config_maps", ("a",), key_ref("configMapKeyRef", "a"), key_ref("configMapKeyRef", "b")),
        ("config_maps", ("a",), projected("configMap", "a"), projected("configMap", "b")),
        ("config_maps", ("a",), *(with_volume({"configMap": {"name": name}}) for name in "ab")),
        ("volume_claims", ("data",), with_volume(CLAIM), with_volume(OTHER_CLAIM)),
        ("csi_drivers", ("inline.example.com",), with_volume(INLINE), with_volume({"csi": {"driver": "hostpath.csi"}})),
        ("pull_secrets", ("reg",), *(spec(imagePullSecrets=[{"name": name}]) for name in ("reg", "other"))),
        ("extended_resources", ("nvidia.com/*",), resource("nvidia.com/gpu", 1), resource("amd.com/gpu", 1)),
        ("add_capabilities", ("SYS_CHROOT",), adding("SYS_CHROOT"), adding("CHOWN")),
        ("run_as_user", True, container(securityContext=AS_ROOT), container(securityContext={"runAsUser": -1})),
        ("run_as_user", True, spec(securityContext={"fsGroup": 5}), spec(securityContext={})),
        ("empty_dir_memory", True, *(with_volume({"emptyDir": {"medium": name}}) for name in ("Memory", "HugePages"))),
    ],
)
def test_a_key_of_the_policy_grants_what_it_names_and_nothing_else(
    key: str, value: Any, granted: dict[str, Any], other: dict[str, Any]
) -> None:
    policy = Policy(**{key: value})
    assert any(f"policy.{key}" in reason for reason in reasons(granted))
    assert reasons(granted, policy) == []
    assert len(reasons(other, policy)) == 1
    admitted = admit(granted, policy)
    assert admit(admitted.text, policy) == admitted


@pytest.mark.parametrize(
    ("size", "given_limit", "written"),
    [("1Gi", None, "1Gi"), ("64Mi", None, "64Mi"), ("1Gi", "0.5Gi", "512Mi"), ("", "5Gi", "5Gi"), ("", None, None)],
)
def test_an_empty_dir_has_the_policys_size_limit_unless_it_names_a_smaller_one(
    size: str, given_limit: str | None, written: str | None
) -> None:
    source = {} if given_limit is None else {"sizeLimit": given_limit}
    pod = manifest(with_volume({"emptyDir": source}), Policy(empty_dir_size=size))
    assert pod["spec"]["volumes"][0]["emptyDir"] == ({} if written is None else {"sizeLimit": written})


@pytest.mark.parametrize(
    ("image", "allow", "deny", "accepted"),
    [
        ("nginx:stable", ("nginx:*",), (), True), ("nginx", ("nginx:latest",), (), True),
        ("nginx.evil.example/x", ("nginx*",), (), False), ("ghcr.io/acme/a/b:1", ("ghcr.io/acme/*",), (), False),
        ("ghcr.io/acme/a/b:1", ("ghcr.io/acme/**",), (), True),
        (f"nginx:stable@{DIGEST}", ("nginx:stable",), (), False),
        (f"nginx:stable@{DIGEST}", ("nginx:stable@*",), (), True), (f"evil/x:1@{DIGEST}", (), ("evil/x:1",), False),
        (f"evil/x@{DIGEST}", (), (f"evil/x@{DIGEST}",), False), ("good/x:1", ("**",), ("evil/**",), True),
        ("evil/x:1", ("**",), ("evil/**",), False),
    ],
)  # fmt: skip
def test_images_are_matched_by_the_repository_they_really_name(
    image: str, allow: tuple[str, ...], deny: tuple[str, ...], accepted: bool
) -> None:
    assert (reasons(container(image=image), Policy(images_allow=allow, images_deny=deny)) == []) is accepted


@pytest.mark.parametrize(
    ("pattern", "name", "matching"),
    [
        ("a", "a", True), ("a", "ab", False), ("a*", "ab", True), ("a*", "a/b", False), ("a**", "a/b", True),
        ("a?", "ab", True), ("a?", "a", False), ("a.b", "axb", False), ("[a]", "a", False), ("a", "a\n", False),
    ],
)  # fmt: skip
def test_patterns_match_whole_names(pattern: str, name: str, matching: bool) -> None:
    assert matches_any([pattern], name) is matching


def test_what_is_just_allowed_is_accepted() -> None:
    assert reasons(seed(), Policy(max_cpu="0.1", max_memory="128Mi", max_containers=1)) == []
    assert reasons(container(image=f"nginx@{DIGEST}"), Policy(require_digest=True)) == []


def test_the_restricted_profile_and_the_restart_policy_are_one_key_away() -> None:
    policy = Policy(profile="restricted", restart_policy="OnFailure", add_capabilities=("NET_BIND_SERVICE",))
    asked = container(securityContext={"capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["CHOWN"]}})
    pod = manifest(asked | {"spec": asked["spec"] | {"restartPolicy": "Never"}}, policy)["spec"]
    assert pod["restartPolicy"] == "OnFailure"
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
        "privileged": False,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@pytest.mark.parametrize(
    "policy", [Policy(profile="restricted", run_as_user=True), Policy(run_as_root=False, run_as_user=True)]
)
def test_nobody_becomes_root_where_root_is_not_allowed(policy: Policy) -> None:
    for context in ({"runAsUser": 0}, {"runAsNonRoot": False}):
        assert "may not run as root" in reasons(container(securityContext=context), policy)[0]
        assert "may not run as root" in reasons(spec(securityContext=context), policy)[0]
    assert reasons(container(securityContext={"runAsUser": 1000}), policy) == []


def test_the_default_takes_raw_sockets_from_every_container_and_shows_it_in_no_text() -> None:
    """On a bridge, a stack with raw sockets reads the traffic of other stacks."""
    admitted = admit(with_init({}))
    assert "NET_RAW" not in admitted.text
    pod = harden(admitted.manifest, DEFAULT_POLICY)
    for kind in ("containers", "initContainers"):
        assert pod["spec"][kind][0]["securityContext"].pop("capabilities") == {"drop": ["NET_RAW"]}
    assert pod == admitted.manifest


@pytest.mark.parametrize(
    ("policy", "asked", "sent"),
    [
        ({}, {"drop": ["ALL"]}, {"drop": ["ALL"]}),
        ({}, {"drop": ["KILL"]}, {"drop": ["KILL", "NET_RAW"]}),
        ({}, {"drop": ["NET_RAW"]}, {"drop": ["NET_RAW"]}),
        ({}, {"add": ["CHOWN"]}, {"add": ["CHOWN"], "drop": ["NET_RAW"]}),
        ({"drop_capabilities": ("CAP_CHOWN", "kill")}, {"add": ["CHOWN"]}, {"add": ["CHOWN"], "drop": ["KILL"]}),
        ({"drop_capabilities": ("CHOWN",)}, {"add": ["CHOWN"]}, {"add": ["CHOWN"]}),
        ({"drop_capabilities": ("ALL",)}, {"add": ["CHOWN"]}, {"add": ["CHOWN"], "drop": ["ALL"]}),
        ({"drop_capabilities": ()}, {}, {}),
        ({"profile": "restricted", "add_capabilities": ()}, {}, {"drop": ["ALL"]}),
    ],
)
def test_what_is_dropped(policy: dict[str, Any], asked: dict[str, Any], sent: dict[str, Any]) -> None:
    pod = seed()
    if asked:
        pod["spec"]["containers"][0]["securityContext"] = {"capabilities": asked}
    chosen = Policy(**({"add_capabilities": ("CHOWN",)} | policy))
    hardened = harden(admit(pod, chosen).manifest, chosen)
    assert hardened["spec"]["containers"][0]["securityContext"].get("capabilities", {}) == sent


def test_the_operators_additions_go_into_the_manifest_and_not_into_the_text() -> None:
    policy = Policy(
        runtime_class="gvisor",
        tolerations=(Toleration(key="stacks", operator="Exists"),),
        pull_secrets=("mine",),
        add_pull_secrets=("registry", "mine"),
        add_capabilities=("CHOWN",),
        drop_capabilities=("ALL",),
        labels={"team": "ctf", "app": "stack"},
        annotations={"example.com/a": "b"},
    )
    asked = with_init({})
    asked["metadata"]["labels"] = {"app": "web", "own": "1"}
    asked["spec"]["imagePullSecrets"] = [{"name": "mine"}]
    asked["spec"]["containers"][0]["securityContext"] = {"capabilities": {"add": ["CHOWN"], "drop": ["KILL"]}}
    admitted = admit(asked, policy)
    before = copy.deepcopy(dict(admitted.manifest))
    pod = harden(admitted.manifest, policy)
    assert admitted.manifest == before
    assert pod["spec"]["runtimeClassName"] == "gvisor"
    assert pod["spec"]["tolerations"] == [{"key": "stacks", "operator": "Exists"}]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "mine"}, {"name": "registry"}]
    contexts = [pod["spec"][kind][0]["securityContext"]["capabilities"] for kind in ("containers", "initContainers")]
    assert contexts == [{"add": ["CHOWN"], "drop": ["KILL", "ALL"]}, {"drop": ["ALL"]}]
    assert pod["metadata"]["labels"] == {"app": "stack", "own": "1", "team": "ctf"}
    assert pod["metadata"]["annotations"] == {"example.com/a": "b"}
    assert "gvisor" not in admitted.text
    assert "registry" not in admitted.text


@pytest.mark.parametrize("policy", [Policy(), Policy(profile="restricted"), Policy(run_as_root=False)])
def test_a_sanitized_spec_can_be_sent_again_under_every_profile(policy: Policy) -> None:
    admitted = admit(with_init({"restartPolicy": "Always"}), policy)
    assert admit(admitted.text, policy) == admitted

"""What the operator can allow, require and add."""

from __future__ import annotations

import copy
import re
import time
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stackd.model import TargetPort
from stackd.names import matches_any
from stackd.podspec import Policy, harden
from stackd.podspec.additions import values_in, with_readiness, with_values
from stackd.podspec.policy import Toleration
from tests.unit.podspec.specs import (
    DEFAULT_POLICY,
    admit,
    container,
    manifest,
    metadata,
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


def noted(key: str) -> dict[str, Any]:
    return metadata(annotations={key: "x"})


def on(label: str) -> dict[str, Any]:
    return spec(nodeSelector={label: "a"})


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
        ("allow_annotations", ("a/*", "note-*"), noted("a/team"), noted("b.a/team")),
        ("allow_annotations", ("note-*",), noted("note-a"), noted("k8s.v1.cni.cncf.io/networks")),
        ("node_labels", ("kubernetes.io/hostname",), on("kubernetes.io/hostname"), on("topology.kubernetes.io/zone")),
        ("node_labels", ("topology.*/*",), on("topology.kubernetes.io/zone"), on("kubernetes.io/hostname")),
        ("csi_drivers", ("inline.example.com",), with_volume(INLINE), with_volume({"csi": {"driver": "hostpath.csi"}})),
        ("pull_secrets", ("reg",), *(spec(imagePullSecrets=[{"name": name}]) for name in ("reg", "other"))),
        ("extended_resources", ("nvidia.com/*",), resource("nvidia.com/gpu", 1), resource("amd.com/gpu", 1)),
        ("add_capabilities", ("SYS_CHROOT",), adding("SYS_CHROOT"), adding("CHOWN")),
        ("run_as_user", True, container(securityContext=AS_ROOT), container(securityContext={"runAsUser": -1})),
        ("run_as_user", True, spec(securityContext={"fsGroup": 5}), spec(securityContext={})),
        ("empty_dir_memory", True, *(with_volume({"emptyDir": {"medium": name}}) for name in ("Memory", "HugePages"))),
    ],
)
def test_a_key_grants_only_what_it_names(key: str, value: Any, granted: dict[str, Any], other: dict[str, Any]) -> None:
    policy = Policy(**{key: value})
    assert any(f"policy.{key}" in reason for reason in reasons(granted))
    assert reasons(granted, policy) == []
    assert len(reasons(other, policy)) == 1
    admitted = admit(granted, policy)
    assert admit(admitted.text, policy) == admitted


@pytest.mark.parametrize(
    ("label", "accepted"),
    [
        ("disk", True), ("example.com/disk", True), ("not-kubernetes.io/disk", True),
        ("kubernetes.io/arch", True), ("kubernetes.io/os", True),
        ("kubernetes.io/hostname", False), ("beta.kubernetes.io/instance-type", False), ("hostname", False),
        ("node-role.kubernetes.io/control-plane", False), ("node.kubernetes.io/instance-type", False),
        ("topology.kubernetes.io/zone", False), ("failure-domain.beta.kubernetes.io/region", False),
        ("topology.hostpath.csi/node", False), ("alpha.eksctl.io/instance-id", False), ("kops.k8s.io/instance", False),
    ],
)  # fmt: skip
def test_a_tenant_chooses_a_kind_of_node_and_no_single_one(label: str, accepted: bool) -> None:
    """Whoever chooses the node shares one with the stack that is to be attacked, or fills one."""
    expected = f'spec.nodeSelector["{label}"]: not accepted, unless policy.node_labels allows it'
    assert reasons(on(label)) == ([] if accepted else [expected.replace('["hostname"]', ".hostname")])


@pytest.mark.parametrize(
    ("size", "given_limit", "written"),
    [("1Gi", None, "1Gi"), ("64Mi", None, "64Mi"), ("1Gi", "0.5Gi", "512Mi"), ("", "5Gi", "5Gi"), ("", None, None)],
)
def test_an_empty_dir_has_the_smaller_size_limit(size: str, given_limit: str | None, written: str | None) -> None:
    source = {} if given_limit is None else {"sizeLimit": given_limit}
    pod = manifest(with_volume({"emptyDir": source}), Policy(empty_dir_size=size))
    assert pod["spec"]["volumes"][0]["emptyDir"] == ({} if written is None else {"sizeLimit": written})


REGULAR = {"**": "(?s:.)*", "*": "[^/]*", "?": "[^/]"}


@given(st.lists(st.text("ab*?/\n.[]", max_size=7), max_size=3), st.text("ab/\n.[", max_size=8))
def test_patterns_match_what_such_regular_expressions_do(patterns: list[str], name: str) -> None:
    parts = [re.split(r"(\*\*|\*|\?)", pattern) for pattern in patterns]
    regular = ["".join(REGULAR.get(part) or re.escape(part) for part in each) for each in parts]
    assert matches_any(patterns, name) is any(re.fullmatch(each, name) for each in regular)


@pytest.mark.parametrize("pattern", ["*" * 60 + "x", "**a" * 20 + "x", "*a*" * 20 + "x", "?*" * 30 + "x"])
def test_a_name_takes_no_longer_with_a_pattern_of_stars(pattern: str) -> None:
    """A link's patterns are its maker's choice, and each request of its players matches all templates' names with them."""
    names = ["a" * 63 + str(number) for number in range(100)]
    started = time.thread_time()
    assert not any(matches_any([pattern] * 16, name) for name in names)
    assert not matches_any([pattern], "a" * 100_000)
    assert time.thread_time() - started < 2


@pytest.mark.parametrize(
    "policy", [Policy(profile="restricted", run_as_user=True), Policy(run_as_root=False, run_as_user=True)]
)
def test_nobody_becomes_root_where_root_is_not_allowed(policy: Policy) -> None:
    for context, of in product(({"runAsUser": 0}, {"runAsNonRoot": False}), (container, spec)):
        assert "may not run as root" in reasons(of(securityContext=context), policy)[0]
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
        ({}, {"drop": ["ALL"]}, {"drop": ["ALL"]}), ({}, {"drop": ["NET_RAW"]}, {"drop": ["NET_RAW"]}),
        ({}, {"add": ["CHOWN"]}, {"add": ["CHOWN"], "drop": ["NET_RAW"]}),
        ({"drop_capabilities": ("CAP_CHOWN", "kill")}, {"add": ["CHOWN"]}, {"add": ["CHOWN"], "drop": ["KILL"]}),
        ({"drop_capabilities": ("ALL",)}, {"add": ["CHOWN"]}, {"add": ["CHOWN"], "drop": ["ALL"]}),
        ({"drop_capabilities": ()}, {}, {}), ({"profile": "restricted", "add_capabilities": ()}, {}, {"drop": ["ALL"]}),
        ({"add_capabilities": ()}, {"drop": ["KILL"]}, {"drop": ["KILL", "NET_RAW"]}),
    ],
)  # fmt: skip
def test_what_is_dropped(policy: dict[str, Any], asked: dict[str, Any], sent: dict[str, Any]) -> None:
    pod = seed()
    if asked:
        pod["spec"]["containers"][0]["securityContext"] = {"capabilities": asked}
    chosen = Policy(**({"add_capabilities": ("CHOWN",)} | policy))
    hardened = harden(admit(pod, chosen).manifest, chosen)
    assert hardened["spec"]["containers"][0]["securityContext"].get("capabilities", {}) == sent


def test_the_operators_additions_go_only_into_the_manifest() -> None:
    policy = Policy(
        runtime_class="gvisor", tolerations=(Toleration(key="stacks", operator="Exists"),), pull_secrets=("mine",),
        add_pull_secrets=("registry", "mine"), drop_capabilities=(), labels={"team": "ctf", "app": "stack"},
        annotations={"example.com/a": "b"},
    )  # fmt: skip
    asked = spec(imagePullSecrets=[{"name": "mine"}])
    asked["metadata"]["labels"] = {"app": "web", "own": "1"}
    admitted = admit(asked, policy)
    before: dict[str, Any] = copy.deepcopy(dict(admitted.manifest))
    pod = harden(admitted.manifest, policy)
    assert admitted.manifest == before
    assert pod["spec"] == {
        **before["spec"],
        "runtimeClassName": "gvisor",
        "tolerations": [{"key": "stacks", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "mine"}, {"name": "registry"}],
    }
    assert pod["metadata"]["labels"] == {"app": "stack", "own": "1", "team": "ctf"}
    assert pod["metadata"]["annotations"] == {"example.com/a": "b"}
    assert not [word for word in ("gvisor", "registry") if word in admitted.text]


# ---- an image has one name, however it is spelled, and the operator's patterns are matched against that name


def denied(image: str, *patterns: str) -> bool:
    return bool(reasons(container(image=image), Policy(images_deny=patterns)))


def allowed(image: str, *patterns: str) -> bool:
    return not reasons(container(image=image), Policy(images_allow=patterns))


YES, NO = True, False


@pytest.mark.parametrize(
    ("pattern", "deny", "allow", "images"),
    [
        ("nginx:*", YES, YES, "nginx:stable nginx"), ("nginx:latest", YES, YES, "nginx"),
        ("nginx*", NO, NO, "nginx.evil.example/x"), ("ghcr.io/acme/*", NO, NO, "ghcr.io/acme/a/b:1"),
        ("ghcr.io/acme/**", YES, YES, "ghcr.io/acme/a/b:1"),
        ("ghcr.io/acme/**", NO, NO, "docker.io/ghcr.io/acme/x index.docker.io/ghcr.io/acme/x"),
        ("acme/*", NO, NO, "localhost/acme/x"), ("acme/*", YES, NO, "ACME/x"),
        ("evil/x:1", YES, NO, f"evil/x:1@{DIGEST}"), (f"evil/x@{DIGEST}", YES, YES, f"evil/x@{DIGEST}"),
        ("evil/x:1@*", YES, YES, f"evil/x:1@{DIGEST}"), ("registry:5000/**", NO, NO, "registry/acme/x"),
        ("evil.io/**", YES, NO, f"evil.io:5000/x/miner EVIL.io.:8443/x/miner:1 evil.io:80/x/miner@{DIGEST}"),
        ("evil.io:81/**", NO, NO, f"evil.io:5000/x/miner EVIL.io.:8443/x/miner:1 evil.io:80/x/miner@{DIGEST}"),
        ("evil.io/**", NO, NO, "evil.io.good.io/x notevil.io/x good.io/evil.io/x docker.io/evil.io/x evilxio/x"),
        ("10.0.0.5:5000/**", YES, YES, "10.0.0.5:5000/x 10.5:5000/x 167772165:5000/x 0xa.0.0.5:5000/x"),
        ("10.0.0.5:5000/**", YES, YES, "[::ffff:10.0.0.5]:5000/x"),
        ("[2001:db8::1]/**", YES, YES, "[2001:DB8::0:1]/x [2001:db8:0:0::1]:443/x"),
    ],
)  # fmt: skip
def test_a_pattern_is_matched_with_the_real_repository(pattern: str, deny: bool, allow: bool, images: str) -> None:
    for image in images.split():
        assert (image, denied(image, pattern), allowed(image, pattern)) == (image, deny, allow)


HUB = [
    "nginx", "library/nginx", "docker.io/nginx", "DOCKER.IO/library/nginx:1", "docker.io:443/nginx", "docker.io./nginx",
    "index.docker.io:443/library/nginx", "registry-1.docker.io/nginx", "Registry.Hub.Docker.com/library/nginx",
]  # fmt: skip


def test_docker_hub_is_the_same_under_all_of_its_names() -> None:
    pairs = [(image, "nginx") for image in HUB]
    pairs += [("nginx", pattern) for pattern in ("library/*", "docker.io/**", "registry-1.docker.io/library/nginx")]
    pairs += [(image, "acme/*") for image in ("acme/x", "docker.io/acme/x:1", "Registry-1.Docker.io:443/acme/x")]
    pairs += [("acme/x", pattern) for pattern in ("*.docker.io/acme/**", "registry.hub.docker.com/acme/x")]
    assert [pair for pair in pairs if not (denied(*pair) and allowed(*pair))] == []


LABEL = st.from_regex(r"\A[a-z][a-z0-9]{0,8}\Z")
HOSTS = st.lists(LABEL, min_size=2, max_size=4).map(".".join)
PATHS = st.lists(LABEL, min_size=1, max_size=3).map("/".join)
REFS = st.sampled_from(["", ":1", ":latest", f"@{DIGEST}", f":1@{DIGEST}"])


@st.composite
def spelled(draw: st.DrawFn, host: str) -> str:
    """Another spelling of the host that names the same registry."""
    letters = draw(st.lists(st.booleans(), min_size=len(host), max_size=len(host)))
    text = "".join(letter.upper() if up else letter for letter, up in zip(host, letters, strict=True))
    return text + draw(st.sampled_from(["", "."])) + draw(st.sampled_from(["", ":443", ":0443"]))


@settings(max_examples=40, deadline=None)
@given(st.data(), HOSTS, PATHS, REFS)
def test_no_spelling_of_a_registry_gets_around_a_pattern(data: st.DataObject, host: str, path: str, ref: str) -> None:
    image = f"{data.draw(spelled(host))}/{path}{ref}"
    pattern = data.draw(st.sampled_from([f"{host}/**", f"{data.draw(spelled(host))}/**", f"{host}/{path}*"]))
    assert denied(image, pattern)
    assert denied(image.replace(":443", ":80").replace(":0443", ":080"), pattern)
    if "@" not in ref or pattern.endswith("**"):
        assert allowed(image, pattern)


@settings(max_examples=30, deadline=None)
@given(HOSTS, HOSTS, PATHS, REFS)
def test_a_pattern_means_one_registry(host: str, other: str, path: str, ref: str) -> None:
    assume(host != other and not other.endswith("docker.io"))
    assert not denied(f"{other}/{path}{ref}", f"{host}/**")
    assert not allowed(f"{other}/{path}{ref}", f"{host}/**")


# ---- generated values and readiness probes in a pod


def pod(*containers: dict[str, Any], init: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"kind": "Pod", "spec": {"containers": list(containers), "initContainers": list(init)}}


def test_values_stand_before_the_others_in_every_container_and_come_back() -> None:
    before = pod({"name": "a", "env": [{"name": "A", "value": "$(FLAG)"}]}, {"name": "b"}, init=({"name": "c"},))
    original = copy.deepcopy(before)
    values = {"FLAG": "a$b$$c$(A)", "B": ""}
    after = with_values(before, values)
    written = [{"name": "FLAG", "value": "a$$b$$$$c$$(A)"}, {"name": "B", "value": ""}]
    envs = [one["env"] for kind in ("containers", "initContainers") for one in after["spec"][kind]]
    assert envs == [[*written, {"name": "A", "value": "$(FLAG)"}], written, written]
    assert (values_in(after, values), before) == (values, original)


TCP_80, UDP_53, TCP_9 = (
    TargetPort(container_port=port, protocol=protocol) for port, protocol in ((80, "TCP"), (53, "UDP"), (9, "TCP"))
)
HTTP, OTHER, UDP = {"containerPort": 80}, {"containerPort": 9}, {"containerPort": 53, "protocol": "UDP"}


@pytest.mark.parametrize(
    ("ports", "more", "init", "probed"),
    [
        ([HTTP], {}, False, True), ([OTHER, HTTP], {}, False, True), ([UDP], {}, False, False),
        ([{"containerPort": 81}], {}, False, False), ([], {}, False, False), ([HTTP], {}, True, False),
        ([HTTP], {"restartPolicy": "Always"}, True, True), ([HTTP], {"readinessProbe": {}}, False, False),
    ],
)  # fmt: skip
def test_a_lasting_container_gets_a_probe_of_its_port(
    ports: list[Any], more: dict[str, Any], init: bool, probed: bool
) -> None:
    one = {"name": "a", "ports": ports, **more}
    probe = {"readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1}} if probed else {}
    after = with_readiness(pod(init=(one,)) if init else pod(one), (UDP_53, TCP_80, TCP_9))
    assert [*after["spec"]["containers"], *after["spec"]["initContainers"]] == [one | probe]

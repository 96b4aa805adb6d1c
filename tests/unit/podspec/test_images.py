"""An image has one name, however it is spelled, and the operator's patterns are matched against that name."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stackd.podspec import Policy
from stackd.podspec.images import parse_reference
from tests.unit.podspec.specs import container, reasons

DIGEST = "sha256:" + "0" * 64


def denied(image: str, *patterns: str) -> bool:
    return bool(reasons(container(image=image), Policy(images_deny=patterns)))


def allowed(image: str, *patterns: str) -> bool:
    return not reasons(container(image=image), Policy(images_allow=patterns))


HUB = [
    "nginx", "library/nginx", "docker.io/nginx", "docker.io/library/nginx:1", "DOCKER.IO/nginx", "docker.io:443/nginx",
    "docker.io./library/nginx", "index.docker.io/nginx", "index.docker.io:443/library/nginx",
    "registry-1.docker.io/library/nginx", "registry-1.docker.io/nginx", "Registry.Hub.Docker.com/library/nginx",
]  # fmt: skip


@pytest.mark.parametrize("image", ["evil.io:5000/x/miner", "EVIL.io.:8443/x/miner:1", f"evil.io:80/x/miner@{DIGEST}"])
def test_a_pattern_without_a_port_denies_every_port_and_allows_only_the_default(image: str) -> None:
    assert denied(image, "evil.io/**")
    assert not denied(image, "evil.io:81/**")
    assert not allowed(image, "evil.io/**")


USERS = ["acme/x", "docker.io/acme/x:1", "index.docker.io/acme/x", "Registry-1.Docker.io:443/acme/x"]
NAMES_OF_HUB = ["nginx", "library/*", "docker.io/**", "index.docker.io/**", "registry-1.docker.io/library/nginx"]


@pytest.mark.parametrize(
    ("image", "pattern"),
    [*product(HUB, NAMES_OF_HUB), *product(USERS, ["acme/*", "*.docker.io/acme/**", "registry.hub.docker.com/acme/x"])],
)
def test_docker_hub_is_the_same_under_all_of_its_names(image: str, pattern: str) -> None:
    assert denied(image, pattern)
    assert allowed(image, pattern)


@pytest.mark.parametrize(
    ("image", "pattern"),
    [
        ("10.0.0.5:5000/x", "10.0.0.5:5000/**"), ("10.5:5000/x", "10.0.0.5:5000/**"),
        ("167772165:5000/x", "10.0.0.5:5000/**"), ("0xa.0.0.5:5000/x", "10.0.0.5:5000/**"),
        ("[::ffff:10.0.0.5]:5000/x", "10.0.0.5:5000/**"), ("[2001:DB8::0:1]/x", "[2001:db8::1]/**"),
        ("[2001:db8:0:0::1]:443/x", "[2001:db8::1]/**"),
    ],
)  # fmt: skip
def test_an_address_is_the_same_however_it_is_written(image: str, pattern: str) -> None:
    assert denied(image, pattern)


@pytest.mark.parametrize(
    "image",
    [
        "evil.io.good.io/x", "notevil.io/x", "good.io/evil.io/x", "docker.io/evil.io/x", "evil/io/x", "evilxio/x",
    ],
)  # fmt: skip
def test_another_registry_is_not_denied_with_it(image: str) -> None:
    assert not denied(image, "evil.io/**")


@pytest.mark.parametrize(
    ("image", "patterns"),
    [
        ("docker.io/ghcr.io/acme/x", ("ghcr.io/acme/**",)), ("index.docker.io/ghcr.io/acme/x", ("ghcr.io/acme/**",)),
        ("good.io:80/x", ("good.io/**",)), ("good.io:8443/x", ("good.io/**",)), ("good.io.evil.io/x", ("good.io/**",)),
        ("localhost/acme/x", ("acme/*",)), ("ACME/x", ("acme/*",)), ("registry/acme/x", ("registry:5000/**",)),
    ],
)  # fmt: skip
def test_nothing_is_allowed_that_only_looks_like_what_is(image: str, patterns: tuple[str, ...]) -> None:
    assert not allowed(image, *patterns)


@pytest.mark.parametrize(
    "image",
    [
        "evil.io../x", "-evil.io/x", "evil.io:/x", "evil.io:99999/x", "evil_.io/x", "éviל.io/x", "[::1/x", "[zz]/x",
        "docker://evil.io/x", "evil.io//x", "evil.io/./x", "evil.io/a..b", "evil.io/X", "x@sha256:abc",
        f"x@{DIGEST}@{DIGEST}", "EVIL/x", "evil.io/" + "a" * 250,
    ],
)  # fmt: skip
def test_what_no_runtime_would_pull_is_refused_where_images_are_chosen(image: str) -> None:
    assert parse_reference(image) is None
    assert denied(image, "other.io/**")
    assert not allowed(image, "**")


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


@settings(deadline=None)
@given(st.data(), HOSTS, PATHS, REFS)
def test_no_spelling_of_a_registry_gets_around_a_pattern(data: st.DataObject, host: str, path: str, ref: str) -> None:
    image = f"{data.draw(spelled(host))}/{path}{ref}"
    pattern = data.draw(st.sampled_from([f"{host}/**", f"{data.draw(spelled(host))}/**", f"{host}/{path}*"]))
    assert denied(image, pattern)
    assert denied(image.replace(":443", ":80").replace(":0443", ":080"), pattern)
    if "@" not in ref or pattern.endswith("**"):
        assert allowed(image, pattern)


@settings(deadline=None)
@given(HOSTS, HOSTS, PATHS, REFS)
def test_a_pattern_means_one_registry_and_no_other(host: str, other: str, path: str, ref: str) -> None:
    assume(host != other and not other.endswith("docker.io"))
    assert not denied(f"{other}/{path}{ref}", f"{host}/**")
    assert not allowed(f"{other}/{path}{ref}", f"{host}/**")


@settings(deadline=None)
@given(st.text("eE.:vilo/i0148-_@[]x", max_size=20))
def test_any_text_is_a_reference_or_none(text: str) -> None:
    reference = parse_reference(text)
    if reference is not None:
        name = next(reference.names(reference.port))
        again = parse_reference(name + (f":{reference.tag}" if reference.tag else ""))
        assert again is not None
        assert (next(again.names(again.port)), again.tag) == (name, reference.tag)

"""A recently sanitized pod spec is found again, and only under the same policy."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from stackd.errors import InvalidPodSpec
from stackd.podspec import Sanitizer, sanitize
from stackd.podspec.sanitize import KEPT, LONG_SPEC
from tests.unit.podspec.specs import DEFAULT_POLICY, HTTP, container, seed


def numbered(number: int) -> str:
    return yaml.safe_dump(container(env=[{"name": "NUMBER", "value": str(number)}]))


def test_the_result_is_that_of_sanitize_and_the_same_object_again() -> None:
    sanitizer, text = Sanitizer(DEFAULT_POLICY), yaml.safe_dump(seed())
    first = sanitizer.sanitize(text, HTTP)
    assert first == sanitize(text, HTTP, DEFAULT_POLICY)
    assert sanitizer.sanitize(text, HTTP) is first


def test_other_target_ports_are_checked_anew() -> None:
    sanitizer, text = Sanitizer(DEFAULT_POLICY), yaml.safe_dump(seed())
    sanitizer.sanitize(text, HTTP)
    with pytest.raises(InvalidPodSpec):
        sanitizer.sanitize(text, (dataclasses.replace(HTTP[0], container_port=81),))


def test_a_refusal_is_a_refusal_again() -> None:
    sanitizer, text = Sanitizer(DEFAULT_POLICY), yaml.safe_dump(container(securityContext={"privileged": True}))
    for _ in range(2):
        with pytest.raises(InvalidPodSpec):
            sanitizer.sanitize(text, HTTP)


def test_only_so_many_are_kept_and_those_used_last() -> None:
    sanitizer = Sanitizer(DEFAULT_POLICY)
    first = sanitizer.sanitize(numbered(0), HTTP)
    second = sanitizer.sanitize(numbered(1), HTTP)
    for number in range(2, KEPT):
        sanitizer.sanitize(numbered(number), HTTP)
    assert sanitizer.sanitize(numbered(0), HTTP) is first
    sanitizer.sanitize(numbered(KEPT), HTTP)
    assert sanitizer.sanitize(numbered(0), HTTP) is first
    assert sanitizer.sanitize(numbered(1), HTTP) is not second


def test_a_long_text_is_not_kept() -> None:
    sanitizer = Sanitizer(DEFAULT_POLICY)
    text = yaml.safe_dump(seed()) + "#" * LONG_SPEC
    assert sanitizer.sanitize(text, HTTP) is not sanitizer.sanitize(text, HTTP)

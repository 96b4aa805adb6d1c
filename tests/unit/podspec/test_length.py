"""The maximum length of a pod spec: as sent and as stored, at a cost that its length bounds."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stackd.errors import InvalidPodSpec
from stackd.podspec import Policy, sanitize
from stackd.podspec.yaml_writer import TooLong, emit
from tests.unit.podspec.specs import DEFAULT_POLICY, HTTP, admit, container, reasons
from tests.unit.podspec.test_emit import KEYS, VALUES

LIMIT = 64 << 10


def padded(size: int, letter: str = "x") -> str:
    """The seed with a variable that makes its text ``size`` bytes long."""
    text = json.dumps(container(env=[{"name": "A", "value": "@"}]), ensure_ascii=False)
    left = size - len(text.encode()) + 1
    assert left % len(letter.encode()) == 0
    return text.replace("@", letter * (left // len(letter.encode())))


def repeating(value: str, times: int) -> str:
    """The seed with a variable whose value other variables repeat through an alias."""
    env = [
        f'        - {{name: A, value: &a "{value}"}}',
        *(f"        - {{name: A{n}, value: *a}}" for n in range(times)),
    ]
    resources = "      resources: {limits: {cpu: 100m, memory: 128Mi}}"
    head = "kind: Pod\napiVersion: v1\nspec:\n  containers:\n    - name: app\n      image: a:1\n"
    return head + "      ports: [{containerPort: 80}]\n" + resources + "\n      env:\n" + "\n".join(env) + "\n"


def limited(size: int) -> Policy:
    return Policy(max_text=size)


def test_a_text_of_the_greatest_length_is_accepted_and_one_byte_more_is_not() -> None:
    assert admit(padded(LIMIT - 600)).text
    assert reasons(padded(LIMIT + 1)) == ["(root): the text is longer than 65536 bytes (limits.pod_spec)"]
    assert reasons("#" * LIMIT + "#") == ["(root): the text is longer than 65536 bytes (limits.pod_spec)"]
    assert reasons("\ud800" * LIMIT) == ["(root): the text is longer than 65536 bytes (limits.pod_spec)"]


def test_bytes_are_counted_and_not_characters() -> None:
    text = json.dumps(container(env=[{"name": "A", "value": "é" * (LIMIT // 2)}]), ensure_ascii=False)
    assert len(text) < LIMIT
    assert "limits.pod_spec" in reasons(text)[0]


def test_the_operator_may_allow_more_or_less() -> None:
    assert admit(padded(LIMIT + 2), limited(2 * LIMIT)).text
    assert "longer than 1024 bytes" in reasons(padded(1025), limited(1024))[0]


@pytest.mark.parametrize("value", ["x\\n" * 15_000, "x" * 30_000, "\\x01" * 10_000, "é" * 10_000])
def test_what_becomes_too_long_with_its_aliases_is_refused(value: str) -> None:
    text = repeating(value, 33)
    assert len(text.encode()) < LIMIT
    (reason,) = reasons(text)
    assert reason.startswith("(root): the text is longer than 65536 bytes (limits.pod_spec) once sanitized")


def test_what_becomes_longer_within_the_limit_is_accepted_and_again_when_it_comes_back() -> None:
    spec = admit(repeating("x\\n" * 200, 20))
    assert 10_000 < len(spec.text.encode()) <= LIMIT
    assert sanitize(spec.text, HTTP, DEFAULT_POLICY) == spec


def test_a_text_that_would_become_ten_megabytes_is_refused_without_being_written() -> None:
    text = repeating("x\\n" * 15_000, 33)
    refused = []
    for _ in range(5):
        began = time.process_time()
        assert reasons(text)
        refused.append(time.process_time() - began)
    assert min(refused) < 0.05


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
@example({"a": {"b": {"c": {"d": "\n\n\n\n\n\n\x01"}}}})
@example({"a": {"b": {"c": {"d": "x\n\n\n\n\ny"}}}})
@example({"a": [[[["x\ny\n"]]]]})
def test_a_text_is_written_exactly_up_to_the_length_that_it_may_have(document: dict[str, object]) -> None:
    whole = emit(document)
    assert emit(document, len(whole)) == whole
    with pytest.raises(TooLong):
        emit(document, len(whole) - 1)


def test_the_refusal_is_that_of_a_pod_spec() -> None:
    with pytest.raises(InvalidPodSpec, match=r"^invalid pod spec: \(root\): the text is longer"):
        sanitize("x" * (LIMIT + 1), HTTP, DEFAULT_POLICY)

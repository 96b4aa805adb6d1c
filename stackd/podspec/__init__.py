"""Turns a tenant's raw YAML into a sanitized pod, or reports every reason against it. Pure.

    located              a refusal with the line of each reason
    by_line              reasons in the order of the text
    parse_target_ports   the request's target_port
    sanitize             text → SanitizedSpec, or InvalidPodSpec
    Sanitizer            the same under one policy; remembers recent results
    harden               a manifest with the operator's additions
    Policy               the operator's choices

Inside, in the order of use: yaml_reader → fields → pod, containers, images, request, resources → yaml_writer. ``sanitize``
calls them in turn; ``reasons`` collects the mistakes. ``additions`` is what stackd adds later.
"""

from __future__ import annotations

from stackd.podspec.additions import harden
from stackd.podspec.policy import Policy
from stackd.podspec.reasons import by_line
from stackd.podspec.request import parse_target_ports
from stackd.podspec.sanitize import LONG_SPEC, Sanitizer, sanitize
from stackd.podspec.yaml_reader import located

__all__ = [
    "LONG_SPEC",
    "Policy",
    "Sanitizer",
    "by_line",
    "harden",
    "located",
    "parse_target_ports",
    "sanitize",
]

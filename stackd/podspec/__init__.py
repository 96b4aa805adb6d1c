"""Turns a tenant's raw YAML into a sanitized pod, or reports every reason against it. Pure.

    located              a refusal with the line of each reason
    by_line              reasons in the order of the text
    parse_target_ports   the request's target_port
    sanitize             text → SanitizedSpec, or InvalidPodSpec
    Sanitizer            the same under one policy; remembers recent results
    harden               a manifest with the operator's additions
    Policy               the operator's choices

Inside, in the order of use: yaml_text → fields → checks, images, resources → sanitize → additions. ``reasons`` collects
the mistakes.
"""

from stackd.podspec.additions import harden
from stackd.podspec.policy import Policy
from stackd.podspec.reasons import by_line
from stackd.podspec.sanitize import LONG_SPEC, Sanitizer, parse_target_ports, sanitize
from stackd.podspec.yaml_text import located

__all__ = ["LONG_SPEC", "Policy", "Sanitizer", "by_line", "harden", "located", "parse_target_ports", "sanitize"]

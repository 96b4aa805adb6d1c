"""What a tenant may ask for: from raw YAML to a sanitized pod, or every reason why not. Pure.

    parse_target_ports   the request's target_port
    sanitize             text → SanitizedSpec, or InvalidPodSpec
    Sanitizer            the same under one policy; knows again what it has checked lately
    harden               a manifest with the operator's additions
    Policy               the operator's choices; DEFAULT_POLICY
    prepare              load the typed models ahead of the first spec

Inside, in the order of use: yaml_reader (with scalars) → decode (with allow, schema) → pod, containers, probes,
volumes, fieldrefs, images, target_ports, security, resources (with quantity) → emit.
"""

from __future__ import annotations

from stackd.podspec.decode import prepare
from stackd.podspec.harden import harden
from stackd.podspec.policy import DEFAULT_POLICY, Policy
from stackd.podspec.recent import Sanitizer
from stackd.podspec.sanitize import sanitize
from stackd.podspec.target_ports import parse_target_ports

__all__ = ["DEFAULT_POLICY", "Policy", "Sanitizer", "harden", "parse_target_ports", "prepare", "sanitize"]

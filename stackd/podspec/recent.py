"""The specs that were sanitized lately: whoever hands out the same challenge again and again has it checked once.

Owns: how many are kept. One policy each; under another policy everything is to be checked anew.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from stackd.model import SanitizedSpec, TargetPort
from stackd.podspec.policy import Policy
from stackd.podspec.sanitize import sanitize

KEPT: Final = 64
LONGEST: Final = 16 * 1024
"""In characters; a longer text is checked each time, so that what is kept stays small."""


class Sanitizer:
    """``sanitize`` under one policy. Results are shared: nobody may change the manifest of one."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._known: OrderedDict[tuple[str, tuple[TargetPort, ...]], SanitizedSpec] = OrderedDict()

    def sanitize(self, text: str, target_ports: tuple[TargetPort, ...]) -> SanitizedSpec:
        """The pod that ``text`` describes. Raises InvalidPodSpec; refusals are not kept."""
        name = (text, target_ports)
        spec = self._known.get(name)
        if spec is not None:
            self._known.move_to_end(name)
            return spec
        spec = sanitize(text, target_ports, self._policy)
        if len(text) <= LONGEST:
            self._known[name] = spec
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        return spec

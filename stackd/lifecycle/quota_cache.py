"""The namespace's ResourceQuotas as they were last seen, and whether anybody wants to know. Asks nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

INTEREST_SECONDS = 300.0
"""After the last question they are looked at for so long."""


@dataclass(slots=True, kw_only=True)
class Quotas:
    """``seen_at`` in nanoseconds, None while they were never seen; ``wanted_at`` in monotonic seconds."""

    objects: list[dict[str, Any]] = field(default_factory=list)
    seen_at: int | None = None
    wanted_at: float | None = None
    error: str = ""

    def wanted(self, now: float) -> bool:
        """Whether somebody has asked lately; ``now`` in monotonic seconds."""
        return self.wanted_at is not None and now - self.wanted_at < INTEREST_SECONDS

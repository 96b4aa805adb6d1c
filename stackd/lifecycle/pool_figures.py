"""How the pool of each template is doing, as ``/templates``, doctor, the metrics and the dashboard tell it.

Owns the record and where it is found: ``figures_of`` is the only place that they read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stackd.lifecycle.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFigures:
    """One template's unassigned stacks by what they are, and the creates that found one (``hits``) or none (``misses``).

    ``held`` may have been given away just before the file was lost: they stay for a while, and are given to nobody.
    ``reason`` is why the pool is not filled, empty while it is or is being filled.
    """

    ready: int = 0
    starting: int = 0
    failing: int = 0
    held: int = 0
    hits: int = 0
    misses: int = 0
    reason: str = ""


NO_POOL = PoolFigures()


def figures_of(context: Context, template: str) -> PoolFigures:
    """The figures of one template's pool; zeros where it has none."""
    known = context.settings.templates.get(template)
    return NO_POOL if known is None else context.pools.figures(known)

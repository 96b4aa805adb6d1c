"""What happened to each template within the last hour: a ring of samples, and how long its stacks took to run.

Owns: what is counted, and for how long. It is in memory only: a start begins anew.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from statistics import median

from stackd.clock import NANOSECONDS
from stackd.lifecycle.context import Context
from stackd.model import Stack, StackStatus

SAMPLE_SECONDS = 30.0
SAMPLES = 120
MOST_STARTS = 1000
"""At most this many starts of a template are kept: the latest."""

SERIES = ("running", "creating", "failed", "ready", "starting", "failing")
"""Its stacks by status, and its pool's figures."""


class TemplateHistory:
    """The last hour of each template in force."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._samples: dict[str, deque[tuple[int, ...]]] = {}
        self._starts: dict[str, deque[tuple[float, float]]] = {}

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Subscriber of the store: record a start when a stack runs for the first time, or is given running."""
        if before is None or after is None or after.template is None or after.unassigned or after.generation:
            return  # a restarted stack was created long ago
        if after.status is StackStatus.RUNNING and (before.unassigned or before.status is StackStatus.CREATING):
            clock = self._context.clock
            seconds = max(0.0, (clock.now() - after.created_at) / NANOSECONDS)
            starts = self._starts.setdefault(after.template, deque(maxlen=MOST_STARTS))
            starts.append((clock.monotonic(), seconds))

    async def sample(self) -> None:
        """Take a sample of each template; forget templates that no longer exist."""
        templates = self._context.settings.templates
        for known in (self._samples, self._starts):
            for name in known.keys() - templates.keys():
                del known[name]
        stacks = stacks_of_templates(self._context)
        for name, template in templates.items():
            figures = self._context.pools.figures(template)
            counts = (
                stacks[name, status] for status in (StackStatus.RUNNING, StackStatus.CREATING, StackStatus.FAILED)
            )
            taken = (*counts, figures.ready, figures.starting, figures.failing)
            self._samples.setdefault(name, deque(maxlen=SAMPLES)).append(taken)

    def series(self, template: str) -> Mapping[str, list[int]]:
        """The samples of one template by what was counted, the oldest first, one every ``SAMPLE_SECONDS``."""
        samples = self._samples.get(template, ())
        return {name: [sample[place] for sample in samples] for place, name in enumerate(SERIES)}

    def median_seconds(self, template: str) -> float | None:
        """How long its stacks took from create to running within the last hour (median); None if none was started."""
        since = self._context.clock.monotonic() - SAMPLE_SECONDS * SAMPLES
        recent = [seconds for at, seconds in self._starts.get(template, ()) if at >= since]
        return round(median(recent), 3) if recent else None


def stacks_of_templates(context: Context) -> Counter[tuple[str, StackStatus]]:
    """How many stacks each template has in each status, without those in pools."""
    return Counter(
        (stack.template, stack.status)
        for stack in context.store.stacks.ordered()
        if stack.template is not None and not stack.unassigned
    )

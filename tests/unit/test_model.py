"""What records show of themselves in a log or a traceback."""

from __future__ import annotations

from stackd.model import NewStack
from tests.unit.lifecycle.situations import stack

VALUES = {"FLAG": "flag{0123456789abcdef}"}


def test_a_stack_shows_nothing_of_its_values() -> None:
    """The values are secrets of the stack's creator."""
    new = NewStack(
        stack_id="stack-0123456789abcdef",
        namespace="stacks",
        pod_spec="",
        target_ports=(),
        created_at=0,
        ttl_expires_at=0,
        requested_cpu_milli=1,
        requested_memory_bytes=1,
        values=VALUES,
    )
    for shown in (repr(new), str(new), repr(stack(values=VALUES)), str(stack(values=VALUES))):
        assert "stack-0123456789abcdef" in shown
        assert "flag" not in shown.lower()

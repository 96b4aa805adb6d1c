"""What one key may see of the stacks, jobs and templates: handlers read them through its view only.

Owns: that others' stacks and jobs are to a tenant what unknown ones are. ``keys.ApiKey`` decides what a key may see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stackd.errors import InvalidRequest, JobNotFound, Reason, StackNotFound
from stackd.keys import ApiKey
from stackd.lifecycle.context import Context
from stackd.model import Job, Stack
from stackd.structs import struct
from stackd.templates import Template

NOT_SEEN = "unknown:"
"""Before an id in a job: no stack has such an id, so the job counts it as not found."""


@struct
class View:
    """The view of one key."""

    context: Context
    key: ApiKey

    def get(self, stack_id: str) -> Stack | None:
        """The stack, or None."""
        stack = self.context.store.assigned.get(stack_id)
        hidden = stack is not None and self.key.labels and not self.key.may_see(stack.labels)
        return None if hidden else stack

    def stack(self, stack_id: str) -> Stack:
        """The stack. Raises StackNotFound."""
        stack = self.get(stack_id)
        if stack is None:
            raise StackNotFound(stack_id)
        return stack

    def stacks(self) -> tuple[Stack, ...]:
        """All stacks by ``created_at``, then id."""
        stacks = self.context.store.assigned.ordered()
        return tuple(one for one in stacks if self.key.may_see(one.labels)) if self.key.tenant else stacks

    def job(self, job_id: str) -> Job:
        """The batch job. Raises JobNotFound."""
        job = self.context.store.jobs.get(job_id)
        if job is None or not self.key.may_see_job(job):
            raise JobNotFound(job_id)
        return job

    async def require_history(self, stack_id: str) -> None:
        """Raise StackNotFound if what is kept of this stack, which may be deleted, is not the key's to see."""
        if not self.key.tenant or self.get(stack_id) is not None:
            return
        store = self.context.store
        events = await store.timeline.read(stack_id)
        if stack_id in store.stacks or not self.key.may_see_history(events):
            raise StackNotFound(stack_id)

    def of_job(self, ids: Iterable[str]) -> list[str]:
        """The ids for a batch job, which counts those that the key may not see as not found."""
        if not self.key.tenant:
            return list(ids)
        return [one if self.get(one) is not None else NOT_SEEN + one for one in ids]

    def templates(self) -> Mapping[str, Template]:
        """The templates that the key may use, by name."""
        templates = self.context.settings.templates
        if not self.key.templates:
            return templates
        return {name: one for name, one in templates.items() if self.key.may_use(name)}

    def labels_of_create(self, requested: Mapping[str, str], of_template: Mapping[str, str]) -> dict[str, str]:
        """The labels of a new stack: the key's, then those of the request, then those of the template.

        Raises InvalidRequest if the request gives one of the key's labels another value, or spells it otherwise.
        """
        own = self.key.labels
        names = {name.lower() for name in own}
        for name, value in requested.items():
            if name.lower() in names and own.get(name) != value:
                right = ", ".join(f"{key}={text}" for key, text in own.items())
                sentence = f"labels.{name}: this API key gives its stacks {right}; leave it out, or send the same"
                raise InvalidRequest(f"invalid request body: {sentence}", [Reason(path="labels", text=sentence)])
        others = {name: value for name, value in of_template.items() if name.lower() not in names}
        return {**others, **requested, **own}

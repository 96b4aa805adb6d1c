"""What a player is shown: the templates that may be started and the player's stacks, in the words of the page.

Owns: which of stackd's words become which of the page's, and that nothing of the operator's is among them: no message of a
status, no node, no value that its template does not show. Times are seconds from now, because phones' clocks are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msgspec import json

from stackd.clock import NANOSECONDS
from stackd.contract import Address, Problem
from stackd.kube.objects import PodState
from stackd.lifecycle.context import Context
from stackd.lifecycle.status import PULL_ERRORS, STUCK_REASONS
from stackd.model import NO_OFFER, Offer, Stack, StackStatus
from stackd.play.players import Players
from stackd.play.tokens import LinkKey
from stackd.templates import Template
from stackd.units import format_duration
from stackd.web.bodies import renderer
from stackd.web.shown import addresses_of, problem_of

Entry = dict[str, Any]


def offer_of(context: Context, stack: Stack) -> Offer:
    """What the player sees of the stack and may do with it, as its template said when it was made; of a shared stack, which
    stackd keeps up to date, as its template says now."""
    template = context.settings.templates.get(stack.template or "")
    if template is not None and (stack.shared or stack.offer is None):
        return template.offer
    return stack.offer or NO_OFFER


@dataclass(frozen=True, slots=True)
class Shown:
    """What one player is shown; without values if ``watched`` by somebody else."""

    context: Context
    players: Players
    key: LinkKey
    watched: bool = False

    def everything(self) -> bytes:
        """For each template its stacks that have not ended, or the last one that has, or an entry without one; then the stacks
        without a template."""
        own = self._own()
        names = {
            *filter(self.key.may_use, self.context.settings.templates),
            *(each.template for each in own if each.template),
        }
        entries = []
        for name in sorted(names, key=self._order):
            shared, of_it = self._shared(name), [stack for stack in own if stack.template == name]
            found = [shared] if shared else [stack for stack in of_it if not stack.ended] or of_it[-1:]
            entries += [self._stack(stack) for stack in found] or [self._nothing(name, own)]
        entries += [self._stack(stack) for stack in own if not stack.template]
        link = self.key.link
        about = {
            "id": link.player,
            "name": link.title,
            "seconds_left": self.players.remaining(link),
            "stacks": link.stacks,
            "used": len(_living(own)),
        }
        said = [each for each in self.players.messages.now() if each.reaches(self.key)]
        messages = [{"message_id": each.message_id, "text": each.text} for each in said]
        return json.encode({"link": about, "stacks": entries, "messages": messages})

    def stack(self, stack: Stack) -> bytes:
        return json.encode(self._stack(stack))

    def nothing(self, template: str) -> bytes:
        """The entry of a template of which the player has no stack."""
        return json.encode(self._nothing(template, self._own()))

    def _own(self) -> list[Stack]:
        own = self.players.stacks_of(self.key)
        return [stack for stack in own if not stack.shared]

    def _shared(self, name: str) -> Stack | None:
        stack = self.context.store.assigned.get(self.context.pools.shared_stack(name) or "")
        return stack if stack is not None and stack.accepted else None

    def _order(self, name: str) -> tuple[str, str, str]:
        template = self._template(name)
        return ("", "", name) if template is None else (template.category, template.title, name)

    def _template(self, name: str | None) -> Template | None:
        return self.context.settings.templates.get(name or "")

    def _about(self, name: str | None) -> Entry:
        template = self._template(name)
        if template is None:
            return {"template": name, "title": name or ""}
        text = {"description": template.description, "about": template.about, "category": template.category}
        return {"template": name, "title": template.title or name, **text}

    def _about_stack(self, stack: Stack) -> Entry:
        title = offer_of(self.context, stack).title
        return self._about(stack.template) | ({"title": title} if title else {})

    def _nothing(self, name: str, own: list[Stack]) -> Entry:
        template, closed, now = self._template(name), None, self.context.wall_clock.now()
        if template is not None:
            closed = template.hours.why_closed(name, now)
        if template is not None and template.shared and not closed:
            queued = {"name": "", "status": "starting", "pending": True, "doing": {"key": "queue", "seconds": 0}}
            return self._about(name) | queued
        living = _living(own)
        others = [{"name": stack.stack_id, "title": self._about_stack(stack)["title"]} for stack in living]
        why = None if template is None else self.players.why_ended(template, self.key)
        problem: Entry | None = {"key": why} if why else None
        times: Entry = {}
        if closed and template is not None:
            problem = {"key": closed.code, "player_message": closed.player_message}
            at = template.hours.closes if template.hours.is_over(now) else template.hours.opens
            times = {"opens_in": (at - now) // NANOSECONDS}
        limit = self.key.link.stacks
        full = len(living) >= limit
        counts = {"used": len(living), "limit": limit, "others": others if full else []}
        return {**self._about(name), "name": "", "status": "none", "problem": problem, **counts, **times}

    def _stack(self, stack: Stack) -> Entry:
        status, offer, now = _status_of(stack), offer_of(self.context, stack), self.context.clock.now()
        serves = status in ("running", "shared")
        begun, problem = stack.status is StackStatus.RUNNING or status == "failed", problem_of(stack)
        pending = status in ("starting", "restarting", "stopping")
        entry = {
            **self._about_stack(stack),
            "name": stack.stack_id,
            "status": status,
            "pending": pending,
            "doing": _doing(stack, status, now, pulls_again=problem is not None),
            "problem": renderer(Problem)(problem) if problem and not pending else None,
            "addresses": [*map(_address, addresses_of(stack))] if serves else [],
            "seconds_left": max(0, stack.ttl_expires_at - now) // NANOSECONDS if begun else None,
            "values": _values(stack, offer) if serves and not self.watched else [],
            "organiser": self.players.act_of_organiser(stack),
            "members": [] if status == "stopping" else self._members(stack),
        }
        if stack.shared:
            return {**entry, "seconds_left": None, "since": max(0, now - stack.updated_at) // NANOSECONDS}
        return entry | self._notice(stack) | self._extension(stack, offer)

    def _members(self, stack: Stack) -> list[Entry]:
        """How each of its pods beside the first one is, unless all of them run. What is not seen is not said."""
        pods = {one.name: self.context.mirror.pods.get(stack.member_name(one.name)) for one in stack.members}
        seen = [{"name": name, "status": _status_of_pod(pod)} for name, pod in pods.items() if pod is not None]
        return seen if any(one["status"] != "running" for one in seen) else []

    def _notice(self, stack: Stack) -> Entry:
        """So many seconds before the end the page says that the template closes then, if it does."""
        template = self._template(stack.template)
        closes = template is not None and template.hours.closes == stack.ttl_expires_at
        return {"notice": template.hours.notice} if template is not None and closes else {}

    def _extension(self, stack: Stack, offer: Offer) -> Entry:
        if not offer.times or stack.ended:
            return {"extensions_left": 0}
        by, times = offer.by, offer.times
        ends = stack.created_at + self.context.longest_life
        if closes := self.context.settings.templates.closes.get(stack.template or "", 0):
            ends = min(ends, closes)
        fits = ends - stack.ttl_expires_at >= by * NANOSECONDS
        left = max(0, times - stack.extensions) if fits else 0
        return {"extension": format_duration(by), "extension_seconds": round(by), "extensions_left": left}


def _living(own: list[Stack]) -> list[Stack]:
    """Those that count for the link's limit."""
    return [stack for stack in own if not stack.ended and stack.deleting_since is None]


def _status_of(stack: Stack) -> str:
    if stack.deleting_since is not None:
        return "stopping"
    if stack.status is StackStatus.RUNNING:
        return "shared" if stack.shared else "running"
    if stack.status is StackStatus.CREATING:
        return "restarting" if stack.generation else "starting"
    return "failed"


def _status_of_pod(pod: PodState) -> str:
    if pod.phase == "Running" and pod.ready:
        return "running"
    stuck = any(one.state == "waiting" and one.reason in (*STUCK_REASONS, *PULL_ERRORS) for one in pod.containers)
    return "failed" if stuck or pod.phase in ("Failed", "Succeeded") else "starting"


def _doing(stack: Stack, status: str, now: int, *, pulls_again: bool) -> Entry | None:
    """What is being done about it, and for how long."""
    since = stack.deleting_since or (stack.updated_at if stack.generation else stack.created_at)
    words = {"stopping": "stop", "restarting": "restart", "starting": "prepare" if stack.node_id else "place"}
    if status not in words:
        return None
    key = "pull_again" if pulls_again and status == "starting" else words[status]
    return {"key": key, "seconds": max(0, now - since) // NANOSECONDS}


def _address(address: Address) -> Entry:
    return {**renderer(Address)(address), "href": address.url}


def _values(stack: Stack, offer: Offer) -> list[Entry]:
    return [{"name": name, "value": stack.values[name]} for name in offer.show if name in stack.values]

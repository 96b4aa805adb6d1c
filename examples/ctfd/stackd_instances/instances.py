"""The stacks of players, one for each account, over stackd's API. Knows nothing of CTFd.

Owns: which stack belongs to whom (labels `player` and `challenge`), its pod, and its flag. The flag is computed from
the account, the challenge and a secret, so nothing has to be stored.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackd.client import ApiError, Client, Conflict, NotFound, Stack

PLACE_OF_THE_FLAG = "FLAG_OF_THE_PLAYER"
TTL, EXTENSION = "30m", "10m"


class NoInstance(Exception):
    """The account has no instance, or cannot get one; the text may be shown to a player."""

    def __init__(self, text: str, status: int = 404) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """``pods`` has a file NUMBER.yaml for each challenge that has stacks."""

    client: Client
    pods: Path
    secret: bytes

    def flag(self, account: int, challenge: int) -> str:
        """The account's flag for the challenge."""
        digest = hmac.digest(self.secret, f"{account}/{challenge}".encode(), "sha256")
        return f"flag{{{digest.hex()[:32]}}}"

    def is_flag(self, account: int, challenge: int, given: str) -> bool:
        """Whether ``given`` is the account's flag for the challenge."""
        return hmac.compare_digest(self.flag(account, challenge).encode(), given.strip().encode())

    def start(self, account: int, challenge: int) -> dict[str, Any]:
        """Create the account's stack for the challenge, or return the existing one."""
        pod = self._pod(challenge).replace(PLACE_OF_THE_FLAG, self.flag(account, challenge))
        labels = {"player": str(account), "challenge": str(challenge)}
        try:
            return told(self.client.create(pod, ports=_ports(pod), ttl=TTL, labels=labels, return_existing=True))
        except Conflict as error:
            raise NoInstance("your instance of another challenge runs: stop it first", 409) from error

    def look(self, account: int, challenge: int) -> dict[str, Any]:
        """The state of the account's stack for the challenge."""
        return told(self._stack(account, challenge))

    def extend(self, account: int, challenge: int) -> dict[str, Any]:
        """Extend the stack's time to live by ``EXTENSION``."""
        return told(self.client.extend(self._stack(account, challenge), EXTENSION))

    def stop(self, account: int, challenge: int) -> None:
        """Have the stack deleted, if there is one; stackd does it in the background."""
        if stacks := self._stacks(account, challenge):
            self.client.batch_delete(stacks)

    def _pod(self, challenge: int) -> str:
        try:
            return (self.pods / f"{challenge}.yaml").read_text()
        except FileNotFoundError:
            raise NoInstance("this challenge has no instances") from None

    def _stack(self, account: int, challenge: int) -> Stack:
        stacks = self._stacks(account, challenge)
        if not stacks:
            raise NoInstance("no instance runs")
        return stacks[-1]

    def _stacks(self, account: int, challenge: int) -> list[Stack]:
        return self.client.stacks(labels={"player": str(account), "challenge": str(challenge)})


def told(stack: Stack) -> dict[str, Any]:
    """What a player is told."""
    return {"status": stack.status, "addresses": list(stack.addresses), "until": stack.ttl_expires_at.isoformat()}


def refusal(error: ApiError) -> tuple[str, int]:
    """The text and the status that a player gets for an error of the API. A 409, 429 or 503 keeps stackd's sentence."""
    if isinstance(error, NotFound):
        return "no instance runs", 404
    if error.status in (409, 429, 503):
        return error.sentence, error.status
    return "the instance cannot be had; tell the organisers", 502


def _ports(pod: str) -> list[str]:
    """The ports in the pod's first line, such as `# ports: 80/tcp 53/udp`; without that line, 80/tcp."""
    first, _, _ = pod.partition("\n")
    return first.removeprefix("# ports:").split() if first.startswith("# ports:") else ["80/tcp"]

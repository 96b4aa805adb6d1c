"""What a platform does for its players: each gets one stack with a flag of their own, until they solve it."""

import hmac
import os

from stackd.client import Client, Stack, StackEnded

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: challenge}
spec:
  containers:
    - name: app
      image: nginx:stable
      env: [{name: FLAG, value: "FLAG_OF_THE_PLAYER"}]
      ports: [{containerPort: 80}]
      resources: {limits: {cpu: 100m, memory: 128Mi}}
"""
client = Client(os.environ["STACKD_URL"], os.environ["STACKD_API_KEY"])


def flag(player: str) -> str:
    """The player's flag; it is computed, so the platform keeps no list of flags."""
    return "flag{" + hmac.digest(os.environ["FLAG_SECRET"].encode(), player.encode(), "sha256").hex()[:32] + "}"


def start(player: str) -> Stack:
    """Start the player's stack, or take the existing one, and wait until it runs."""
    pod = POD.replace("FLAG_OF_THE_PLAYER", flag(player))
    stack = client.create(pod, ports=["80/tcp"], ttl="30m", labels={"player": player}, return_existing=True)
    try:
        return client.wait(stack, timeout=60)
    except StackEnded:
        client.delete(stack)  # it cannot run; the next start makes a new one
        raise


def extend(player: str) -> list[Stack]:
    """Give the player ten minutes more, up to `stacks.max_ttl` in all."""
    stacks = client.stacks(labels={"player": player}, statuses=("creating", "running"))
    return [client.extend(stack, "10m") for stack in stacks]


def solve(player: str, answer: str) -> bool:
    """Check the player's flag; if it is right, delete the stack."""
    solved = hmac.compare_digest(flag(player).encode(), answer.encode())
    if solved and (stacks := client.stacks(labels={"player": player})):
        client.batch_delete(stacks)
    return solved

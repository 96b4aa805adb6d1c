"""What a platform does for its players: a stack each, with a flag of its own, until it is solved."""

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
    """The same for a player each time, so that no list of flags is kept."""
    return "flag{" + hmac.digest(os.environ["FLAG_SECRET"].encode(), player.encode(), "sha256").hex()[:32] + "}"


def start(player: str) -> Stack:
    """The player's stack, once it answers; who presses the button again gets the same one."""
    pod = POD.replace("FLAG_OF_THE_PLAYER", flag(player))
    stack = client.create(pod, ports=["80/tcp"], ttl="30m", labels={"player": player}, return_existing=True)
    try:
        return client.wait(stack, timeout=60)
    except StackEnded:
        client.delete(stack)  # it cannot run: the next press of the button starts afresh
        raise


def extend(player: str) -> list[Stack]:
    """Ten minutes more, up to `stacks.max_ttl` in all."""
    return [client.extend(stack, "10m") for stack in client.stacks(labels={"player": player})]


def solve(player: str, answer: str) -> bool:
    """Whether it is the player's flag; then the stack is not needed any more."""
    solved = hmac.compare_digest(flag(player).encode(), answer.encode())
    if solved and (stacks := client.stacks(labels={"player": player})):
        client.batch_delete(stacks)
    return solved

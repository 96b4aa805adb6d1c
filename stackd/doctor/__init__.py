"""The doctor: examines this machine, the cluster and a running daemon, and reports what is not as it should be.

    machine    files, certificate, configuration
    service    the service as systemd knows it, and what is wrong with it and its files
    running    this machine's daemon: who listens where it should, and what it reports
    cluster    rights, namespace, policies, nodes, ports, clock, and how many stacks fit
    routes     the Gateway, its listeners, DNS and certificate, if ports have names
    probe      two stacks that try to reach each other and other addresses that they must not reach

Each yields or reports findings, which are defined here. Only the probe and the port check may make objects, and delete them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial


class Level(enum.StrEnum):
    """How bad it is; a failure has to be fixed."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check: what it is about, what was found, and what to do."""

    level: Level
    about: str
    what: str
    advice: str = ""


# What prints findings, as soon as there are some.
Found = Callable[[Iterable[Finding]], object]
# A finding names this many of what it is about.
SHOWN = 3
# Nothing to do; it works, and could be better; it does not work, or is not safe.
ok, warn, fail = (partial(Finding, level) for level in Level)

"""How containers behave, by their images' names and simple commands, and the pod status that a kubelet then reports.

The last part of an image, without tag, is the script: `…/fail`, `…/fail-N`, `…/exit0`, `…/nopull`, `…/slowpull`,
`…/latepull`, `…/badname`, `…/oom`, `…/nostart`, `…/noconfig`, `…/crashloop`, `…/notready`, `…/unready`; all others run.
Images of a registry under `.invalid` cannot be pulled, as with a real kubelet. Pure; the time is passed in.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import Literal

from stackd.embedded.resources import Json
from stackd.embedded.schema import pod_condition
from stackd.embedded.store import Key

_DOMAIN = r"(?:[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9-]+)*(?::[0-9]+)?/)?"
_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(rf"{_DOMAIN}{_PATH}(?:/{_PATH})*(?::\w[\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?")
_ECHO = re.compile(r"echo ([^;&|>]*?)\s*(?:>&2\s*)?(?:;|&&|$)")
_EXIT = re.compile(r"exit ([0-9]+)\s*$")
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_DOUBLING = re.compile(r"(\w+)=\$\1\$\1")

IN_NO_IMAGE = ("/does/not/exist", "/stackd-prepull")
"""Programs that no image contains: a container with such a command fails to start after its image is pulled."""

Pull = Literal["ok", "never", "slow", "late", "invalid"]
Run = Literal["on", "exit", "start_error", "config_error", "not_ready", "unready"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How one container behaves: its script."""

    pull: Pull = "ok"
    run: Run = "on"
    exit_code: int = 0
    reason: str = ""
    """The reason of its end, if it is not simply Completed or Error."""
    message: str = ""
    """The message of a start or configuration error, or of an invalid image name."""
    output: str = ""


def behaviour(container: Json) -> Behaviour:
    image = container["image"]
    last = image.split("@")[0].rpartition("/")[2].partition(":")[0]
    if last == "badname" or not _REFERENCE.fullmatch(image):
        return Behaviour(pull="invalid", message=_invalid_name(image))
    if full_name(image).partition("/")[0].partition(":")[0].endswith(".invalid"):
        return Behaviour(pull="never")
    program = (container.get("command") or [""])[0]
    if match := re.fullmatch(r"fail(?:-([0-9]+))?", last):
        return _ends(int(match[1] or 1), "starting\nboom\n")
    if last == "nostart":
        return _no_start(program or "/does/not/exist")
    scripted = _SCRIPTS.get(last)
    if program.startswith(IN_NO_IMAGE) and (scripted is None or scripted.pull != "never"):
        return replace(_no_start(program), pull=scripted.pull if scripted else "ok")
    return scripted or _by_command([*container.get("command", ()), *container.get("args", ())], container)


def _by_command(command: list[str], container: Json) -> Behaviour:
    if not command:
        return Behaviour(output="starting\nready\n")
    program, script = command[0], command[-1]
    echoed = _ECHO.findall(script) if len(command) > 2 else []
    output = "".join(f"{_expanded(text, container)}\n" for text in echoed)
    if program in {"/bin/true", "true", "/bin/false", "false"}:
        return _ends(int(program.endswith("false")), output)
    if len(command) > 2 and _DOUBLING.search(script):
        return Behaviour(run="exit", exit_code=137, reason="OOMKilled", output=output)
    if len(command) > 2 and (match := _EXIT.search(script)):
        return _ends(int(match[1]), output)
    return Behaviour(output=output or "starting\nready\n")


def _expanded(text: str, container: Json) -> str:
    """The text with variables expanded as by a shell. In the container's environment, ``$$`` stands for ``$``."""
    environment = {one["name"]: one.get("value", "").replace("$$", "$") for one in container.get("env", ())}
    return _VARIABLE.sub(lambda match: environment.get(match[1], ""), text.strip("\"'"))


def _ends(code: int, output: str) -> Behaviour:
    return Behaviour(run="exit", exit_code=code, output=output)


_SCRIPTS = {
    "exit0": _ends(0, "starting\ndone\n"),
    "crashloop": _ends(1, "starting\nboom\n"),
    "oom": Behaviour(run="exit", exit_code=137, reason="OOMKilled", output="starting\n"),
    "noconfig": Behaviour(run="config_error", message='secret "missing" not found'),
    "nopull": Behaviour(pull="never"),
    "slowpull": Behaviour(pull="slow", output="starting\n"),
    "latepull": Behaviour(pull="late", output="starting\n"),
    "notready": Behaviour(run="not_ready", output="starting\n"),
    "unready": Behaviour(run="unready", output="starting\nready\nno longer ready\n"),
}


def _no_start(program: str) -> Behaviour:
    message = (
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
        f'unable to start container process: exec: "{program}": stat {program}: no such file or directory: unknown'
    )
    return Behaviour(run="start_error", exit_code=128, reason="StartError", message=message)


def _invalid_name(image: str) -> str:
    path = image.partition(":")[0]
    if path != path.lower():
        full = path if "/" in path else f"library/{path}"
        problem = f"invalid reference format: repository name ({full}) must be lowercase"
    else:
        problem = "invalid reference format"
    return f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": {problem}'


def full_name(image: str) -> str:
    """The image's full name, as the runtime reports it."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        named = image
    else:
        named = f"docker.io/{image}" if slash else f"docker.io/library/{image}"
    tagged = "@" in named or ":" in named.rpartition("/")[2]
    return named if tagged else f"{named}:latest"


def pull_error(image: str) -> str:
    full = full_name(image)
    registry, _, rest = full.partition("/")
    path, _, tag = rest.rpartition(":")
    return (
        f'failed to pull and unpack image "{full}": failed to resolve reference "{full}": failed to do request: '
        f'Head "https://{registry}/v2/{path}/manifests/{tag}": dial tcp: lookup {registry.partition(":")[0]}: '
        "no such host"
    )


CREATING = {"waiting": {"reason": "ContainerCreating"}}
INITIALIZING = {"waiting": {"reason": "PodInitializing"}}
UNKNOWN = {
    "terminated": {
        "exitCode": 137,
        "reason": "ContainerStatusUnknown",
        "message": "The container could not be located when the pod was terminated",
        "startedAt": None,
        "finishedAt": None,
    }
}


@dataclass(slots=True, kw_only=True)
class ContainerRun:
    """The state of one container of a pod on a node."""

    spec: Json
    script: Behaviour
    init: bool = False
    state: Json = field(default_factory=lambda: CREATING)
    last: Json = field(default_factory=dict)
    ready: bool = False
    restarts: int = 0
    id: str = ""
    started_at: str = ""

    @property
    def name(self) -> str:
        name: str = self.spec["name"]
        return name

    @property
    def ended(self) -> bool:
        """Whether the container has terminated and will not be restarted."""
        return "terminated" in self.state

    def status(self) -> Json:
        image = self.spec["image"]
        entry: Json = {
            "name": self.name,
            "state": self.state,
            "lastState": self.last,
            "ready": self.ready,
            "restartCount": self.restarts,
            "image": full_name(image) if self.id else image,
            "imageID": f"sha256:{hashlib.sha256(image.encode()).hexdigest()}" if self.id else "",
        }
        return entry | ({"containerID": self.id} if self.id else {}) | {"started": "running" in self.state}


@dataclass(slots=True, kw_only=True)
class PodRun:
    """The state of one pod on a node."""

    key: Key
    node: str
    containers: list[ContainerRun]
    inits: list[ContainerRun]
    phase: str = "Pending"
    sandbox: bool = False
    address: str = ""
    stopping: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def all(self) -> list[ContainerRun]:
        """The init containers, then the others."""
        return [*self.inits, *self.containers]

    @property
    def ended(self) -> bool:
        """Whether every container has ended for good."""
        return all(container.ended for container in self.containers)

    @property
    def outcome(self) -> str:
        """The phase of a pod that has ended."""
        failed = any(container.state["terminated"]["exitCode"] for container in self.containers)
        return "Failed" if failed else "Succeeded"


def report(run: PodRun, pod: Json, host: str, now: str) -> Json:
    old = pod["status"]
    generation = pod["metadata"]["generation"]
    status: Json = {"observedGeneration": generation, "phase": run.phase}
    status["conditions"] = _conditions(run, old.get("conditions", []), generation, now)
    status |= {"hostIP": host, "hostIPs": [{"ip": host}]}
    if run.address:
        status |= {"podIP": run.address, "podIPs": [{"ip": run.address}]}
    status["startTime"] = old.get("startTime", now)
    if run.inits:
        status["initContainerStatuses"] = [container.status() for container in run.inits]
    status["containerStatuses"] = [container.status() for container in run.containers]
    status["qosClass"] = old["qosClass"]
    return status


def _conditions(run: PodRun, old: list[Json], generation: int, now: str) -> list[Json]:
    initialized = all(container.ended or "running" in container.state for container in run.inits)
    unlocated = any(container.state is UNKNOWN for container in run.containers)
    reason = message = ""
    if run.ended and not unlocated:
        reason = "PodFailed" if run.outcome == "Failed" else "PodCompleted"
    elif unready := [container.name for container in run.containers if not container.ready]:
        reason, message = "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    done = "PodCompleted" if reason == "PodCompleted" else ""
    before = {condition["type"]: condition for condition in old}
    wanted = (
        ("PodReadyToStartContainers", run.sandbox, "", ""),
        ("Initialized", initialized, done or ("" if initialized else "ContainersNotInitialized"), ""),
        ("Ready", not reason, reason, message),
        ("ContainersReady", not reason, reason, message),
        ("PodScheduled", True, "", ""),
    )
    fresh: dict[str, Json] = {}
    for kind, holds, why, text in wanted:
        same = before.get(kind, {}).get("status") == str(holds)
        since = before[kind]["lastTransitionTime"] if same else now
        fresh[kind] = pod_condition(kind, holds=holds, since=since, generation=generation, reason=why, message=text)
    return list((fresh | {kind: one for kind, one in before.items() if kind not in fresh}).values())

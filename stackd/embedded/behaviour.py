"""What a container does, read off its image's name (and the simplest of commands). Pure.

The last part of the image, without tag, is the script: `…/fail`, `…/fail-N`, `…/exit0`, `…/nopull`, `…/slowpull`,
`…/latepull`, `…/badname`, `…/oom`, `…/nostart`, `…/noconfig`, `…/crashloop`, `…/notready`, `…/unready`; all others run.
Images of a registry under `.invalid` cannot be pulled, as in the real world.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from stackd.embedded.resources import Json

_DOMAIN = r"(?:[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9-]+)*(?::[0-9]+)?/)?"
_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(rf"{_DOMAIN}{_PATH}(?:/{_PATH})*(?::\w[\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?")
_ECHO = re.compile(r"echo ([^;&|>]*?)\s*(?:>&2\s*)?(?:;|&&|$)")
_EXIT = re.compile(r"exit ([0-9]+)\s*$")
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_DOUBLING = re.compile(r"(\w+)=\$\1\$\1")

IN_NO_IMAGE = ("/does/not/exist", "/stackd-prepull")
"""Programs that no image has: a container whose image was pulled does not start."""

Pull = Literal["ok", "never", "slow", "late", "invalid"]
Run = Literal["on", "exit", "start_error", "config_error", "not_ready", "unready"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """One container's script."""

    pull: Pull = "ok"
    run: Run = "on"
    exit_code: int = 0
    reason: str = ""
    """Of the end, where it is not simply Completed or Error."""
    message: str = ""
    """What comes with a start or configuration error, or with an image that has no name."""
    output: str = ""


def behaviour(container: Json) -> Behaviour:
    """The script of a container of a pod's spec."""
    image = container["image"]
    last = image.split("@")[0].rpartition("/")[2].partition(":")[0]
    if last == "badname" or not _REFERENCE.fullmatch(image):
        return Behaviour(pull="invalid", message=_invalid_name(image))
    if _registry(image).endswith(".invalid"):
        return Behaviour(pull="never")
    program = (container.get("command") or [""])[0]
    scripted = _by_image(last, container)
    if program.startswith(IN_NO_IMAGE) and (scripted is None or scripted.pull != "never"):
        return replace(_no_start(program), pull=scripted.pull if scripted else "ok")
    if scripted:
        return scripted
    return _by_command([*container.get("command", ()), *container.get("args", ())], container)


def _by_image(last: str, container: Json) -> Behaviour | None:
    if match := re.fullmatch(r"fail(?:-([0-9]+))?", last):
        return _ends(int(match[1] or 1), "starting\nboom\n")
    match last:
        case "exit0":
            return _ends(0, "starting\ndone\n")
        case "crashloop":
            return _ends(1, "starting\nboom\n")
        case "oom":
            return Behaviour(run="exit", exit_code=137, reason="OOMKilled", output="starting\n")
        case "nostart":
            return _no_start((container.get("command") or ["/does/not/exist"])[0])
        case "noconfig":
            return Behaviour(run="config_error", message='secret "missing" not found')
        case "nopull":
            return Behaviour(pull="never")
        case "slowpull":
            return Behaviour(pull="slow", output="starting\n")
        case "latepull":
            return Behaviour(pull="late", output="starting\n")
        case "notready":
            return Behaviour(run="not_ready", output="starting\n")
        case "unready":
            return Behaviour(run="unready", output="starting\nready\nno longer ready\n")
    return None


def _by_command(command: list[str], container: Json) -> Behaviour:
    if not command:
        return Behaviour(output="starting\nready\n")
    program, script = command[0], command[-1]
    said = [_expanded(text, container) for text in _ECHO.findall(script)] if len(command) > 2 else []
    output = "".join(f"{text}\n" for text in said)
    if program in {"/bin/true", "true", "/bin/false", "false"}:
        return _ends(int(program.endswith("false")), output)
    if len(command) > 2 and _DOUBLING.search(script):
        return Behaviour(run="exit", exit_code=137, reason="OOMKilled", output=output)
    if len(command) > 2 and (match := _EXIT.search(script)):
        return _ends(int(match[1]), output)
    return Behaviour(output=output or "starting\nready\n")


def _expanded(text: str, container: Json) -> str:
    """As a shell says it: with the values of the container's environment, in which ``$$`` is a ``$``."""
    environment = {one["name"]: one.get("value", "").replace("$$", "$") for one in container.get("env", ())}
    return _VARIABLE.sub(lambda match: environment.get(match[1], ""), text.strip("\"'"))


def _ends(code: int, output: str) -> Behaviour:
    return Behaviour(run="exit", exit_code=code, output=output)


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


def _registry(image: str) -> str:
    first, slash, _ = image.partition("/")
    return first.partition(":")[0] if slash and ("." in first or ":" in first) else "docker.io"


def full_name(image: str) -> str:
    """As the runtime reports a pulled image."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        named = image
    else:
        named = f"docker.io/{image}" if slash else f"docker.io/library/{image}"
    tagged = "@" in named or ":" in named.rpartition("/")[2]
    return named if tagged else f"{named}:latest"


def pull_error(image: str) -> str:
    """What a failed pull says."""
    full = full_name(image)
    registry, _, rest = full.partition("/")
    path, _, tag = rest.rpartition(":")
    return (
        f'failed to pull and unpack image "{full}": failed to resolve reference "{full}": failed to do request: '
        f'Head "https://{registry}/v2/{path}/manifests/{tag}": dial tcp: lookup {registry.partition(":")[0]}: '
        "no such host"
    )

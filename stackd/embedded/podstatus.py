"""The status of a pod as its kubelet reports it, from what its containers are doing. Pure; the time is given."""

from __future__ import annotations

import hashlib

from stackd.embedded.behaviour import Behaviour, full_name
from stackd.embedded.needs import pod_amounts, rendered
from stackd.embedded.resources import Json

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


class ContainerRun:
    """One container of a pod on a node."""

    def __init__(self, spec: Json, script: Behaviour, *, init: bool = False) -> None:
        self.spec = spec
        self.script = script
        self.init = init
        self.state: Json = CREATING
        self.last: Json = {}
        self.ready = False
        self.restarts = 0
        self.pulls = 0
        self.id = ""
        self.started_at = ""

    @property
    def name(self) -> str:
        """Of the container."""
        name: str = self.spec["name"]
        return name

    @property
    def ended(self) -> bool:
        """Whether it has terminated and is not about to be restarted."""
        return "terminated" in self.state

    @property
    def exit_code(self) -> int:
        """Of a container that has ended."""
        code: int = self.state["terminated"]["exitCode"]
        return code

    def status(self) -> Json:
        """Its entry in containerStatuses."""
        created = bool(self.id)
        image = self.spec["image"]
        entry: Json = {
            "name": self.name,
            "state": self.state,
            "lastState": self.last,
            "ready": self.ready,
            "restartCount": self.restarts,
            "image": full_name(image) if created else image,
            "imageID": f"sha256:{hashlib.sha256(image.encode()).hexdigest()}" if created else "",
        }
        if created:
            entry["containerID"] = self.id
        entry["started"] = "running" in self.state
        if created and (resources := self.spec["resources"]):
            if requests := resources.get("requests"):
                entry["allocatedResources"] = requests
            entry["resources"] = resources
        return entry


class PodRun:
    """One pod on a node."""

    def __init__(self, uid: str, containers: list[ContainerRun], inits: list[ContainerRun]) -> None:
        self.uid = uid
        self.containers = containers
        self.inits = inits
        self.phase = "Pending"
        self.sandbox = False
        self.address = ""
        self.trimmed = False
        """Whether the resources are given back, as shown some time after the end."""
        self.stopping = False

    @property
    def ended(self) -> bool:
        """Whether every container has ended for good."""
        return all(container.ended for container in self.containers)

    @property
    def outcome(self) -> str:
        """The phase of a pod that has ended."""
        return "Failed" if any(container.exit_code for container in self.containers) else "Succeeded"


def report(run: PodRun, pod: Json, host: str, now: str) -> Json:
    """The whole status."""
    old, spec = pod["status"], pod["spec"]
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
    return status | _resources(spec, trimmed=run.trimmed)


def _resources(spec: Json, *, trimmed: bool) -> Json:
    requests, limits = rendered(pod_amounts(spec, "requests")), rendered(pod_amounts(spec, "limits"))
    shown: Json = {"allocatedResources": requests} if requests else {}
    if trimmed:
        left = {"memory": requests["memory"]} if "memory" in requests else {}
        return shown | {"resources": {"requests": left} if left else {}}
    parts = {"limits": limits, "requests": requests}
    resources = {name: part for name, part in parts.items() if part}
    return shown | ({"resources": resources} if resources else {})


def _conditions(run: PodRun, old: list[Json], generation: int, now: str) -> list[Json]:
    initialized = all(container.ended or "running" in container.state for container in run.inits)
    reason, message = _unready(run)
    done = run.ended and run.outcome == "Succeeded" and not _unlocated(run)
    ready = (reason == "", reason, message)
    wanted: list[tuple[str, bool, str, str]] = [
        ("PodReadyToStartContainers", run.sandbox, "", ""),
        ("Initialized", initialized, "PodCompleted" if done else "" if initialized else "ContainersNotInitialized", ""),
        ("Ready", *ready),
        ("ContainersReady", *ready),
        ("PodScheduled", True, "", ""),
    ]
    known = {condition["type"]: condition for condition in old}
    fresh = [_condition(known.get(want[0], {}), want, generation, now) for want in wanted]
    names = {condition["type"] for condition in fresh}
    return fresh + [condition for condition in old if condition["type"] not in names]


def _condition(old: Json, want: tuple[str, bool, str, str], generation: int, now: str) -> Json:
    kind, holds, reason, message = want
    status = str(holds)
    same = old.get("status") == status
    condition: Json = {"type": kind, "observedGeneration": generation, "status": status, "lastProbeTime": None}
    condition["lastTransitionTime"] = old["lastTransitionTime"] if same else now
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def _unready(run: PodRun) -> tuple[str, str]:
    if run.ended and not _unlocated(run):
        return ("PodFailed" if run.outcome == "Failed" else "PodCompleted"), ""
    unready = [container.name for container in run.containers if not container.ready]
    return ("ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]") if unready else ("", "")


def _unlocated(run: PodRun) -> bool:
    return any(container.state is UNKNOWN for container in run.containers)

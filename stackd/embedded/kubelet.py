"""Runs the pods that are bound to nodes: containers start, fail, end and stop as their images' names say.

One kubelet serves all nodes that are Ready and have allocatable resources; other nodes run nothing. Each node pulls its
missing images one after the other.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from stackd.embedded.deletion import Deletion
from stackd.embedded.nodes import EventRecorder, address_of, is_ready, is_terminal
from stackd.embedded.podstatus import (
    CREATING,
    INITIALIZING,
    UNKNOWN,
    ContainerRun,
    PodRun,
    behaviour,
    pull_error,
    report,
)
from stackd.embedded.resources import CONFIG_MAPS, NODES, PODS, SECRETS, Json, Resource
from stackd.embedded.schema import is_sidecar
from stackd.embedded.store import Key, ObjectChange, ObjectStore, Record, timestamp

if TYPE_CHECKING:
    from stackd.embedded.cluster import EmbeddedOptions

_NO_TIME = "1970-01-01T00:00:00Z"
_SHIFT_LIMIT = 5


class Kubelet:
    """Follows pods and nodes, and writes pod status."""

    def __init__(self, store: ObjectStore, events: EventRecorder, deletion: Deletion, options: EmbeddedOptions) -> None:
        self._store = store
        self._events = events
        self._deletion = deletion
        self._options = options
        self._runs: dict[Key, PodRun] = {}
        self._addresses = 1
        self._pulled: set[tuple[str, str]] = set()
        self._complete: dict[tuple[str, str], float] = {}
        self._free: dict[str, float] = {}
        self._delayed: list[Callable[[], None]] | None = None
        store.observe(self._follow)

    def adopt(self) -> None:
        """Continue with the pods that the store already holds."""
        for pod in list(self._store.of(PODS).records.values()):
            self._addresses += 1
            self._see(pod)

    def hold_starts(self) -> None:
        """Keep pods that are not running yet from starting, until `let_start`."""
        if self._delayed is None:
            self._delayed = []

    def let_start(self) -> None:
        """Start the pods that `hold_starts` has kept."""
        launches, self._delayed = self._delayed or (), None
        for launch in launches:
            launch()

    def output(self, pod: Json, container: str) -> str:
        """The output of a container that was started."""
        specs = [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
        return behaviour(next(spec for spec in specs if spec["name"] == container)).output

    def _follow(self, change: ObjectChange) -> None:
        resource = change.after.resource
        if resource is PODS:
            if change.type == "DELETED":
                self._runs.pop(change.after.key, None)
            elif change.before is None or change.before.obj["status"] is change.after.obj["status"] or _newly(change):
                self._see(change.after)
        elif resource is NODES and change.type != "DELETED":
            self._store.clock.later(0, lambda: self._see_node(change.after.key[1]))

    def _see_node(self, name: str) -> None:
        for pod in list(self._store.of(PODS).records.values()):
            if pod.obj["spec"].get("nodeName") == name:
                self._see(pod)

    def _see(self, pod: Record) -> None:
        if self._host(pod.obj) is None:
            return
        run = self._runs.get(pod.key)
        if run is not None and run.uid != pod.uid:
            run = None
        if "deletionTimestamp" in pod.obj["metadata"]:
            self._stop(pod, run)
        elif run is None and not is_terminal(pod.obj):
            run = self._runs[pod.key] = _new_run(pod)
            if pod.obj["status"].get("startTime"):
                self._resume(pod, run)
            else:
                self._after(0, pod, run, self._admit)

    def _host(self, pod: Json) -> str | None:
        node = self._store.of(NODES).records.get(("", pod["spec"].get("nodeName", "")))
        if node is None or not node.obj["status"].get("allocatable") or not is_ready(node.obj):
            return None
        return address_of(node.obj) or "10.200.0.1"

    def _after(
        self,
        seconds: float,
        pod: Record,
        run: PodRun,
        step: Callable[..., None],
        *about: ContainerRun,
        stop: bool = False,
    ) -> None:
        """Do the step later, unless the pod is gone by then or being stopped; a step of ``stop`` only in that case."""

        def act() -> None:
            current = self._store.of(PODS).records.get(pod.key)
            if current is None or self._runs.get(pod.key) is not run:
                return
            if self._host(current.obj) is None:
                del self._runs[pod.key]
            elif run.stopping is stop:
                step(current, run, *about)

        self._store.clock.later(seconds, act)

    def _write(self, pod: Record, run: PodRun) -> Record:
        now = timestamp(self._store.clock.now())
        return self._store.update(pod, status=report(run, pod.obj, self._host(pod.obj) or "", now))

    def _admit(self, pod: Record, run: PodRun) -> None:
        for one in run.containers if run.inits else ():
            one.state = INITIALIZING
        self._write(pod, run)
        self._after(self._options.start_delay / 2, pod, run, self._make_sandbox)

    def _make_sandbox(self, pod: Record, run: PodRun) -> None:
        if problem := _missing_mount(self._store, pod.obj):
            self._events.kubelet(pod, "Warning", "FailedMount", problem)
            self._after(self._options.backoff, pod, run, self._make_sandbox)
            return
        run.sandbox = True
        self._write(pod, run)
        self._after(self._options.start_delay / 2, pod, run, self._launch_all)

    def _launch_all(self, pod: Record, run: PodRun) -> None:
        if self._delayed is not None:
            self._delayed.append(lambda: self._after(0, pod, run, self._launch_all))
            return
        self._addresses = self._addresses % 65_000 + 1
        run.address = f"10.244.{self._addresses >> 8}.{self._addresses & 255}"
        for one in [*run.inits, *run.containers]:
            self._launch(pod, run, one)
        self._settle(pod, run)

    def _launch(self, pod: Record, run: PodRun, one: ContainerRun) -> None:
        name, image, script = one.name, one.spec["image"], one.script
        if script.pull == "invalid":
            one.state = {"waiting": {"reason": "InvalidImageName", "message": script.message}}
            self._events.kubelet(pod, "Warning", "Failed", "Error: InvalidImageName", name)
            return
        wait = self._pull_seconds(pod.obj["spec"]["nodeName"], image) if script.pull == "ok" else 0.0
        present = not wait and self._is_present(pod, one)
        if script.pull == "slow" and not one.pulls and not present:
            wait = self._options.slow_pull
        reported = script.pull == "ok" and one.pulls
        if not reported and (not present or one.spec["imagePullPolicy"] == "Always"):
            self._events.kubelet(pod, "Normal", "Pulling", f'Pulling image "{image}"', name)
        if wait:
            one.state, one.pulls = CREATING, 1
            self._after(wait, pod, run, self._relaunch, one)
        elif not present and (script.pull == "never" or (script.pull == "late" and one.pulls < 2)):
            self._fail_pull(pod, run, one)
        else:
            self._create(pod, run, one)

    def _pull_seconds(self, node: str, image: str) -> float:
        """Seconds until the node has the image; 0 if it has it. Begins a pull if necessary, after those under way."""
        if not self._options.pull:
            return 0.0
        now = self._store.clock.now()
        if (node, image) not in self._complete:
            end = max(now, self._free.get(node, now)) + self._options.pull
            self._free[node] = self._complete[node, image] = end
        return max(0.0, self._complete[node, image] - now)

    def _is_present(self, pod: Record, one: ContainerRun) -> bool:
        """Whether the node has the image: it has all but those whose script says otherwise, until they are pulled."""
        return one.script.pull == "ok" or (pod.obj["spec"]["nodeName"], one.spec["image"]) in self._pulled

    def _relaunch(self, pod: Record, run: PodRun, one: ContainerRun) -> None:
        self._launch(pod, run, one)
        self._settle(pod, run)

    def _fail_pull(self, pod: Record, run: PodRun, one: ContainerRun) -> None:
        image, error = one.spec["image"], pull_error(one.spec["image"])
        self._events.kubelet(pod, "Warning", "Failed", f'Failed to pull image "{image}": {error}', one.name)
        self._events.kubelet(pod, "Warning", "Failed", "Error: ErrImagePull", one.name)
        one.pulls += 1
        if one.pulls == 1:
            one.state = {"waiting": {"reason": "ErrImagePull", "message": error}}
            self._after(self._options.backoff, pod, run, self._back_off_pull, one)
        else:
            message = f'Back-off pulling image "{image}": ErrImagePull: {error}'
            one.state = {"waiting": {"reason": "ImagePullBackOff", "message": message}}
            if one.script.pull == "late":
                self._after(self._options.backoff, pod, run, self._relaunch, one)

    def _back_off_pull(self, pod: Record, run: PodRun, one: ContainerRun) -> None:
        message = f'Back-off pulling image "{one.spec["image"]}"'
        self._events.kubelet(pod, "Normal", "BackOff", message, one.name)
        self._events.kubelet(pod, "Warning", "Failed", "Error: ImagePullBackOff", one.name)
        self._relaunch(pod, run, one)

    def _create(self, pod: Record, run: PodRun, one: ContainerRun) -> None:
        name, image, script = one.name, one.spec["image"], one.script
        fresh = one.spec["imagePullPolicy"] == "Always" or (script.pull == "ok" and one.pulls)
        present = self._is_present(pod, one) and not fresh
        self._pulled.add((pod.obj["spec"]["nodeName"], image))
        pulled = f'Container image "{image}" already present on machine' if present else f'Pulled image "{image}"'
        self._events.kubelet(pod, "Normal", "Pulled", pulled, name)
        missing = _missing_reference(self._store, pod.key[0], one.spec)
        problem = missing or (script.message if script.run == "config_error" else "")
        if problem:
            one.state = {"waiting": {"reason": "CreateContainerConfigError", "message": problem}}
            self._events.kubelet(pod, "Warning", "Failed", f"Error: {problem}", name)
            if missing:
                self._after(self._options.backoff, pod, run, self._relaunch, one)
            return
        one.id = f"containerd://{uuid.uuid4().hex}{uuid.uuid4().hex}"
        self._events.kubelet(pod, "Normal", "Created", f"Created container: {name}", name)
        self._start(pod, run, one)

    def _start(self, pod: Record, run: PodRun, one: ContainerRun) -> None:
        one.started_at = timestamp(self._store.clock.now())
        if one.script.run == "start_error":
            self._events.kubelet(pod, "Warning", "Failed", f"Error: {one.script.message}", one.name)
            one.started_at = _NO_TIME
            self._end(pod, run, one)
            return
        self._events.kubelet(pod, "Normal", "Started", f"Started container {one.name}", one.name)
        if one.init and not is_sidecar(one.spec):
            one.ready = True
            one.state = self._terminated(one, 0, "Completed", "")
            return
        one.state = {"running": {"startedAt": one.started_at}}
        one.ready = one.script.run != "not_ready"
        if one.script.run == "exit":
            self._after(self._options.run_time, pod, run, self._exit, one)
        elif one.script.run == "unready":
            self._after(self._options.run_time, pod, run, self._lose_readiness, one)

    def _lose_readiness(self, pod: Record, run: PodRun, one: ContainerRun) -> None:
        one.ready = False
        self._events.kubelet(pod, "Warning", "Unhealthy", "Readiness probe failed: no longer ready", one.name)
        self._write(pod, run)

    def _exit(self, pod: Record, run: PodRun, one: ContainerRun) -> None:
        self._end(pod, run, one)
        self._settle(pod, run)

    def _end(self, pod: Record, run: PodRun, one: ContainerRun) -> None:
        script, policy = one.script, pod.obj["spec"]["restartPolicy"]
        reason = script.reason or ("Error" if script.exit_code else "Completed")
        message = script.message if script.run == "start_error" else ""
        one.ready, one.state = False, self._terminated(one, script.exit_code, reason, message)
        if policy == "Always" or (policy == "OnFailure" and script.exit_code):
            self._plan_restart(pod, run, one)

    def _plan_restart(self, pod: Record, run: PodRun, one: ContainerRun) -> None:
        one.last = one.state
        seconds = self._options.backoff * 2 ** min(max(one.restarts - 1, 0), _SHIFT_LIMIT)
        namespace, name = pod.key
        message = f"back-off {seconds:g}s restarting failed container={one.name} pod={name}_{namespace}({pod.uid})"
        one.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        if one.restarts == 0:
            seconds = min(seconds, self._options.run_time)
        else:
            backing_off = f"Back-off restarting failed container {one.name} in pod {name}_{namespace}({pod.uid})"
            self._events.kubelet(pod, "Warning", "BackOff", backing_off, one.name)
        self._after(seconds, pod, run, self._restart, one)

    def _restart(self, pod: Record, run: PodRun, one: ContainerRun) -> None:
        one.restarts += 1
        one.id = f"containerd://{uuid.uuid4().hex}{uuid.uuid4().hex}"
        self._start(pod, run, one)
        self._settle(pod, run)

    def _terminated(self, one: ContainerRun, code: int, reason: str, message: str) -> Json:
        end: Json = {"exitCode": code, "reason": reason}
        if message:
            end["message"] = message
        end |= {"startedAt": one.started_at, "finishedAt": timestamp(self._store.clock.now()), "containerID": one.id}
        return {"terminated": end}

    def _settle(self, pod: Record, run: PodRun) -> None:
        """Report the state of the containers. If all have ended, conclude the pod."""
        if any("running" in one.state for one in run.containers):
            run.phase = "Running"
        pod = self._write(pod, run)
        if run.ended:
            self._after(0, pod, run, self._conclude)

    def _conclude(self, pod: Record, run: PodRun) -> None:
        run.phase, run.sandbox = run.outcome, False
        self._write(pod, run)

    def _resume(self, pod: Record, run: PodRun) -> None:
        status = pod.obj["status"]
        run.phase, run.sandbox, run.address = status["phase"], True, status.get("podIP", "")
        if run.phase != "Running":
            run.sandbox = False
            self._after(self._options.start_delay / 2, pod, run, self._make_sandbox)
            return
        before = {one["name"]: one for one in status["containerStatuses"] + status.get("initContainerStatuses", [])}
        for one in [*run.inits, *run.containers]:
            was = before[one.name]
            one.state, one.last, one.ready = was["state"], was["lastState"], was["ready"]
            one.restarts, one.id = was["restartCount"], was.get("containerID", "")
            one.started_at = one.state.get("running", {}).get("startedAt", _NO_TIME)
            if "running" in one.state and one.script.run == "exit":
                self._after(self._options.run_time, pod, run, self._exit, one)
            elif "waiting" in one.state:
                self._after(self._options.backoff, pod, run, self._restart if one.id else self._relaunch, one)
        if run.ended:
            self._after(0, pod, run, self._conclude)

    def _stop(self, pod: Record, run: PodRun | None) -> None:
        if pod.obj["metadata"].get("deletionGracePeriodSeconds") == 0 and run is not None and run.stopping:
            return
        if run is None:
            run = self._runs[pod.key] = _new_run(pod)
        if not run.stopping:
            run.stopping = True
            self._after(0, pod, run, self._say_stopping, stop=True)

    def _say_stopping(self, pod: Record, run: PodRun) -> None:
        for one in run.containers:
            if "waiting" in one.state:
                one.state = CREATING
            elif "running" in one.state:
                self._events.kubelet(pod, "Normal", "Killing", f"Stopping container {one.name}", one.name)
        self._write(pod, run)
        self._after(self._options.stop_delay, pod, run, self._end_all, stop=True)

    def _end_all(self, pod: Record, run: PodRun) -> None:
        run.sandbox = False
        if any("running" in one.state for one in run.containers):
            for one in run.containers:
                if "running" in one.state:
                    one.ready, one.state = False, self._terminated(one, 0, "Completed", "")
        pod = self._write(pod, run)
        for one in run.containers:
            if not one.ended:
                one.ready, one.state = False, UNKNOWN
        run.phase = run.outcome
        self._deletion.finish(self._write(pod, run))


def _new_run(pod: Record) -> PodRun:
    spec = pod.obj["spec"]
    containers = [ContainerRun(spec=one, script=behaviour(one)) for one in spec["containers"]]
    inits = [ContainerRun(spec=one, script=behaviour(one), init=True) for one in spec.get("initContainers", ())]
    return PodRun(uid=pod.uid, containers=containers, inits=inits)


def _newly(change: ObjectChange) -> bool:
    """Whether the change binds the pod to a node."""
    return change.before is not None and "nodeName" not in change.before.obj["spec"]


_KINDS: dict[str, tuple[Resource, str]] = {
    "secretKeyRef": (SECRETS, "secret"),
    "secretRef": (SECRETS, "secret"),
    "configMapKeyRef": (CONFIG_MAPS, "configmap"),
    "configMapRef": (CONFIG_MAPS, "configmap"),
}


def _missing_reference(store: ObjectStore, namespace: str, container: Json) -> str:
    """The first missing reference of the container's environment, in the kubelet's words; empty if there is none."""
    sources = [variable.get("valueFrom") or {} for variable in container.get("env", ())]
    for source in [*sources, *container.get("envFrom", ())]:
        for kind in _KINDS.keys() & source.keys():
            (resource, word), reference = _KINDS[kind], source[kind]
            name = reference.get("name", "")
            record = store.of(resource).records.get((namespace, name))
            if reference.get("optional"):
                continue
            if record is None:
                return f'{word} "{name}" not found'
            keys = record.obj.get("data", {}) | record.obj.get("stringData", {})
            if "key" in reference and reference["key"] not in keys:
                return f"couldn't find key {reference['key']} in {kind[:-6].capitalize()} {namespace}/{name}"
    return ""


def _missing_mount(store: ObjectStore, pod: Json) -> str:
    """The first volume that cannot be mounted, in the kubelet's words; empty if all can."""
    namespace = pod["metadata"]["namespace"]
    for volume in pod["spec"].get("volumes", ()):
        for kind, field, resource in (("secret", "secretName", SECRETS), ("configMap", "name", CONFIG_MAPS)):
            source = volume.get(kind) or {"optional": True}
            name = source.get(field, "")
            if not source.get("optional") and (namespace, name) not in store.of(resource).records:
                return f'MountVolume.SetUp failed for volume "{volume["name"]}" : {kind.lower()} "{name}" not found'
    return ""

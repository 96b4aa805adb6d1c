"""Runs the pods that are bound to nodes: containers start, fail, end and stop as their images' names say.

One kubelet serves all nodes that are Ready and have allocatable resources; other nodes run nothing. Each pod has a task
while it runs, and another one while it stops. Each node pulls its missing images one after the other.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import NoReturn

from stackd.embedded.deletion import Deletion
from stackd.embedded.nodes import EventRecorder, address_of, is_ready, is_terminal
from stackd.embedded.options import EmbeddedOptions
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
from stackd.embedded.resources import CONFIG_MAPS, NODES, PODS, SECRETS, Json
from stackd.embedded.schema import containers, is_sidecar
from stackd.embedded.store import Key, ObjectChange, ObjectStore, Record, timestamp

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
        self._complete: dict[tuple[str, str], float] = {}
        self._free: dict[str, float] = {}
        self.may_start = asyncio.Event()
        """Pods that are not running yet start only while this is set."""
        self.may_start.set()
        store.observe(self._follow)

    def adopt(self) -> None:
        """Continue with the pods that the store already holds."""
        for pod in self._store.of(PODS).records.values():
            self._addresses += 1
            self._see(pod)

    def stop(self) -> None:
        for key in list(self._runs):
            self._forget(key)

    def _follow(self, change: ObjectChange) -> None:
        record = change.after
        if record.resource is NODES:
            for pod in self._store.of(PODS).records.values():
                if pod.obj["spec"].get("nodeName") == record.key[1]:
                    self._see(pod)
        elif record.resource is PODS and change.type == "DELETED":
            self._forget(record.key)
        elif record.resource is PODS:
            self._see(record)

    def _forget(self, key: Key) -> None:
        if (run := self._runs.pop(key, None)) is not None and run.task is not None:
            run.task.cancel()

    def _see(self, pod: Record) -> None:
        run = self._runs.get(pod.key)
        if not self._host(pod):
            self._forget(pod.key)
        elif "deletionTimestamp" in pod.obj["metadata"]:
            if run is None or not run.stopping:
                self._forget(pod.key)
                run = self._runs[pod.key] = run or _new_run(pod)
                run.stopping = True
                run.task = asyncio.create_task(self._stop(run), name="embedded pod")
        elif run is None and not is_terminal(pod.obj):
            run = self._runs[pod.key] = _new_run(pod)
            run.task = asyncio.create_task(self._run(run), name="embedded pod")

    def _host(self, pod: Record) -> str:
        """The address of the pod's node; empty if no node runs the pod."""
        node = self._store.of(NODES).records.get(("", pod.obj["spec"].get("nodeName", "")))
        if node is None or not node.obj["status"].get("allocatable") or not is_ready(node.obj):
            return ""
        return address_of(node.obj) or "10.200.0.1"

    async def _sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._store.clock.later(seconds, woken.set)
        await woken.wait()

    def _write(self, run: PodRun) -> Record:
        pod, now = self._pod(run), timestamp(self._store.clock.now())
        return self._store.update(pod, status=report(run, pod.obj, self._host(pod), now))

    def _event(self, run: PodRun, kind: str, reason: str, message: str, container: str = "") -> None:
        self._events.kubelet(self._pod(run), kind, reason, message, container)

    def _pod(self, run: PodRun) -> Record:
        """The record of the run's pod. If the run was forgotten, it ends: what was due comes before its cancellation."""
        if self._runs.get(run.key) is not run:
            raise asyncio.CancelledError
        return self._store.of(PODS).records[run.key]

    # ---- a pod from its binding to its end

    async def _run(self, run: PodRun) -> None:
        status = self._store.of(PODS).records[run.key].obj["status"]
        if status["phase"] == "Running":
            _resume(run, status)
        else:
            await self._start_pod(run)
        async with asyncio.TaskGroup() as group:
            for one in run.all:
                group.create_task(self._run_container(run, one))
        run.phase, run.sandbox = run.outcome, False
        self._write(run)

    async def _start_pod(self, run: PodRun) -> None:
        for one in run.containers if run.inits else ():
            one.state = INITIALIZING
        self._write(run)
        await self._sleep(self._options.start_delay / 2)
        run.sandbox = True
        self._write(run)
        await self._sleep(self._options.start_delay / 2)
        await self.may_start.wait()
        self._addresses = self._addresses % 65_000 + 1
        run.address = f"10.244.{self._addresses >> 8}.{self._addresses & 255}"

    async def _stop(self, run: PodRun) -> None:
        for one in run.containers:
            if "waiting" in one.state:
                one.state = CREATING
            elif "running" in one.state:
                self._event(run, "Normal", "Killing", f"Stopping container {one.name}", one.name)
        self._write(run)
        await self._sleep(self._options.stop_delay)
        run.sandbox = False
        for one in run.containers:
            if "running" in one.state:
                self._terminate(one, 0, "Completed", "")
        self._write(run)
        for one in run.containers:
            if not one.ended:
                one.ready, one.state = False, UNKNOWN
        run.phase = run.outcome
        self._deletion.finish(self._write(run))

    # ---- a container, with all its restarts

    async def _run_container(self, run: PodRun, one: ContainerRun) -> None:
        if not one.id and not one.ended:
            await self._pull(run, one)
            await self._configure(run, one)
            self._start(run, one)
        while True:
            if any("running" in other.state for other in run.containers):
                run.phase = "Running"
            self._write(run)
            if one.ended:
                return
            if "running" in one.state:
                await self._until_exit(run, one)
                self._end(run, one)
            else:
                await self._sleep(self._pause(one) if one.restarts else min(self._pause(one), self._options.run_time))
                one.restarts += 1
                self._start(run, one)

    async def _wait(self, run: PodRun, one: ContainerRun, reason: str, message: str, seconds: float | None) -> None:
        """Report that the container waits, for so many seconds, or for ever."""
        one.state = {"waiting": {"reason": reason, "message": message}}
        self._write(run)
        await (_for_ever() if seconds is None else self._sleep(seconds))

    async def _pull(self, run: PodRun, one: ContainerRun) -> None:
        image, script, always = one.spec["image"], one.script, one.spec["imagePullPolicy"] == "Always"
        if script.pull == "invalid":
            self._event(run, "Warning", "Failed", "Error: InvalidImageName", one.name)
            await self._wait(run, one, "InvalidImageName", script.message, None)
        seconds = self._pull_seconds(run, one)
        present = not seconds and script.pull in ("ok", "slow")
        if not present or always:
            self._event(run, "Normal", "Pulling", f'Pulling image "{image}"', one.name)
        if seconds:
            one.state = CREATING
            await self._sleep(seconds)
        elif not present:
            await self._fail_to_pull(run, one)
        pulled = f'Pulled image "{image}"'
        text = f'Container image "{image}" already present on machine' if present and not always else pulled
        self._event(run, "Normal", "Pulled", text, one.name)

    def _pull_seconds(self, run: PodRun, one: ContainerRun) -> float:
        """Seconds until the node has the image; 0 if it has it. Begins a pull if necessary, after those under way."""
        node, image, now = run.node, one.spec["image"], self._store.clock.now()
        seconds = {"ok": self._options.pull, "slow": self._options.slow_pull}.get(one.script.pull, 0.0)
        if not seconds:
            return 0.0
        if (node, image) not in self._complete:
            end = max(now, self._free.get(node, now)) + seconds
            self._free[node] = self._complete[node, image] = end
        return max(0.0, self._complete[node, image] - now)

    async def _fail_to_pull(self, run: PodRun, one: ContainerRun) -> None:
        """Two pulls that fail. Returns when the image can be pulled, if it ever can be."""
        image, backoff, event = one.spec["image"], self._options.backoff, self._event
        error, back_off = pull_error(image), f'Back-off pulling image "{image}"'
        event(run, "Warning", "Failed", f'Failed to pull image "{image}": {error}', one.name)
        event(run, "Warning", "Failed", "Error: ErrImagePull", one.name)
        await self._wait(run, one, "ErrImagePull", error, backoff)
        event(run, "Normal", "BackOff", back_off, one.name)
        event(run, "Warning", "Failed", "Error: ImagePullBackOff", one.name)
        event(run, "Normal", "Pulling", f'Pulling image "{image}"', one.name)
        event(run, "Warning", "Failed", f'Failed to pull image "{image}": {error}', one.name)
        event(run, "Warning", "Failed", "Error: ErrImagePull", one.name)
        message = f"{back_off}: ErrImagePull: {error}"
        await self._wait(run, one, "ImagePullBackOff", message, backoff if one.script.pull == "late" else None)
        event(run, "Normal", "Pulling", f'Pulling image "{image}"', one.name)

    async def _configure(self, run: PodRun, one: ContainerRun) -> None:
        problem = one.script.message if one.script.run == "config_error" else ""
        while problem or (missing := _missing_reference(self._store, run.key[0], one.spec)):
            self._event(run, "Warning", "Failed", f"Error: {problem or missing}", one.name)
            seconds = None if problem else self._options.backoff
            await self._wait(run, one, "CreateContainerConfigError", problem or missing, seconds)
        self._event(run, "Normal", "Created", f"Created container: {one.name}", one.name)

    def _start(self, run: PodRun, one: ContainerRun) -> None:
        one.id = f"containerd://{uuid.uuid4().hex}{uuid.uuid4().hex}"
        one.started_at = timestamp(self._store.clock.now())
        if one.script.run == "start_error":
            self._event(run, "Warning", "Failed", f"Error: {one.script.message}", one.name)
            one.started_at = _NO_TIME
            self._end(run, one)
            return
        self._event(run, "Normal", "Started", f"Started container {one.name}", one.name)
        one.state = {"running": {"startedAt": one.started_at}}
        one.ready = one.script.run != "not_ready"
        if one.init and not is_sidecar(one.spec):
            self._terminate(one, 0, "Completed", "")
            one.ready = True

    async def _until_exit(self, run: PodRun, one: ContainerRun) -> None:
        """Return when the container exits, if it ever does. It loses its readiness on the way, if its script says so."""
        if one.script.run not in ("exit", "unready"):
            await _for_ever()
        await self._sleep(self._options.run_time)
        if one.script.run == "unready":
            one.ready = False
            self._event(run, "Warning", "Unhealthy", "Readiness probe failed: no longer ready", one.name)
            self._write(run)
            await _for_ever()

    def _end(self, run: PodRun, one: ContainerRun) -> None:
        script, name = one.script, one.name
        reason = script.reason or ("Error" if script.exit_code else "Completed")
        self._terminate(one, script.exit_code, reason, script.message if script.run == "start_error" else "")
        pod = self._pod(run)
        policy = pod.obj["spec"]["restartPolicy"]
        if policy == "Always" or (policy == "OnFailure" and script.exit_code):
            one.last, where = one.state, f"{pod.key[1]}_{pod.key[0]}({pod.uid})"
            message = f"back-off {self._pause(one):g}s restarting failed container={name} pod={where}"
            one.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
            if one.restarts:
                text = f"Back-off restarting failed container {name} in pod {where}"
                self._event(run, "Warning", "BackOff", text, name)

    def _pause(self, one: ContainerRun) -> float:
        pause: float = self._options.backoff * 2 ** min(max(one.restarts - 1, 0), _SHIFT_LIMIT)
        return pause

    def _terminate(self, one: ContainerRun, code: int, reason: str, message: str) -> None:
        end: Json = {"exitCode": code, "reason": reason} | ({"message": message} if message else {})
        end |= {"startedAt": one.started_at, "finishedAt": timestamp(self._store.clock.now()), "containerID": one.id}
        one.ready, one.state = False, {"terminated": end}


async def _for_ever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nothing completes the future")


def _new_run(pod: Record) -> PodRun:
    spec = pod.obj["spec"]
    inits = [ContainerRun(spec=one, script=behaviour(one), init=True) for one in spec.get("initContainers", ())]
    mains = [ContainerRun(spec=one, script=behaviour(one)) for one in spec["containers"]]
    return PodRun(key=pod.key, node=spec["nodeName"], containers=mains, inits=inits)


def _resume(run: PodRun, status: Json) -> None:
    """Continue where the status says that the pod is."""
    run.phase, run.sandbox, run.address = status["phase"], True, status.get("podIP", "")
    before = {one["name"]: one for one in status["containerStatuses"] + status.get("initContainerStatuses", [])}
    for one in run.all:
        was = before[one.name]
        one.state, one.last, one.ready = was["state"], was["lastState"], was["ready"]
        one.restarts, one.id = was["restartCount"], was.get("containerID", "")
        one.started_at = one.state.get("running", {}).get("startedAt", _NO_TIME)


def output(pod: Json, container: str) -> str:
    """The output of a container that was started."""
    return behaviour(next(spec for spec in containers(pod["spec"]) if spec["name"] == container)).output


_REFERENCES = {
    "secretKeyRef": SECRETS,
    "secretRef": SECRETS,
    "configMapKeyRef": CONFIG_MAPS,
    "configMapRef": CONFIG_MAPS,
}


def _missing_reference(store: ObjectStore, namespace: str, container: Json) -> str:
    """The first missing reference of the container's environment, in the kubelet's words; empty if there is none."""
    sources = [variable.get("valueFrom") or {} for variable in container.get("env", ())]
    for source in [*sources, *container.get("envFrom", ())]:
        for kind in _REFERENCES.keys() & source.keys():
            resource, reference = _REFERENCES[kind], source[kind]
            name = reference.get("name", "")
            if (namespace, name) not in store.of(resource).records and not reference.get("optional"):
                return f'{resource.kind.lower()} "{name}" not found'
    return ""

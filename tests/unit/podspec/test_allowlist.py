"""What is accepted and what is refused by default, field by field."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from stackd.podspec import Policy
from stackd.podspec.fields import MODELS, WHY, FieldKind, Use
from tests.unit.podspec.models import POD, ModelField, fields_of
from tests.unit.podspec.specs import admit, container, manifest, metadata, reasons, seed, spec, with_init, with_volume

SECRET = "flag{not-to-be-shown}"


def model_fields(*path: str) -> dict[str, ModelField]:
    fields = dict(fields_of(POD))
    for name in path:
        model = fields[name].model
        assert model is not None
        fields = dict(fields_of(model))
    return fields


def sample(field: ModelField) -> Any:
    """A value of the field's type."""
    return {
        FieldKind.STRING: "a",
        FieldKind.INTEGER: 1,
        FieldKind.BOOLEAN: False,
        FieldKind.INTEGER_OR_STRING: 1,
        FieldKind.STRINGS: ["a"],
        FieldKind.STRING_MAP: {"a": "b"},
        FieldKind.OBJECT: {},
        FieldKind.OBJECTS: [{}],
        FieldKind.OTHER: "a",
    }[field.kind]


NEVER = [
    (path, name)
    for model, path in (("PodSpec", "spec"), ("Container", "spec.containers"), ("ObjectMeta", "metadata"))
    for name in model_fields(*path.split("."))
    if MODELS[model][name].use is Use.NEVER
]


@pytest.mark.parametrize(("path", "name"), NEVER)
def test_a_field_that_is_not_listed_is_refused_whatever_its_value(path: str, name: str) -> None:
    put = {"spec": spec, "spec.containers": container, "metadata": metadata}[path]
    (reason,) = reasons(put(**{name: sample(model_fields(*path.split("."))[name])}))
    assert reason.startswith(f"{path}{'[0]' if put is container else ''}.{name}: ")


@pytest.mark.parametrize("kind", sorted(set(model_fields("spec", "volumes")) - {"name", "emptyDir", "downwardAPI"}))
def test_only_empty_dirs_and_the_downward_api_are_volumes_by_default(kind: str) -> None:
    sources: dict[str, Any] = {"projected": {"sources": [{"secret": {"name": "s"}}, {"serviceAccountToken": {}}]}}
    refused = reasons(with_volume({kind: sources.get(kind, {})}))
    assert refused
    assert all(reason.startswith(f"spec.volumes[0].{kind}") for reason in refused)
    accepted = MODELS["Volume"][kind].use is not Use.NEVER or f"Volume.{kind}" in WHY
    assert accepted or "not accepted" in refused[0]


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        (container(imagePulPolicy="Always"), 'imagePulPolicy: unknown field (did you mean "imagePullPolicy"?)'),
        (container(image_pull_policy="Always"), 'image_pull_policy: unknown field (did you mean "imagePullPolicy"?)'),
        (container(enviroment=[]), "spec.containers[0].enviroment: unknown field"),
        (metadata(lables={}), 'metadata.lables: unknown field (did you mean "labels"?)'),
        ({**seed(), "specs": {}}, 'specs: unknown field (did you mean "spec"?)'),
        (spec(**{"a b\n": 1}), 'spec["a b?"]: unknown field'),
        (container(typo=None), "spec.containers[0].typo: unknown field"),
    ],
)
def test_a_typo_is_refused_with_the_nearest_name(pod: Any, reason: str) -> None:
    (only,) = reasons(pod)
    assert reason in only


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        (container(command="sh"), "spec.containers[0].command: must be a list of strings, not a string"),
        (container(args=[None]), "spec.containers[0].args[0]: must be a string, not null"),
        (container(args=["a\0b"]), "spec.containers[0].args[0]: must not contain the character NUL"),
        (container(tty="yes"), "spec.containers[0].tty: must be true or false, not a string"),
        (container(env=[{"name": "A", "value": 1}]), "env[0].value: must be a string, not a number; put it in quotes"),
        (container(ports=[{"containerPort": 80.0}]), "ports[0].containerPort: must be an integer, not a number"),
        (container(resources={"limits": "1"}), "resources.limits: must be a mapping of quantities, not a string"),
        (container(resources={"limits": {"cpu": [], "memory": 1}}), "limits.cpu: must be a quantity, not a list"),
        (container(resources={"limits": {"cpu": "1 core", "memory": 1}}), "limits.cpu: not a quantity"),
        (spec(activeDeadlineSeconds=2**63), "spec.activeDeadlineSeconds: must fit into 64 bits"),
        (spec(nodeSelector=[]), "spec.nodeSelector: must be a mapping of strings, not a list"),
        (spec(containers=[None]), "spec.containers[0]: must be an object, not null"),
        (metadata(labels={"a": True}), "metadata.labels.a: must be a string, not true or false; put it in quotes"),
        ({**seed(), "metadata": "x"}, "metadata: must be an object, not a string"),
        (spec(terminationGracePeriodSeconds=True), "must be an integer, not true or false"),
        (container(resources={"limits": {"cpu": True, "memory": 1}}), "limits.cpu: must be a quantity"),
        (container(livenessProbe={"tcpSocket": {"port": []}}), "tcpSocket.port: must be an integer, not a list"),
        (container(env={"A": "b"}), "spec.containers[0].env: must be a list, not an object"),
    ],
)
def test_a_wrong_type_is_refused_once_and_by_path(pod: Any, reason: str) -> None:
    found = [text for text in reasons(pod) if not text.startswith("target_port")]
    assert len(found) == 1
    assert reason in found[0]


def env_from(source: dict[str, Any], **more: str) -> dict[str, Any]:
    return container(env=[{"name": "A", "valueFrom": source, **more}])


def downward(item: dict[str, Any]) -> dict[str, Any]:
    return with_volume({"downwardAPI": {"items": [item]}})


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        ({**seed(), "apiVersion": "apps/v1"}, "apiVersion: must be v1"),
        ({**seed(), "kind": "Deployment"}, "kind: must be Pod"),
        ({**seed(), "status": {"phase": "Running"}}, "status.phase: not accepted in a stack's pod"),
        (metadata(name="Challenge"), "metadata.name: must be at most 253 lower-case letters"),
        (metadata(labels={"app.kubernetes.io/name": "x"}), 'metadata.labels["app.kubernetes.io/name"]: keys with a'),
        (metadata(labels={"a": "b c"}), "metadata.labels.a: must be at most 63"),
        (metadata(labels={"-a": ""}), 'metadata.labels["-a"]: is not a valid key'),
        (metadata(labels={f"k{index}": "" for index in range(33)}), "metadata.labels: at most 32"),
        (spec(hostname="a.b"), "spec.hostname: must be"),
        (spec(terminationGracePeriodSeconds=-1), "spec.terminationGracePeriodSeconds: must be from 0 to 3600"),
        (spec(activeDeadlineSeconds=0), "spec.activeDeadlineSeconds: must be from 1"),
        (spec(restartPolicy="Sometimes"), "spec.restartPolicy: must be one of Never, OnFailure, Always"),
        (spec(nodeSelector={"a b": "c"}), 'spec.nodeSelector["a b"]: is not a valid label key'),
        (spec(nodeSelector={"a": "c d"}), "spec.nodeSelector.a: must be at most 63"),
        (container(name="App"), "spec.containers[0].name: must be at most 63 lower-case"),
        (container(name=None), "spec.containers[0].name: is required"),
        (container(image=""), "spec.containers[0].image: is required"),
        (container(image=" nginx"), "spec.containers[0].image: must be an image reference, without blanks"),
        (container(imagePullPolicy="Maybe"), "imagePullPolicy: must be one of Always, IfNotPresent, Never"),
        (container(restartPolicy="Always"), "spec.containers[0].restartPolicy: not accepted in a stack's pod"),
        (container(env=[{"name": "1A"}]), "spec.containers[0].env[0].name: must be letters"),
        (container(env=[{"value": "x"}]), "spec.containers[0].env[0].name: is required"),
        (env_from({}), "env[0].valueFrom: must have exactly one source"),
        (
            env_from({"fieldRef": {"fieldPath": "metadata.name"}}, value="x"),
            "env[0].valueFrom: must not be given together with value",
        ),
        (
            env_from({"fieldRef": {"fieldPath": "spec.containers"}}),
            "env[0].valueFrom.fieldRef.fieldPath: must be one of",
        ),
        (
            env_from({"resourceFieldRef": {"resource": "limits.gpu"}}),
            "resourceFieldRef.resource: must be limits or requests",
        ),
        (
            env_from({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1Mi"}}),
            "resourceFieldRef.divisor: must be 1m or 1",
        ),
        (container(envFrom=[{"prefix": "A"}]), "envFrom[0]: must have either configMapRef or secretRef"),
        (container(lifecycle={"preStop": {}}), "lifecycle.preStop: must have exactly one of exec"),
        (container(lifecycle={"preStop": {"sleep": {"seconds": -1}}}), "preStop.sleep.seconds: must be from 0"),
        (container(livenessProbe={}), "livenessProbe: must have exactly one of exec, httpGet, tcpSocket, grpc"),
        (container(livenessProbe={"exec": {}}), "livenessProbe.exec.command: is required"),
        (container(livenessProbe={"grpc": {"port": 0}}), "livenessProbe.grpc.port: must be from 1 to 65535"),
        (container(livenessProbe={"httpGet": {"path": "/"}}), "livenessProbe.httpGet.port: is required"),
        (container(livenessProbe={"httpGet": {"port": "80"}}), "livenessProbe.httpGet.port: must be a number, or"),
        (container(livenessProbe={"httpGet": {"port": 80, "scheme": "FTP"}}), "scheme: must be one of HTTP, HTTPS"),
        (container(readinessProbe={"tcpSocket": {"port": 80, "host": "10.0.0.1"}}), "readinessProbe.tcpSocket.host:"),
        (container(startupProbe={"tcpSocket": {"port": 80}, "successThreshold": 2}), "successThreshold: must be 1"),
        (container(livenessProbe={"tcpSocket": {"port": 80}, "periodSeconds": -1}), "periodSeconds: must be from 0"),
        (
            container(readinessProbe={"tcpSocket": {"port": 80}, "terminationGracePeriodSeconds": 1}),
            "readinessProbe.terminationGracePeriodSeconds: is not possible in a readinessProbe",
        ),
        (
            container(livenessProbe={"httpGet": {"port": 80, "httpHeaders": [{"name": "a b", "value": "x"}]}}),
            "httpHeaders[0].name: must be letters",
        ),
        (container(volumeMounts=[{"name": "v", "mountPath": "/v"}]), "volumeMounts[0].name: no volume has this name"),
        (container(securityContext={}), "spec.containers[0].securityContext: not accepted"),
        (container(securityContext={"privileged": True}), "securityContext.privileged: not accepted"),
        (
            container(securityContext={"seccompProfile": {"type": "Unconfined"}}),
            "spec.containers[0].securityContext.seccompProfile: not accepted",
        ),
        (container(securityContext={"readOnlyRootFilesystem": False}), "readOnlyRootFilesystem: not accepted"),
        (container(securityContext={"appArmorProfile": {"type": "Unconfined"}}), "appArmorProfile: not accepted"),
        (spec(hostUsers=True), "spec.hostUsers: a stack may not share the node's namespaces"),
        (spec(securityContext={}), "spec.securityContext: not accepted"),
        (spec(securityContext={"sysctls": []}), "spec.securityContext.sysctls: not accepted"),
        (with_volume({}), "spec.volumes[0]: must have exactly one source"),
        (with_volume({"emptyDir": {}, "downwardAPI": {}}), "spec.volumes[0]: must have exactly one source"),
        (with_volume({"emptyDir": {"sizeLimit": "2Gi"}}), "sizeLimit: more than 1Gi (policy.empty_dir_size)"),
        (with_volume({"downwardAPI": {"defaultMode": 0o1777}}), "downwardAPI.defaultMode: must be from 0 to 0777"),
        (
            downward({"path": "../x", "fieldRef": {"fieldPath": "metadata.name"}}),
            "downwardAPI.items[0].path: must be a relative path",
        ),
        (
            downward({"path": "x", "resourceFieldRef": {"resource": "limits.cpu"}}),
            "items[0].resourceFieldRef.containerName: is required in a volume",
        ),
        (downward({"path": "x"}), "items[0]: must have either fieldRef or"),
        (with_init({"name": "app"}), "spec.initContainers[0].name: is also the name of spec.containers[0]"),
        (with_init({"restartPolicy": "Never"}), "spec.initContainers[0].restartPolicy: must be one of Always"),
        (
            with_init({"lifecycle": {}}),
            "spec.initContainers[0].lifecycle: requires restartPolicy: Always in an init container",
        ),
        (spec(terminationGracePeriodSeconds=3601), "spec.terminationGracePeriodSeconds: must be from 0 to 3600"),
        (container(terminationMessagePolicy="x"), "terminationMessagePolicy: must be one of File"),
        (
            downward({"path": "x", "fieldRef": {"fieldPath": "status.hostIP"}}),
            "downwardAPI.items[0].fieldRef.fieldPath: must be one of",
        ),
        (with_volume({"emptyDir": {"sizeLimit": "0"}}), "emptyDir.sizeLimit: must be more than zero"),
        (container(name="a" * 64), "spec.containers[0].name: must be at most 63 lower-case"),
    ],
)
def test_what_is_wrong_is_named_by_path(pod: Any, reason: str) -> None:
    assert any(reason in text for text in reasons(pod))


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        ({"mountPath": "v"}, "mountPath: must be an absolute path"),
        ({"mountPath": "/v/../x"}, "mountPath: must be an absolute path"),
        ({"mountPath": "/v:x"}, "mountPath: must be an absolute path"),
        ({"mountPath": "/v"}, "mountPath: is used twice in this container"),
        ({"mountPath": "/w", "subPath": "../x"}, "subPath: must be a relative path"),
        ({"mountPath": "/w", "subPath": "/x"}, "subPath: must be a relative path"),
        ({"mountPath": "/w", "subPathExpr": "$(A)"}, "subPathExpr: not accepted"),
        ({"mountPath": "/w", "mountPropagation": "Bidirectional"}, "mountPropagation: not accepted"),
        ({}, "mountPath: is required"),
    ],
)
def test_a_mount_stays_within_its_container(mount: dict[str, str], reason: str) -> None:
    pod = with_volume({"emptyDir": {}})
    pod["spec"]["containers"][0]["volumeMounts"].append({"name": "v", **mount})
    (only,) = reasons(pod)
    assert only.startswith(f"spec.containers[0].volumeMounts[1].{reason}")


@pytest.mark.parametrize(
    ("ports", "reason"),
    [
        ([{"containerPort": 0}], "ports[1].containerPort: must be from 1 to 65535"),
        ([{"containerPort": 80}], "ports[1].containerPort: 80/TCP is listed twice in this container"),
        ([{"containerPort": 81, "name": "Web"}], "ports[1].name: must be at most 15"),
        ([{"containerPort": 81, "name": "1"}], "ports[1].name: must be at most 15"),
        ([{"containerPort": 81, "name": "a"}, {"containerPort": 82, "name": "a"}], "ports[2].name: is used twice"),
        ([{"containerPort": 81, "protocol": "tcp"}], "ports[1].protocol: must be one of TCP, UDP, SCTP"),
        ([{}], "ports[1].containerPort: is required"),
        ([{"containerPort": 81, "hostPort": 81}], "ports[1].hostPort: ports of the node are not available"),
    ],
)
def test_ports_are_checked(ports: list[Any], reason: str) -> None:
    (only,) = reasons(container(ports=[{"containerPort": 80, "protocol": "TCP"}, *ports]))
    assert only.startswith(f"spec.containers[0].{reason}")


def test_all_reasons_are_given_at_once() -> None:
    pod = container(image=1, tty="x", ports=[{"containerPort": 80, "hostPort": 80}])
    pod["spec"].update(hostPID=True, hostname="A", volumes=[{"name": "v", "hostPath": {"path": "/"}}])
    pod["kind"] = "Job"
    assert {reason.partition(":")[0] for reason in reasons(pod)} == {
        "kind",
        "spec.hostname",
        "spec.containers[0].image",
        "spec.containers[0].tty",
        "spec.containers[0].ports[0].hostPort",
        "spec.hostPID",
        "spec.volumes[0].hostPath",
    }


def test_thousands_of_mistakes_end_after_a_hundred_reasons() -> None:
    refused = reasons(container(**{f"k{index}": 1 for index in range(3000)}))
    assert len(refused) == 101
    assert refused[-1].startswith("(root): there may be more")


def test_reasons_do_not_show_values_that_may_be_secret() -> None:
    pod = container(
        env=[{"name": "FLAG", "value": [SECRET]}, {"name": "1", "value": SECRET}, {"name": "F", "valeu": SECRET}],
        args=[{"x": SECRET}, SECRET + "\0"],
        command=SECRET,
        workingDir=[SECRET],
        livenessProbe={"exec": {"command": SECRET}},
    )
    refused = reasons(pod)
    assert len(refused) >= 6
    assert SECRET not in "; ".join(refused)


EVERYTHING: dict[str, Any] = yaml.safe_load("""
apiVersion: v1
kind: Pod
metadata:
  name: all.of-it
  labels: {app: web}
  annotations: {description: 'Two

      lines'}
spec:
  activeDeadlineSeconds: 60
  containers:
  - args: [-v, '', 'a: b']
    command: [sh, -c]
    env:
    - {name: A, value: '1'}
    - name: IP
      valueFrom:
        fieldRef: {fieldPath: status.podIP}
    - name: L
      valueFrom:
        fieldRef: {fieldPath: 'metadata.labels[''app'']'}
    - name: M
      valueFrom:
        resourceFieldRef: {divisor: 1Mi, resource: limits.memory}
    image: nginx:stable
    lifecycle:
      postStart:
        exec:
          command: ['true']
      preStop:
        sleep: {seconds: 0}
    livenessProbe:
      httpGet:
        httpHeaders:
        - {name: X-A, value: ''}
        path: /
        port: web
        scheme: HTTPS
      periodSeconds: 3
    name: app
    ports:
    - {containerPort: 80, name: web}
    readinessProbe:
      tcpSocket: {port: 80}
    resources:
      limits: {cpu: 100m, ephemeral-storage: 1Gi, memory: 128Mi}
    startupProbe:
      grpc: {port: 80, service: ''}
    stdin: true
    stdinOnce: true
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: FallbackToLogsOnError
    tty: true
    volumeMounts:
    - {mountPath: /tmp, name: tmp}
    - {mountPath: /info, name: info, readOnly: true, subPath: a}
    - {mountPath: /all, name: all}
    workingDir: /srv
  hostname: web
  nodeSelector: {example.com/disk: ssd}
  terminationGracePeriodSeconds: 0
  volumes:
  - emptyDir: {sizeLimit: 64Mi}
    name: tmp
  - downwardAPI:
      defaultMode: 292
      items:
      - fieldRef: {fieldPath: metadata.labels}
        mode: 0
        path: a/b
    name: info
  - name: all
    projected:
      sources:
      - downwardAPI:
          items:
          - path: cpu
            resourceFieldRef: {containerName: app, divisor: '0', resource: limits.cpu}
""")


def test_everything_that_is_allowed_is_kept() -> None:
    admitted = manifest(EVERYTHING, Policy(allow_annotations=("description",)))
    kept = admitted["spec"]
    wanted = EVERYTHING["spec"]
    assert admitted["metadata"] == EVERYTHING["metadata"]
    assert {name: kept[name] for name in wanted if name != "containers"} == {
        name: wanted[name] for name in wanted if name != "containers"
    }
    (app,), (asked,) = kept["containers"], wanted["containers"]
    assert app.pop("securityContext")
    assert app.pop("resources")["requests"] == asked["resources"]["limits"]
    assert app == {name: value for name, value in asked.items() if name != "resources"}


def test_what_is_not_the_tenants_is_set_whatever_was_asked() -> None:
    pod = spec(restartPolicy="Always", enableServiceLinks=True, automountServiceAccountToken=True)
    assert admit(pod) == admit(seed())


def test_empty_fields_are_left_out_as_the_typed_encoder_does() -> None:
    pod = container(
        env=[], args=[], command=None, tty=False, workingDir="", imagePullPolicy="", volumeMounts=[], envFrom=[]
    )
    pod["spec"].update(volumes=[], nodeSelector={}, hostname="", initContainers=[])
    pod["metadata"].update(labels={}, annotations=None, namespace="kube-system", creationTimestamp=None)
    pod["status"] = {}
    assert admit(pod) == admit(seed())
    assert admit(spec(hostNetwork=None, nodeName=None, affinity=None)) == admit(seed())
    del pod["metadata"]
    assert "metadata: {}\n" in admit(pod).text


def test_an_empty_value_of_a_variable_is_left_out_and_a_missing_divisor_is_written() -> None:
    pod = container(
        env=[
            {"name": "A", "value": ""},
            {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
        ]
    )
    assert manifest(pod)["spec"]["containers"][0]["env"] == [
        {"name": "A"},
        {"name": "B", "valueFrom": {"resourceFieldRef": {"divisor": "0", "resource": "requests.cpu"}}},
    ]


def test_the_manifest_is_a_pod_whatever_the_case_of_its_kind() -> None:
    spec_ = admit({**seed(), "kind": "POD"})
    assert spec_.manifest["kind"] == "Pod"
    assert "kind: POD\n" in spec_.text
    assert "status" not in spec_.manifest


APPARMOR = {"appArmorProfile": {"type": "RuntimeDefault"}}


@pytest.mark.parametrize(
    "asked",
    [
        spec(hostUsers=False),
        spec(securityContext=APPARMOR),
        container(securityContext={"readOnlyRootFilesystem": True, **APPARMOR}),
    ],
)
def test_whoever_asks_for_less_gets_it(asked: dict[str, Any]) -> None:
    admitted, default = manifest(asked), manifest(seed())["spec"]
    assert manifest(admitted) == admitted
    pod, app = admitted["spec"], admitted["spec"]["containers"][0]
    assert pod.get("hostUsers") == asked["spec"].get("hostUsers")
    for got, base, wanted in (
        (pod, default, asked["spec"]),
        (app, default["containers"][0], asked["spec"]["containers"][0]),
    ):
        assert got["securityContext"] == base["securityContext"] | wanted.get("securityContext", {})


# ---- The fields that stackd knows are those of the Kubernetes client's models


def reached(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The models below this one, by their names in Kubernetes."""
    found: dict[str, type[BaseModel]] = {}
    left = [model]
    while left:
        one = left.pop()
        name = one.__name__.removeprefix("V1")
        if name not in found:
            found[name] = one
            left += [field.model for field in fields_of(one).values() if field.model is not None]
    return found


THEIRS = reached(POD)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_fields_and_types_of_the_client_library(name: str) -> None:
    def named(model: type[BaseModel] | None) -> str | None:
        known = model.__name__.removeprefix("V1") if model is not None else ""
        return known if known in MODELS else None

    theirs = fields_of(THEIRS[name.removeprefix("Init")])
    ours = {key: (one.kind, one.model and one.model.removeprefix("Init")) for key, one in MODELS[name].items()}
    assert ours == {key: (one.kind, named(one.model)) for key, one in theirs.items()}


def test_each_reason_is_for_a_field_that_is_never_accepted() -> None:
    for model, _, name in (path.partition(".") for path in WHY):
        assert MODELS[model][name].use is Use.NEVER

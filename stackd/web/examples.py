"""The examples of the API document: one stack, one job, and the requests that made them."""

from __future__ import annotations

from typing import Any

STACK_ID = "stack-716b6384dd477b0b"
JOB_ID = "job-0f3a9c1e5b7d2846"
CREATED = "2026-02-10T02:02:26.535664Z"
EXPIRES = "2026-02-10T04:02:26.535664Z"

POD_SPEC = """\
apiVersion: v1
kind: Pod
metadata:
  name: challenge
spec:
  containers:
    - name: app
      image: nginx:stable
      ports:
        - containerPort: 80
          protocol: TCP
      resources:
        requests:
          cpu: "100m"
          memory: "128Mi"
        limits:
          cpu: "100m"
          memory: "128Mi\""""

SANITIZED = """\
apiVersion: v1
kind: Pod
metadata:
  name: challenge
spec:
  automountServiceAccountToken: false
  containers:
  - image: nginx:stable
    name: app
    ports:
    - containerPort: 80
      protocol: TCP
    resources:
      limits:
        cpu: 100m
        memory: 128Mi
      requests:
        cpu: 100m
        memory: 128Mi
    securityContext:
      allowPrivilegeEscalation: false
      privileged: false
      seccompProfile:
        type: RuntimeDefault
  enableServiceLinks: false
  restartPolicy: Never
  securityContext:
    seccompProfile:
      type: RuntimeDefault
status: {}
"""

TARGET_PORT = [{"container_port": 80, "protocol": "TCP"}]
PORTS = [{"container_port": 80, "protocol": "TCP", "node_port": 31538}]
CREATE: dict[str, Any] = {"target_port": TARGET_PORT, "pod_spec": POD_SPEC}
CREATE_WITH_MORE: dict[str, Any] = {**CREATE, "ttl": "30m", "labels": {"team": "7"}, "if_exists": "return"}

CREATE_FROM_TEMPLATE: dict[str, Any] = {"template": "web-1", "labels": {"team": "7"}}

CREATES: dict[str, Any] = {
    "a web server": CREATE,
    "with more": CREATE_WITH_MORE,
    "from a template": CREATE_FROM_TEMPLATE,
}

LISTED_STACK: dict[str, Any] = {
    "stack_id": STACK_ID,
    "pod_id": STACK_ID,
    "namespace": "stacks",
    "node_id": "dev-worker2",
    "node_public_ip": "12.34.56.78",
    "pod_spec": SANITIZED,
    "ports": PORTS,
    "service_name": f"svc-{STACK_ID}",
    "status": "running",
    "ttl_expires_at": EXPIRES,
    "created_at": CREATED,
    "updated_at": "2026-02-10T02:06:33.16031Z",
    "requested_cpu_milli": 100,
    "requested_memory_bytes": 134217728,
}
DETAIL: dict[str, Any] = {
    **LISTED_STACK,
    "status_reason": "",
    "status_message": "",
    "labels": {"team": "7"},
    "ended": False,
}
CREATED_STACK: dict[str, Any] = {**DETAIL, "status": "creating", "updated_at": CREATED, "labels": {}}
STATUS: dict[str, Any] = {
    "stack_id": STACK_ID,
    "status": "running",
    "ttl": EXPIRES,
    "ports": PORTS,
    "node_public_ip": "12.34.56.78",
}
STATS: dict[str, Any] = {
    "total_stacks": 7,
    "active_stacks": 7,
    "node_distribution": {"dev-worker": 3, "dev-worker2": 4},
    "used_node_ports": 7,
    "reserved_cpu_milli": 700,
    "reserved_memory_bytes": 939524096,
}
JOB: dict[str, Any] = {
    "job_id": JOB_ID,
    "status": "completed",
    "total": 3,
    "deleted": 1,
    "not_found": 1,
    "failed": 1,
    "errors": [
        {
            "stack_id": STACK_ID,
            "error": f"{STACK_ID} could not be deleted: Kubernetes has not answered for over 2 s; retry",
        }
    ],
    "created_at": CREATED,
    "updated_at": "2026-02-10T02:03:10.535664Z",
}
BATCHES: dict[str, Any] = {
    "half an hour more for everybody with a label": {
        "action": "extend",
        "ttl": "30m",
        "labels": {"challenge": "web-1"},
    },
    "a fresh pod for three": {"action": "restart", "stack_ids": ["stack-1", "stack-2", "stack-3"]},
}
BATCH_JOB: dict[str, Any] = {
    "job_id": JOB_ID,
    "action": "extend",
    "ttl": "30m",
    "status": "completed",
    "total": 3,
    "done": 1,
    "not_found": 1,
    "failed": 1,
    "errors": [{"stack_id": STACK_ID, "error": f"{STACK_ID} is being deleted"}],
    "created_at": CREATED,
    "updated_at": "2026-02-10T02:03:10.535664Z",
}
ACTIVITY: dict[str, Any] = {
    "activity": [
        {
            "at": CREATED,
            "by": "operator",
            "action": "extend",
            "ttl": "30m",
            "job_id": JOB_ID,
            "labels": {"challenge": "web-1"},
            "message": "",
            "status": "completed",
            "total": 40,
            "done": 40,
            "not_found": 0,
            "failed": 0,
            "created_at": CREATED,
            "updated_at": "2026-02-10T02:03:10.535664Z",
        },
        {
            "at": "2026-02-10T02:01:02.5Z",
            "by": "platform",
            "action": "create",
            "stack_id": STACK_ID,
            "labels": {"challenge": "web-1", "team": "7"},
            "message": "",
            "status": "completed",
            "total": 1,
            "done": 1,
            "not_found": 0,
            "failed": 0,
        },
    ],
    "next_cursor": None,
}
CAPACITY: dict[str, Any] = {
    "fits": 14,
    "limited_by": "cpu",
    "nodes": {"dev-worker": 8, "dev-worker2": 6},
    "quota": 93,
    "quota_limited_by": "memory",
    "quota_seen_at": CREATED,
    "ports": 1760,
    "free_node_ports": 1740,
    "stacks": None,
    "unassigned": 20,
    "requested_cpu_milli": 100,
    "requested_memory_bytes": 134217728,
    "requested_ephemeral_storage_bytes": 67108864,
    "requested_ports": 1,
    "assumes": "nodes run nothing but stacks, and have no taints",
}
TIMELINE: dict[str, Any] = {
    "stack_id": STACK_ID,
    "events": [
        {"at": CREATED, "kind": "accepted", "reason": "", "message": "", "by": "platform"},
        {
            "at": "2026-02-10T02:02:41.20185Z",
            "kind": "failed",
            "reason": "ImagePullBackOff",
            "message": "container app: the image cannot be pulled",
            "by": "cluster",
        },
    ],
}
NOT_READY: dict[str, Any] = {
    "error": "waiting for the cluster: Kubernetes cannot be reached: Connection refused",
    "status": "not ready",
    "reasons": ["waiting for the cluster: Kubernetes cannot be reached: Connection refused"],
}

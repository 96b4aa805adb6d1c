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
CREATE_FROM_TEMPLATE: dict[str, Any] = {"template": "web-1", "labels": {"team": "7"}}
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
ERRORS: list[dict[str, Any]] = [{"stack_id": STACK_ID, "error": f"{STACK_ID} is being deleted"}]
PROGRESS: dict[str, Any] = {
    "not_found": 1,
    "failed": 1,
    "errors": ERRORS,
    "created_at": CREATED,
    "updated_at": "2026-02-10T02:03:10.535664Z",
}
OF: dict[str | None, dict[str, Any]] = {
    "Create": {
        "a web server": CREATE,
        "with more": {**CREATE, "ttl": "30m", "labels": {"team": "7"}, "if_exists": "return"},
        "from a template": CREATE_FROM_TEMPLATE,
    },
    "StackCreated": {"created": CREATED_STACK},
    "StackDetail": {"running": DETAIL},
    "StackList": {"one": {"stacks": [LISTED_STACK]}},
    "StackStatusAnswer": {
        "running": {
            "stack_id": STACK_ID,
            "status": "running",
            "ttl": EXPIRES,
            "ports": PORTS,
            "node_public_ip": "12.34.56.78",
        }
    },
    "Deleted": {"deleted": {"deleted": True, "stack_id": STACK_ID}},
    "Extend": {"half an hour": {"ttl": "30m"}},
    "Timeline": {
        "created": {
            "stack_id": STACK_ID,
            "events": [{"at": CREATED, "kind": "accepted", "reason": "", "message": "", "by": "platform"}],
        }
    },
    "BatchDelete": {"three": {"stack_ids": ["stack-1", "stack-2", "stack-3"]}},
    "Batch": {
        "half an hour more for everybody with a label": {
            "action": "extend",
            "ttl": "30m",
            "labels": {"challenge": "web-1"},
        },
        "a fresh pod for three": {"action": "restart", "stack_ids": ["stack-1", "stack-2", "stack-3"]},
    },
    "JobAccepted": {"accepted": {"job_id": JOB_ID}},
    "JobOfMany": {"accepted": {"job_id": JOB_ID, "total": 3}},
    "Job": {"finished": {"job_id": JOB_ID, "status": "completed", "total": 3, "deleted": 1, **PROGRESS}},
    "BatchJob": {
        "finished": {
            "job_id": JOB_ID,
            "action": "extend",
            "ttl": "30m",
            "status": "completed",
            "total": 3,
            "done": 1,
            **PROGRESS,
        }
    },
    "Stats": {
        "seven": {
            "total_stacks": 7,
            "active_stacks": 7,
            "node_distribution": {"dev-worker": 3, "dev-worker2": 4},
            "used_node_ports": 7,
            "reserved_cpu_milli": 700,
            "reserved_memory_bytes": 939524096,
        }
    },
    "Healthy": {"ok": {"status": "ok"}},
    "Ready": {"ready": {"status": "ready"}},
    "NotReady": {
        "not ready": {
            "error": "waiting for the cluster: Kubernetes cannot be reached: Connection refused",
            "status": "not ready",
            "reasons": ["waiting for the cluster: Kubernetes cannot be reached: Connection refused"],
        }
    },
    "Takeover": {"asked": {"asked": "vm1"}},
}
"""The examples of each schema that has some."""

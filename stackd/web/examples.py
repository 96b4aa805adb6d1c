"""The examples of the API document: one stack, one job, and the requests that made them."""

from __future__ import annotations

from functools import cache
from typing import Any

from stackd.contract import A_STACK
from stackd.model import TargetPort
from stackd.podspec import Policy, sanitize

STACK_ID = A_STACK
LINK_ID = "link-5d1e0a7c93b24f68"
MESSAGE_ID = "message-3f1c09aa27d53fbb"
JOB_ID = "job-0f3a9c1e5b7d2846"
CREATED = "2026-02-10T02:02:26.535664Z"
EXPIRES = "2026-02-10T04:02:26.535664Z"
ADDRESS = "12.34.56.78"

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

TEMPLATE = """\
title: Cookie jar
target_port: [{container_port: 80, protocol: TCP}]
pool: 2
values: {FLAG: "flag{<hex:32>}"}
pod:
  apiVersion: v1
  kind: Pod
  metadata: {name: web}
  spec:
    containers:
    - name: app
      image: nginx:stable
      ports: [{containerPort: 80}]
      resources: {limits: {cpu: 100m, memory: 128Mi}}
"""
CREATE: dict[str, Any] = {"target_port": [{"container_port": 80, "protocol": "TCP"}], "pod_spec": POD_SPEC}
CREATE_FROM_TEMPLATE: dict[str, Any] = {"template": "web-1", "labels": {"player": "7"}}
PORTS = [{"container_port": 80, "protocol": "TCP", "node_port": 31538}]
ADDRESSES = [{"port": 80, "protocol": "TCP", "text": f"{ADDRESS}:31538", "url": f"http://{ADDRESS}:31538"}]
THREE = ["stack-1", "stack-2", "stack-3"]
PROGRESS: dict[str, Any] = {
    "not_found": 1,
    "failed": 1,
    "errors": [{"stack_id": STACK_ID, "error": f"{STACK_ID} is being deleted", "code": "stack_deleting"}],
    "created_at": CREATED,
    "updated_at": "2026-02-10T02:03:10.535664Z",
}
OTHERS: dict[str, dict[str, Any]] = {
    "Create": {
        "a web server": CREATE,
        "with more": {**CREATE, "ttl": "30m", "labels": {"player": "7"}, "if_exists": "return"},
        "from a template": CREATE_FROM_TEMPLATE,
    },
    "StackStatusAnswer": {
        "running": {
            "stack_id": STACK_ID,
            "status": "running",
            "ttl": EXPIRES,
            "ports": PORTS,
            "node_public_ip": ADDRESS,
            "addresses": ADDRESSES,
            "problem": None,
        }
    },
    "Restart": {"as it is": {}, "with the newest version of its template": {"template": "latest"}},
    "StackChange": {"another player, and no seat": {"labels": {"player": "8", "seat": None}}},
    "Extend": {"half an hour": {"ttl": "30m"}},
    "Timeline": {
        "created": {
            "stack_id": STACK_ID,
            "events": [{"at": CREATED, "kind": "accepted", "reason": "", "message": "", "by": "platform"}],
        }
    },
    "BatchDelete": {"three": {"stack_ids": THREE}},
    "Batch": {
        "half an hour more for everybody with a label": {
            "action": "extend",
            "ttl": "30m",
            "labels": {"challenge": "web-1"},
        },
        "a fresh pod for three": {"action": "restart", "stack_ids": THREE},
        "a stack for each of a class": {
            "action": "create",
            "template": "web-1",
            "each": [{"labels": {"player": "seat-1"}}, {"labels": {"player": "seat-2"}}],
        },
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
        },
        "restarted, and what came of it": {
            "job_id": JOB_ID,
            "action": "restart",
            "common": {"challenge": "misc-1"},
            "status": "completed",
            "total": 3,
            "done": 1,
            **PROGRESS,
            "outcome": {
                "until": "2026-02-10T02:05:10.535664Z",
                "statuses": {"failed": 1},
                "reasons": [{"status": "failed", "reason": "OOMKilled", "count": 1, "stack_ids": [STACK_ID]}],
                "final": True,
            },
        },
    },
    "CreateLink": {
        "for a player": {"labels": {"player": "seat-12"}, "templates": ["lab-*"], "expires": "7d", "name": "Seat 12"},
        "open": {"labels": {}, "each": "visitor", "total": 50, "expires": "4h", "name": "Workshop"},
    },
    "NewLink": {
        "made": {
            "link_id": LINK_ID,
            "url": "https://stackd.example/play#4f0c…",
            "name": "Seat 12",
            "expires_at": EXPIRES,
            "code": "K7QM-4R2X",
        }
    },
    "CreateMessage": {"to a lab": {"text": "Ten minutes left. Save your work.", "template": "web-1", "until": "10m"}},
    "FindValue": {"flag": {"value": "flag{6804aa27d53fbbaf}"}},
    "FoundValues": {
        "one": {
            "found": [
                {
                    "stack_id": STACK_ID,
                    "name": "FLAG",
                    "labels": {"player": "seat-12"},
                    "template": "web-1",
                    "removed_at": None,
                }
            ]
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
            "spare_services": 32,
        }
    },
}


@cache
def bodies() -> dict[str, dict[str, Any]]:
    """The examples of each schema that has some."""
    detail: dict[str, Any] = {
        "stack_id": STACK_ID,
        "pod_id": STACK_ID,
        "namespace": "stacks",
        "node_id": "dev-worker2",
        "node_public_ip": ADDRESS,
        "pod_spec": sanitize(POD_SPEC, (TargetPort(container_port=80, protocol="TCP"),), Policy()).text,
        "ports": PORTS,
        "service_name": f"svc-{STACK_ID}",
        "status": "running",
        "ttl_expires_at": EXPIRES,
        "created_at": CREATED,
        "updated_at": "2026-02-10T02:06:33.16031Z",
        "requested_cpu_milli": 100,
        "requested_memory_bytes": 134217728,
        "status_reason": "",
        "status_message": "",
        "labels": {"player": "7"},
        "ended": False,
        "addresses": ADDRESSES,
        "problem": None,
    }
    created = {**detail, "status": "creating", "updated_at": CREATED, "labels": {}}
    stacks: dict[str, dict[str, Any]] = {
        "StackCreated": {"created": created},
        "StackDetail": {"running": detail},
        "StackList": {"one": {"stacks": [detail]}},
    }
    return stacks | OTHERS

"""The examples of requests in the API's description. Those of answers are in the reference, as stackd has really sent them."""

from __future__ import annotations

from typing import Any

from stackd.contract import A_STACK

STACK_ID = A_STACK
LINK_ID = "link-5d1e0a7c93b24f68"
MESSAGE_ID = "message-3f1c09aa27d53fbb"
JOB_ID = "job-0f3a9c1e5b7d2846"

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
THREE = ["stack-1", "stack-2", "stack-3"]
BODIES: dict[str, dict[str, Any]] = {
    "Create": {
        "a web server": CREATE,
        "with more": {**CREATE, "ttl": "30m", "labels": {"player": "7"}, "if_exists": "return"},
        "from a template": CREATE_FROM_TEMPLATE,
    },
    "Restart": {"as it is": {}, "with the newest version of its template": {"template": "latest"}},
    "StackChange": {"another player, and no seat": {"labels": {"player": "8", "seat": None}}},
    "Extend": {"half an hour": {"ttl": "30m"}},
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
    "CreateLink": {
        "for a player": {"labels": {"player": "seat-12"}, "templates": ["lab-*"], "expires": "7d", "name": "Seat 12"},
        "open": {"labels": {}, "each": "visitor", "total": 50, "expires": "4h", "name": "Workshop"},
    },
    "CreateMessage": {"to a lab": {"text": "Ten minutes left. Save your work.", "template": "web-1", "until": "10m"}},
    "FindValue": {"flag": {"value": "flag{6804aa27d53fbbaf}"}},
}
"""By the names of the bodies."""

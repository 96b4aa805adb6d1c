"""A Kubernetes API in process: API server, scheduler, kubelets and controllers behind the wire of the real one.

For the demo, the tests and the benchmarks. Stands alone: it knows nothing of stackd.

    cluster     puts together and starts; options, timing: what it is told, and its clock
    server      HTTP; request: what one is about; auth: who may do what; status: refusals; control, faults: failures on demand
    api         the verbs, and logs; listwatch: lists and watches
    admission   namespace → limit ranges → node ports → validation → podsecurity → quota
    schema      fields of the kinds; defaults: what is filled in; resources: the kinds, and discovery
    store       objects, versions, changes; journal: the state file
    scheduler, kubelet, nodes, nodeports, deletion, events      what happens by itself; needs, podstatus: of pods
"""

from stackd.embedded.auth import Rule, User, everything, rules_from_manifests
from stackd.embedded.cluster import EmbeddedCluster
from stackd.embedded.faults import Counts, Fault
from stackd.embedded.options import DEFAULT_NODES, WORKER, EmbeddedOptions, NodeSpec, node_specs
from stackd.embedded.status import StatusError
from stackd.embedded.timing import ManualClock

__all__ = [
    "DEFAULT_NODES",
    "WORKER",
    "Counts",
    "EmbeddedCluster",
    "EmbeddedOptions",
    "Fault",
    "ManualClock",
    "NodeSpec",
    "Rule",
    "StatusError",
    "User",
    "everything",
    "node_specs",
    "rules_from_manifests",
]

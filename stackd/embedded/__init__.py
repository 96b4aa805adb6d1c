"""A Kubernetes API in process: API server, scheduler, kubelets and controllers behind the wire of the real one.

For the demo, the tests and the benchmarks. Stands alone: it knows nothing of stackd.

    cluster     puts together and starts        server      HTTP            control, faults   trouble on demand
    api         the verbs                       listwatch, logs             reads
    admission   namespace → limit ranges → ports → validation → podsecurity → quota
    store       objects, versions, changes      journal     the state file
    rbac, accounts      who may do what, and tokens that end
    scheduler, kubelet, nodes, deletion, nodeports      what happens by itself
"""

from stackd.embedded.cluster import EmbeddedCluster
from stackd.embedded.faults import Counts, Fault
from stackd.embedded.options import DEFAULT_NODES, WORKER, EmbeddedOptions, NodeSpec, node_specs
from stackd.embedded.rbac import Rule, User, everything, rules_from_manifests
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

"""A Kubernetes API in process: API server, scheduler, kubelets and controllers behind the wire of the real one.

For the demo, the tests and the benchmarks. Stands alone: it knows nothing of stackd.

    cluster     puts together and starts        server      HTTP            control, faults   trouble on demand
    api         the verbs                       listing, watch, logs        reads
    admission   namespace → limitrange → ports → validation → podsecurity → quota
    store       objects, versions, changes      journal     the state file
    scheduler, kubelet, nodes, deletion, gc, nodeports      what happens by itself
"""

from stackd.embedded.cluster import EmbeddedCluster
from stackd.embedded.faults import Counts, Fault
from stackd.embedded.options import DEFAULT_NODES, EmbeddedOptions, NodeSpec
from stackd.embedded.rbac import Rule, User, everything, rules_from_manifests
from stackd.embedded.status import ApiError
from stackd.embedded.timing import ManualClock

__all__ = [
    "DEFAULT_NODES",
    "ApiError",
    "Counts",
    "EmbeddedCluster",
    "EmbeddedOptions",
    "Fault",
    "ManualClock",
    "NodeSpec",
    "Rule",
    "User",
    "everything",
    "rules_from_manifests",
]

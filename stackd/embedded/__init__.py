"""A Kubernetes API in process: API server, scheduler, kubelets and controllers, with the HTTP API of the real ones.

For the demo, the tests and the benchmarks. Independent: it does not know stackd.

    cluster     the settings; assembles and starts the parts
    server      HTTP; request: what a request asks for; auth: who may do what; faults: failures on demand
    api         the verbs, lists and watches, and logs
    admission   namespace → limit ranges → node ports → validation → quota
    resources   the kinds, and refusals; schema: the fields of the kinds, and default values
    store       objects, versions, changes, the state file, and time
    nodes (with the scheduler), kubelet, nodeports, deletion    the controllers; podstatus: a helper for pods
"""

from stackd.embedded.auth import Rule, User, administrator, everything, rules_from_manifests
from stackd.embedded.cluster import EmbeddedCluster
from stackd.embedded.faults import Counts, Fault
from stackd.embedded.nodes import DEFAULT_NODES, WORKER, NodeSpec, node_specs
from stackd.embedded.options import EmbeddedOptions
from stackd.embedded.resources import StatusError

__all__ = [
    "DEFAULT_NODES",
    "WORKER",
    "Counts",
    "EmbeddedCluster",
    "EmbeddedOptions",
    "Fault",
    "NodeSpec",
    "Rule",
    "StatusError",
    "User",
    "administrator",
    "everything",
    "node_specs",
    "rules_from_manifests",
]

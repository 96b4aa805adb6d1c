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

from stackd.embedded.auth import Rule as Rule
from stackd.embedded.auth import User as User
from stackd.embedded.auth import administrator as administrator
from stackd.embedded.auth import everything as everything
from stackd.embedded.auth import rules_from_manifests as rules_from_manifests
from stackd.embedded.cluster import EmbeddedCluster as EmbeddedCluster
from stackd.embedded.faults import Counts as Counts
from stackd.embedded.faults import Fault as Fault
from stackd.embedded.nodes import DEFAULT_NODES as DEFAULT_NODES
from stackd.embedded.nodes import WORKER as WORKER
from stackd.embedded.nodes import NodeSpec as NodeSpec
from stackd.embedded.nodes import node_specs as node_specs
from stackd.embedded.options import EmbeddedOptions as EmbeddedOptions
from stackd.embedded.resources import StatusError as StatusError

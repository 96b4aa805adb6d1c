"""Everything that talks to Kubernetes: requests, watches, and the objects as plain data.

    client       ``Cluster``: what stackd asks of a cluster and changes there, each request with its deadline and retries
    connection   sends one request at a time over one connection pool
    guards       what can stop a request before it is sent: the fence, and the circuit breaker for a silent Kubernetes
    credentials  which cluster, as whom; sessions with the current credentials, and the renewal of a token
    wire         pure: requests, responses, and whether a response is Kubernetes' own answer, and what it means
    watch        endless lists and watches
    mirror       ``Mirror``: a local copy of our pods and services, and of all nodes
    lease        the Lease that says which stackd owns the stacks
    objects      pure: what stackd keeps of Kubernetes' objects
    labels       pure: names, labels and annotations of stackd's objects
    manifests    pure: the Pod and the Service of a stack, and the pod that pulls an image
    routes       pure: the objects that give a stack's ports their names
    records      pure: a stack's record on its Service, from which a lost state file can be rebuilt
    template_maps  pure: templates as ConfigMaps
    policies     pure: whether the NetworkPolicies that exist protect the stacks
    rights       pure: what stackd may do in a cluster, as a table

Only this package imports ``kubernetes``. It does not know database rows, the HTTP API of stackd, or why something is
created or deleted.
"""

import importlib.util
import sys

# stackd uses kubernetes.aio alone. Its parent package would import a second, synchronous client with an HTTP library of
# its own: a fifth of a start's CPU, and 6 MB. So the parent is put in place without being executed.
if "kubernetes" not in sys.modules and (_parent := importlib.util.find_spec("kubernetes")) is not None:
    sys.modules["kubernetes"] = importlib.util.module_from_spec(_parent)

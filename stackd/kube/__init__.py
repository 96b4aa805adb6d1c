"""Everything that talks to Kubernetes: requests, watches, and the objects as plain data.

    client       ``Cluster``: what stackd does to a cluster, each request with its deadline and its retries
    caller       ``Caller``: requests that are repeated until they are answered; what is asked beside the stacks' own objects
    connection   one request at a time over one connection pool
    guards       what may stop a request before it is sent: the fence, and a Kubernetes that does not answer
    wire         pure: a request, its response, the kinds of object, and Kubernetes' Status
    responses    pure: whether a response is Kubernetes' answer to the request; what a refusal means
    access       the way to one API server: connections with the credentials in force, and the renewal of a token
    credentials  pure but for files: which cluster, as whom; kubeconfig, certificates, the token that is kept
    watch        lists and watches that go on for ever
    mirror       ``Mirror``: a local copy of our pods, services and records of stopped stacks, and of all nodes
    lease        the Lease that says which stackd owns the stacks
    objects      pure: what is kept of Kubernetes' objects
    labels       pure: the names that stackd gives to its objects and writes on them
    manifests    pure: the Pod and the Service of a stack, and the pod that pulls an image
    records      pure: a stack's record, on its pod or in a ConfigMap, from which a lost state file can be rebuilt
    provision    what has to be in a cluster before, how an administrator puts it there, and what its NetworkPolicies do
    rights       pure: what stackd may do to a cluster, as a table

Only this package (and ``podspec``, for the typed models) imports ``kubernetes``. It knows nothing of rows, of HTTP as
clients of stackd see it, or of why something is created or deleted.
"""

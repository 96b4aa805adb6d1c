"""The cupboard of what exists: Kubernetes, asked and watched.

    client      ``Cluster``: what stackd does to a cluster, each call with its deadline and its retries
    mirror      ``Mirror``: a local copy of our pods, our services and all nodes, kept by three watches
    manifests   pure: the Pod and the Service of a stack
    record      pure: the stack's whole row as an annotation, and back
    objects     what is kept of Kubernetes' objects
    rights      what stackd may do to a cluster, as a table
    provision   pure: what has to be in a cluster before: namespace, rights, quota, network policies
    isolation   pure: what a NetworkPolicy does for the stacks
    answers     what an answer means: one table from status and message to the error tree

Only this package (and ``podspec``, for the typed models) imports ``kubernetes``. It knows nothing of rows, of HTTP as
clients of stackd see it, or of why something is created or deleted.
"""

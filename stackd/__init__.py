"""stackd: hands out stacks (a hardened Pod and a NodePort Service each, with a time to live) over a REST API.

The map. Calls go down; answers come back as return values or ``async for``:

    cli, daemon     commands; the daemon opens, starts tasks, serves, and closes in reverse
    doctor/         checks the machine and the cluster, and names what to repair
    rehearse/       starts many stacks through the API, and tells how long players wait
    web/            in: HTTP
    jobs/           in: time (APScheduler), and the batch-delete queue
    lifecycle/      decides: one verb per file; the only place where store and cluster meet
    store/          keeps what we intend (SQLite)
    kube/           knows what exists (Kubernetes)
    podspec/        pure: what a tenant may ask for
    client/         stackd.client: the API for Python programs; the command line uses it, too
    config, model, errors, names, quantity, tasks, workqueue
    embedded/       a Kubernetes API in process, behind the same HTTP wire, for the demo and the tests
"""

__version__ = "0.1.0"

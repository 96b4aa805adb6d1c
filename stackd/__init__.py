"""stackd: hands out stacks (a hardened Pod and a NodePort Service each, with a time to live) over a REST API.

Where things are; calls go down, answers come back as return values or ``async for``:

    cli, daemon     commands; the daemon opens, starts tasks, serves, and closes in reverse
    doctor/         looks at machine and cluster, and says what is not as it should be
    web/            door: HTTP
    jobs/           door: time (APScheduler) and the batch-delete queue
    lifecycle/      the room: one verb per file; the only place where store and cluster meet
    store/          cupboard: what we intend (SQLite)
    kube/           cupboard: what exists (Kubernetes)
    podspec/        pure: what a tenant may ask for
    config, model, errors
    embedded/       a Kubernetes API in process, behind the same HTTP wire, for the demo and the tests
"""

__version__ = "0.1.0"

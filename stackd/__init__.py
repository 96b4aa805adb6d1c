"""stackd: hands out stacks (a hardened Pod and a NodePort Service each, with a time to live) over a REST API.

The packages. Calls go down the list; results come back as return values or ``async for``:

    cli, daemon     commands; the daemon opens, starts tasks, serves, and closes in reverse
    doctor/         checks the machine and the cluster, and says what to repair
    rehearse/       starts many stacks through the API, and measures how long players wait
    upkeep/         serves the operator of a running daemon: health, reloads, systemd, TLS certificates
    web/            input: HTTP
    jobs/           input: time (APScheduler), and the batch-delete queue
    lifecycle/      decides: one verb per file; the only place that uses both store and cluster
    store/          keeps the state that stackd intends (SQLite)
    kube/           knows the state that exists (Kubernetes)
    logs            log lines as text, JSON or for the journal
    templates/      stacks that the operator has described in files
    config/         what the operator has set: files, environment, defaults
    podspec/        pure: what a tenant may ask for
    client/         stackd.client: the API for Python programs; the command line uses it, too
    keys            API keys
    metrics         counters and histograms
    contract        the bodies of the API: the server renders and checks by them, the client decodes with them
    model, errors   the nouns, and what can go wrong
    files           files that only their owner may read
    kinds, units    types of configuration values; durations, sizes and frequencies
    names           the syntax of Kubernetes' names, and suggestions for typos
    quantity        CPU, memory and disk as Kubernetes writes them
    printable       text that is safe to show
    validity        the dates of certificates
    clock, tasks, workqueue    time, and whether the machine's clock can be trusted; work on the event loop
    crashpoints     where the fault tests kill the process
    version         which version this is
    embedded/       a Kubernetes API in process, reached over HTTP like a real one, for the demo and the tests
"""

from stackd.version import __version__ as __version__

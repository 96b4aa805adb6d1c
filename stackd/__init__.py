"""stackd: hands out stacks (a hardened Pod and a NodePort Service each, with a time to live) over a REST API.

The packages. Calls go down the list; results come back as return values or ``async for``:

    cli, daemon     commands; the daemon opens, starts tasks, serves, and closes in reverse
    doctor/         checks the machine and the cluster, and says what to repair
    rehearse/       starts many stacks through the API, and measures how long players wait
    upkeep/         serves the operator of a running daemon: health, reloads, systemd, TLS certificates
    play/           input: players' links and the page /play, in one place
    web/            input: HTTP
    jobs/           input: time (APScheduler), and the queue of batch jobs
    lifecycle/      decides: one loop reconciles each stack; the only place that uses both store and cluster
    store/          the intended state (SQLite)
    kube/           the observed state (Kubernetes): watches, the mirror, requests, manifests
    logs            log lines as text, JSON or for the journal
    templates/      the operator's descriptions of stacks, read from files
    config/         the operator's settings: files, environment, defaults
    podspec/        pure: checks a pod spec against the policy, and returns the one that may run
    client/         stackd.client: the API for Python programs; the command line uses it, too
    keys            API keys, and the hashes by which they are recognised
    metrics         counters and histograms
    contract        the bodies of the API: the server renders and checks by them, the client decodes with them
    model           the records: stacks, ports, jobs, events
    errors, codes   the tree of errors; the code of each, with its status and what a player may read
    files           files that only their owner may read
    kinds, units    types of configuration values; durations, sizes and frequencies
    names           the syntax of Kubernetes' names, and suggestions for typos
    template_files  which files of a folder are templates
    timing          how long stackd waits, and why
    quantity        CPU, memory and disk as Kubernetes writes them
    printable       text that is safe to show
    validity        the dates of certificates
    clock, tasks, workqueue    time, and whether the machine's clock can be trusted; work on the event loop
    crashpoints     where the fault tests kill the process
    version         which version this is
    embedded/       a Kubernetes API in process, reached over HTTP like a real one, for the demo and the tests
"""

from stackd.version import __version__ as __version__

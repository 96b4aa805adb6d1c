"""Benchmarks: each row is a goal for stackd, measured beside its floor in the same run.

    __main__    the command: rows, repetitions, tables, JSON, page
    processes   starts what is measured and what loads it, on one CPU each; arena   the cluster and the daemon
    bare        the floor of reads: an aiohttp handler that answers the same bytes
    floor       the floor of writes: raw requests to the API server
    loader      the load: a process of its own with many connections
    probed      the daemon, with a probe of its event loop
    writes, reads, pools, fairness    the rows: functions that measure a ``Bench`` and add to its ``Results`` (results)

Percentiles, tables, charts and the page are those of a rehearsal. Everything that is measured, and every load, runs in
a process of its own; this one only waits.
"""

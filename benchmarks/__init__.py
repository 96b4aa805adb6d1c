"""Benchmarks: each row is a goal for stackd, measured beside its floor in the same run.

    __main__    the command: rows, repetitions, table, JSON, charts
    arena       the measured processes: the cluster, the daemon, the bare handler
    bare        the floor of reads: an aiohttp handler that answers the same bytes
    floor       the floor of writes: raw requests to the API server
    loader      the load: a process of its own with many connections; wrk for saturating reads
    rows        one function per row
    figures     samples, ratios and their spread
    report, charts

Everything that is measured, and every load, runs in a process of its own; this one only waits.
"""

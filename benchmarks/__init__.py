"""Benchmarks: every row of the numbers that stackd is to reach, each beside its floor in the same run.

    __main__    the command: rows, repetitions, table, JSON, charts
    arena       the processes that are measured: the cluster, the daemon, the bare handler
    bare        the floor of reads: an aiohttp handler that answers the same bytes
    floor       the floor of writes: raw requests to the API server
    loader      the load: a process of its own with many connections; wrk where reads are to saturate
    rows        one function per row
    figures     samples, ratios and their spread
    report, charts

Everything that is measured, and everything that loads it, runs in a process of its own; this one only waits.
"""

"""Work that runs in the background: the table of intervals for APScheduler, and batch jobs.

Owns when something runs. What is done to each stack is a verb of ``lifecycle``.

schedule   what runs at intervals
batch      the jobs that wait, and their chunks: commits wishes, and counts what the rows say
creating   the creates of a job: each stack once, whatever happens
outcomes   what has come of the stacks of a finished job
"""

"""Work that runs in the background: the table of intervals for APScheduler, and batch jobs.

Owns when something runs. What is done to each stack is a verb of ``lifecycle``.
"""

"""The work that time starts: the APScheduler table, and the worker that drains the batch-delete queue.

Owns when something runs. What runs is a verb of ``lifecycle``.
"""

"""Work that runs in the background: the table of intervals for APScheduler, and the queue of batch deletes.

Owns when something runs. What runs is a verb of ``lifecycle``.
"""

"""The door for time: what happens at intervals (APScheduler) and the queue of batch-delete jobs.

Owns: when. What is done is a verb of ``lifecycle``.
"""

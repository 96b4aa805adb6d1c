"""The cupboard for what we intend: SQLite, one file, one writer. Nothing outside of this package imports ``sqlite3``.

store           the door: ``Store.open``, the operations, the memory view
view            what is committed, for reads on the event loop
writer          the thread that commits what waits in one go
transaction     what an operation works with
stacks, reservations, requests, jobs, claims, timeline, meta     the operations, one noun each
ports, ballast  what the writer keeps beside the file: free node ports, room for deletes on a full disk
loading, opening, lock, schema, backup       from a path to an open, checked, migrated file; and copies of it
queries, rows, failures                      SQL text; records from rows; errors from result codes
"""

from __future__ import annotations

from stackd.store.backup import backup_file
from stackd.store.claims import Claim
from stackd.store.loading import Options
from stackd.store.requests import STOPPED_BY_USER, Extension, Start
from stackd.store.reservations import Adopted
from stackd.store.store import Purged, Store
from stackd.store.transaction import Counters

__all__ = [
    "STOPPED_BY_USER",
    "Adopted",
    "Claim",
    "Counters",
    "Extension",
    "Options",
    "Purged",
    "Start",
    "Store",
    "backup_file",
]

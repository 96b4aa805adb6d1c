"""What we intend, in one SQLite file with one writer. Nothing outside of this package imports ``sqlite3``.

Each noun holds its SQL, its rows and its operations. An operation is a function that takes a ``Transaction``; ``store.stacks``,
``store.jobs`` and the others have it as a method, which hands it to the writer.

store         ``Store.open``; what there is in the open file, and its upkeep
stacks        ``store.stacks``: the memory view, and all operations on stacks
rows          the rows of stacks and their node ports, and what every operation on them is made of
reservations  ``store.ports``; the operations by which a create comes by a stack, new or from a pool, and its node ports
changes       the operations on a stack that lives
adoption      the operations that take over what the cluster's records say and the file does not know
jobs, timeline, claims    batch-delete jobs, what happened to each stack, Idempotency-Keys
identity      ``store.meta``; whose stacks the file holds, and how far its history goes
ports         the pool of free node ports that the writer keeps beside the file
transaction   what an operation works with, and how it becomes a method
writer        the thread that commits what waits in one go
file, companions, schema  the file opened, checked, migrated and copied; what stands beside it; its format
failures      errors from SQLite's result codes
"""

from __future__ import annotations

from stackd.store.adoption import REMOVED, Adopted
from stackd.store.changes import STOPPED_BY_USER, STOPPED_MESSAGE, Extension, Start, differs
from stackd.store.claims import Claim
from stackd.store.file import FileSummary, StoreOptions, backup_file, read_summary
from stackd.store.identity import FileIdentity
from stackd.store.reservations import FROM_POOL, PORT_REPLACED, Assignment, ports_replaced
from stackd.store.store import Purged, Store
from stackd.store.transaction import Counters

__all__ = [
    "FROM_POOL",
    "PORT_REPLACED",
    "REMOVED",
    "STOPPED_BY_USER",
    "STOPPED_MESSAGE",
    "Adopted",
    "Assignment",
    "Claim",
    "Counters",
    "Extension",
    "FileIdentity",
    "FileSummary",
    "Purged",
    "Start",
    "Store",
    "StoreOptions",
    "backup_file",
    "differs",
    "ports_replaced",
    "read_summary",
]

"""The state that stackd intends, in one SQLite file with one writer. No other package imports ``sqlite3``.

Each module holds the SQL, rows and operations of one noun. An operation is a function that takes a ``Transaction``;
``store.stacks``, ``store.jobs`` and the others have it as a method, which hands it to the writer.

store         ``Store.open``; the content of the open file, and its upkeep
stacks        ``store.stacks``: the memory view, and all operations on stacks
rows          the rows of stacks and their node ports, and the building blocks of all operations on them
reservations  the operations that give a create its stack (new or from a pool)
ports         ``store.ports``: which node ports are free, how many, and the operations on them
changes       the operations on a living stack
adoption      the operations that adopt what the cluster's records say and the file lacks
jobs, timeline, claims    batch jobs, the events of each stack, Idempotency-Keys
activity                  what clients have asked for
identity      ``store.meta``; whose stacks the file holds, and how far its history goes
transaction   what an operation works with, and how it becomes a method
writer        the thread that commits all waiting operations together
file, companions, schema  opening, checking, converting and copying the file; the files beside it; its format
failures      errors from SQLite's result codes
"""

from __future__ import annotations

from stackd.store.activity import ActivityFilter, ActivityRequest
from stackd.store.adoption import REMOVED
from stackd.store.changes import BY_JOB, STOPPED_BY_USER, STOPPED_MESSAGE, Extension, Start, differs
from stackd.store.claims import Claim
from stackd.store.file import StoreOptions, backup_file, require_own_file
from stackd.store.identity import FileIdentity
from stackd.store.jobs import IntentSettings
from stackd.store.ports import PORT_REPLACED, ports_replaced
from stackd.store.reservations import Assignment
from stackd.store.store import Store

__all__ = [
    "BY_JOB",
    "PORT_REPLACED",
    "REMOVED",
    "STOPPED_BY_USER",
    "STOPPED_MESSAGE",
    "ActivityFilter",
    "ActivityRequest",
    "Assignment",
    "Claim",
    "Extension",
    "FileIdentity",
    "IntentSettings",
    "Start",
    "Store",
    "StoreOptions",
    "backup_file",
    "differs",
    "ports_replaced",
    "require_own_file",
]

"""The state that stackd intends, in one SQLite file with one writer. No other package imports ``sqlite3``.

An operation is a function that takes a ``Transaction``; ``store.stacks``, ``store.jobs`` and the others have it as a method,
which hands it to the writer.

store         ``Store.open``; the content of the open file, the memory views, and upkeep
rows          the rows of stacks with all that belongs to them; the building blocks of all operations on them
reservations  what a create gets (a new stack, or one from a pool), and ``store.ports``
changes       the operations on a living stack
adoption      the operations that bring the cluster's records into the file
jobs          batch jobs
history       the events of each stack, their last logs, and what clients have asked for
templates     the last good texts of the templates that are in the cluster
links         the links for players, and which were revoked
audit         what concerns the operator and no stack
identity, meta  whose stacks the file holds, and how far its history goes; the operations on that
node_ports    which node ports may be handed out
transaction   what an operation works with, how it becomes a method, how a row becomes a record, the committed records in
              memory, and SQLite's errors
writer        the thread that commits all waiting operations together
reader        the thread that searches the history beside it
file, schema  opening, checking, converting and copying the file; its lock and reserved space; its format
"""

from __future__ import annotations

from stackd.store.changes import (
    BY_JOB,
    STOPPED_BY_USER,
    STOPPED_MESSAGE,
    Extension,
    Relabelling,
    Renewed,
    Start,
    differs,
)
from stackd.store.file import backup_file, require_own_file
from stackd.store.history import ActivityFilter, ActivityRequest
from stackd.store.identity import FileIdentity
from stackd.store.jobs import claim_of
from stackd.store.links import KeptLink
from stackd.store.reservations import (
    NO_CREATE_LIMITS,
    PORT_REPLACED,
    Assignment,
    CreateLimits,
    ports_replaced,
)
from stackd.store.rows import Claim
from stackd.store.store import Store

__all__ = [
    "BY_JOB",
    "NO_CREATE_LIMITS",
    "PORT_REPLACED",
    "STOPPED_BY_USER",
    "STOPPED_MESSAGE",
    "ActivityFilter",
    "ActivityRequest",
    "Assignment",
    "Claim",
    "CreateLimits",
    "Extension",
    "FileIdentity",
    "KeptLink",
    "Relabelling",
    "Renewed",
    "Start",
    "Store",
    "backup_file",
    "claim_of",
    "differs",
    "ports_replaced",
    "require_own_file",
]

"""The identity of the state file: whose stacks it holds, and how far its history goes.

Does not know the cluster, nor how identities are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stackd.errors import ConfigError

SEQUENCE = "sequence"
FILE_ID = "file_id"
INCOMPLETE = "incomplete"

SET_META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
DELETE_META = "DELETE FROM meta WHERE key = ?"
ALL_META = "SELECT key, value FROM meta"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """``file_id``     the id of this history: a new, restored or reassigned file has a new id
    ``lock_id``     the id of the lock that this process holds; its next holder knows that this process has ended
    ``epoch``       how many processes have worked with the file
    ``sequence``    how many commits have changed stacks, other than by observations only
    ``incomplete``  the file may lack stacks that the cluster has: it is new, or an older copy
    ``cluster_uid``, ``namespace``, ``instance``  whose stacks these are; empty if that was never written
    """

    file_id: str = ""
    lock_id: str = ""
    epoch: int = 0
    sequence: int = 0
    incomplete: bool = False
    cluster_uid: str = ""
    namespace: str = ""
    instance: str = ""

    @classmethod
    def from_meta(cls, values: Mapping[str, str]) -> FileIdentity:
        texts = {name: values.get(name, "") for name in (FILE_ID, "cluster_uid", "namespace", "instance")}
        epoch, sequence = (int(values.get(name, "0")) for name in ("epoch", SEQUENCE))
        return cls(**texts, epoch=epoch, sequence=sequence, incomplete=INCOMPLETE in values)

    def contradiction(self, namespace: str, instance: str) -> str:
        """How the file differs from the configuration; empty if they agree, or the file does not say."""
        pairs = (("stacks.namespace", self.namespace, namespace), ("cluster.instance", self.instance, instance))
        return ", ".join(f'{key} is "{own}", not "{wanted}"' for key, own, wanted in pairs if own not in ("", wanted))

    def require_own(self, path: str, stacks: int, *, namespace: str, instance: str) -> None:
        """Raise ConfigError if the file at ``path`` holds stacks, and says that they belong to others."""
        if stacks and (contradiction := self.contradiction(namespace, instance)):
            raise ConfigError(
                [
                    f"the state file {path} holds {stacks} stack{'' if stacks == 1 else 's'} for which {contradiction}: "
                    "restore that setting, or choose another state.path"
                ]
            )

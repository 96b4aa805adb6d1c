"""The one gate: whether stackd may change the cluster, accepts new work and is ready; and if not, why.

Owns: everything that may keep stackd from its work, and the sentences about it: for clients, for ``/readyz`` and for the
service's status. Knows whether the cluster that answers is the file's own (invariant 8). Whether the file accepts a
write is tried by the callers; who owns the stacks is decided in ``ownership``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from stackd.clock import Clock
from stackd.errors import ClusterUnavailable, Held, NotOwner, ShuttingDown, StackdError
from stackd.kube.client import Cluster
from stackd.kube.guards import Fence
from stackd.kube.mirror import WITHHELD, Mirror
from stackd.kube.wire import REJECTED
from stackd.lifecycle.brake import Brake
from stackd.lifecycle.ownership import Ownership, Role
from stackd.lifecycle.wall_clock import WallClock
from stackd.store import Store
from stackd.tasks import first_of, set_within

AWAY_SECONDS = 2.0
IDENTITY_SECONDS = 10.0
"""How long a change waits for the cluster to say who it is; as long as one call may take."""

FIRST_CONTACT_SECONDS = 5.0
"""How long a request waits for the first contact with the cluster, while no attempt has failed."""

STALE_SECONDS = 120.0
"""A mirror that has heard nothing for longer is not acted upon, nor called ready."""

ADOPTING = "stackd is adopting stacks found in the cluster"
CHECKING_IDENTITY = "stackd is still checking that this is its own cluster"
SHUTTING_DOWN = "stackd is shutting down"
NOT_READY = (
    "standby", "cluster", "lease", "wrong_cluster", "brake", "stopping", "clock", "adopting", "node_ports",
    "network_policy", "file",
)  # fmt: skip
"""What keeps stackd from being ready, as the metrics name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongCluster:
    """The file belongs to another cluster: the uid of kube-system that it remembers, and the one that answered."""

    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"the file belongs to the cluster with kube-system uid {self.expected}, but {self.found} answers; "
            "nothing is created or removed until the right cluster is back: check cluster.kubeconfig, "
            "or set another state.path"
        )


@dataclass(slots=True, kw_only=True)
class Gate:
    """What keeps stackd from its work.

    ``contact_tried``   set once the cluster was reached, or a try to reach it has failed
    ``doubted``         set while the cluster has to be asked for its identity
    ``wrong_cluster``   another cluster answers
    ``waiting_for``     why the cluster cannot be used; ``refused``: the cluster answers, but does not accept stackd
    ``ports_trouble``, ``policy_trouble``, ``file_trouble``
                        no node port can be used; no NetworkPolicy protects the stacks; the file refuses writes
    ``prepared``        whether everything that must exist in the cluster was found there
    ``renewed``         False while rows of a restored file have to be brought up to date
    ``closing``         stackd shuts down
    """

    store: Store
    cluster: Cluster
    ownership: Ownership
    mirror: Mirror
    brake: Brake
    clock: Clock
    wall_clock: WallClock
    contact_tried: asyncio.Event = field(default_factory=asyncio.Event)
    doubted: asyncio.Event = field(default_factory=asyncio.Event)
    wrong_cluster: WrongCluster | None = None
    waiting_for: str = ""
    refused: bool = False
    ports_trouble: str = ""
    policy_trouble: str = ""
    file_trouble: str = ""
    prepared: bool = False
    renewed: bool = field(init=False)
    closing: bool = False
    _identity_known: asyncio.Event = field(default_factory=asyncio.Event)
    _doubted_since: float | None = None

    def __post_init__(self) -> None:
        self.renewed = not (self.store.incomplete and len(self.store.stacks))

    @property
    def fence(self) -> Fence:
        """Says until when this process may change anything or acknowledge a change."""
        return self.cluster.connection.fence

    # ---- whose cluster it is

    @property
    def in_doubt(self) -> bool:
        """Whether the cluster has yet to confirm its identity: after a start, and each time it was unreachable."""
        return not self._identity_known.is_set()

    def doubt(self) -> None:
        """The cluster may be another one: trust nothing until its identity is known (``bring_up.follow_identity``)."""
        if not self.in_doubt or self._doubted_since is None:
            self._doubted_since = self.clock.monotonic()
        self._identity_known.clear()
        self.doubted.set()

    def found_wrong(self, wrong: WrongCluster) -> None:
        """Another cluster has answered: nothing is created or removed in it."""
        self.wrong_cluster = wrong
        self._identity_known.set()

    def found_right(self) -> None:
        """The file's own cluster has answered."""
        self.wrong_cluster = None
        if self.doubted.is_set():  # somebody has doubted during the request: the answer may be older than the doubt
            self._identity_known.clear()
        else:
            self._identity_known.set()

    # ---- changes in the cluster

    @property
    def watches_lost(self) -> bool:
        """Whether the mirror has not been connected for so long that nothing is done by it."""
        since = self.mirror.disconnected_since
        return self.mirror.synced and since is not None and self.clock.monotonic() - since > AWAY_SECONDS

    def require_cluster(self) -> None:
        """Raise ClusterUnavailable on the wrong cluster, or if the cluster does not answer or the watches have lost it.

        Callers get an answer at once instead of at some deadline, and a long batch job does not hang.
        """
        if self.wrong_cluster is not None:
            raise ClusterUnavailable(str(self.wrong_cluster))
        if self.cluster.connection.contact.lost:
            raise self.cluster.connection.contact.error()
        if self.watches_lost:
            raise ClusterUnavailable(
                f"Kubernetes has not answered for over {AWAY_SECONDS:g} s; retry", detail=self.mirror.last_error
            )

    async def right_cluster(self) -> None:
        """Return once the cluster has confirmed that it is the file's own: an object that another cluster does not have
        is not proven gone. Raises ClusterUnavailable, without waiting if the cluster does not accept stackd.
        """
        if self.refused:
            raise ClusterUnavailable(REJECTED, detail=self.waiting_for)
        self.require_cluster()
        if not await set_within(self._identity_known, IDENTITY_SECONDS):
            raise ClusterUnavailable(f"{CHECKING_IDENTITY}; retry", detail=self.waiting_for)
        self.require_cluster()

    async def confirmed_cluster(self) -> None:
        """Ask again; return once the cluster that answers is confirmed as the file's own. Raises ClusterUnavailable."""
        self.doubt()
        await self.right_cluster()

    def may_promise(self, error: StackdError) -> None:
        """Raise NotOwner unless this stackd can promise to carry on a change that failed with ``error``.

        Otherwise another stackd may own the stacks by now, and does not know of the change.
        """
        if isinstance(error, NotOwner):
            raise error
        self.fence.require()

    # ---- what nobody asked for

    @property
    def braked(self) -> bool:
        """Whether any brake of invariant 8 is on."""
        return self.wrong_cluster is not None or self.brake.on

    def hold_back(self, endings: Mapping[str, str], among: Collection[str], max_share: float) -> frozenset[str]:
        """The ids of ``endings`` that may not go ahead: all of them on the wrong cluster, else what the brake holds."""
        if self.wrong_cluster is not None:
            return frozenset(endings)
        return self.brake.hold_back(endings, among, max_share)

    def why_no_pass(self) -> str:
        """Why no pass of the reconciliation can be made now; empty if one can."""
        if self.wrong_cluster is not None:
            return str(self.wrong_cluster)
        if self.in_doubt:
            return CHECKING_IDENTITY
        if not self.mirror.synced:
            return "the cluster has not been seen yet"
        if not self.renewed:
            return "the file is new or restored, and its rows have not been compared with the cluster yet"
        if (stale := self.mirror.staleness()) > STALE_SECONDS:
            return f"the cluster has sent nothing for {stale:.0f} s"
        return ""

    # ---- requests

    def admit(self) -> None:
        """Raise unless new work can be accepted: not while stackd stops, not without a view of the right cluster, not
        before the file has all stacks that the cluster has, and not without the required NetworkPolicy.
        """
        if self.closing:
            raise ShuttingDown(SHUTTING_DOWN)
        if self.wrong_cluster is not None:
            raise Held(f"no stack can be created: {self.wrong_cluster}")
        if not self.mirror.synced:
            raise ClusterUnavailable("no stack can be created: waiting for the cluster", detail=self._why_not_reached())
        self.require_cluster()
        if self.store.incomplete:
            raise ClusterUnavailable(f"no stack can be created: {ADOPTING}; retry soon")
        if self.policy_trouble:
            raise Held(self.policy_trouble)
        self.fence.require()

    async def admitted(self) -> None:
        """Return when new work can be accepted; just after a start, wait a moment for contact with the cluster.

        Raises as ``admit`` does. Does not wait once a try to reach the cluster has failed.
        """
        if not self.mirror.synced or self.store.incomplete:
            await self._first_contact()
        self.admit()

    async def stacks_known(self) -> None:
        """Return when the file has all stacks that the cluster has; just after a start, wait a moment for that.

        Otherwise raises ClusterUnavailable or ShuttingDown: a stack that the file lacks must not be taken for deleted.
        """
        await self._first_contact()
        if not self.store.incomplete:
            return
        if self.closing:
            raise ShuttingDown(SHUTTING_DOWN)
        if not self.mirror.synced:
            raise ClusterUnavailable(
                "stackd does not know the stacks yet: waiting for the cluster", detail=self._why_not_reached()
            )
        raise ClusterUnavailable(f"{ADOPTING}; retry soon")

    async def owner_known(self, patience: float = FIRST_CONTACT_SECONDS) -> None:
        """Return when it is known who owns the stacks; just after a start, wait up to ``patience`` seconds for that.

        Does not wait once a try to reach the cluster was made, or while a brake is on.
        """
        ownership = self.ownership
        if ownership.role is Role.STANDBY and not (ownership.standby or self._stopped):
            await first_of(ownership.owned, ownership.stands_by, self.contact_tried, timeout=patience)

    @property
    def _stopped(self) -> bool:
        """Whether waiting would change nothing."""
        return self.closing or self.braked

    async def _first_contact(self) -> None:
        if not self._stopped:
            await set_within(self.contact_tried, FIRST_CONTACT_SECONDS)

    # ---- why not

    def why_not_ready(self) -> dict[str, str]:
        """Why stackd is not ready: a sentence for each of ``NOT_READY`` that applies; empty if it is ready."""
        if self.ownership.standby:
            return {"standby": self.ownership.standby}
        found = {
            "cluster": self._why_no_cluster(),
            "lease": self.ownership.why_closed(),
            "wrong_cluster": str(self.wrong_cluster or ""),
            "brake": self.brake.why_held(),
            "stopping": SHUTTING_DOWN if self.closing else "",
            "clock": self.wall_clock.trouble(),
            "adopting": ADOPTING if self.mirror.synced and self.store.incomplete else "",
            "node_ports": self.ports_trouble,
            "network_policy": self.policy_trouble,
            "file": self.file_trouble,
        }
        return {reason: sentence for reason, sentence in found.items() if sentence}

    def _why_no_cluster(self) -> str:
        """Why the cluster is not there for changes; empty if it is, or if it was asked who it is only just now."""
        if not self.mirror.synced:
            return f"waiting for the cluster: {self._why_not_reached()}"
        contact = self.cluster.connection.contact
        if contact.lost:
            return f"{contact.sentence()}; reads return the last known state"
        if (stale := self.mirror.staleness()) > STALE_SECONDS:
            why = f" ({self.mirror.last_error})" if self.mirror.last_error else ""
            return f"Kubernetes has sent nothing for {stale:.0f} s{why}; reads return the last known state"
        if self.watches_lost:
            return f"nothing can be created or deleted: the watches are interrupted: {self.mirror.last_error}"
        if self.mirror.withheld:
            return f"statuses are late: {WITHHELD}"
        doubt = self._why_in_doubt()
        return f"nothing can be created or deleted: {doubt}" if doubt else ""

    def _why_in_doubt(self) -> str:
        """Why the cluster has not confirmed its identity; empty if it has, or if it was asked only just now."""
        if not self.in_doubt or self.waiting_for:
            return self.waiting_for if self.in_doubt else ""
        since = self._doubted_since
        if since is None or self.clock.monotonic() - since <= AWAY_SECONDS:
            return ""
        return CHECKING_IDENTITY

    def _why_not_reached(self) -> str:
        """Why the cluster has not been seen since the start, if that is known."""
        why = self.waiting_for or self.ownership.trouble or self.mirror.last_error
        return why or "pods, services and nodes are being listed"

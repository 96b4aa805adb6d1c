"""The one gate: whether stackd may change the cluster, accepts new work and is ready; and if not, why.

Owns: everything that may keep stackd from its work, and the sentences about it: for clients, for ``/readyz`` and for the
service's status. Asks whether the cluster that answers is the file's own (invariant 8), and for all that must exist in it.
Owns the brake: how many unrequested endings are too many, and the operator's confirmation. Whether the file accepts a write
is tried by the callers; who owns the stacks is decided in ``ownership``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

from stackd.clock import Clock, WallClock
from stackd.crashpoints import crash_point
from stackd.errors import (
    ClusterRefused,
    ClusterUnavailable,
    Held,
    NotFound,
    NotOwner,
    ShuttingDown,
    StackdError,
)
from stackd.kube.client import Cluster
from stackd.kube.mirror import WITHHELD, Mirror
from stackd.kube.wire import REJECTED
from stackd.lifecycle.ownership import Ownership, Role
from stackd.store import Store
from stackd.tasks import first_of, set_within
from stackd.timing import (
    AWAY_SECONDS,
    CONFIRMED_SECONDS,
    FIRST_CONTACT_SECONDS,
    IDENTITY_SECONDS,
    STALE_SECONDS,
    WINDOW_SECONDS,
)

log = logging.getLogger(__name__)

ADOPTING = "stackd is adopting stacks found in the cluster"
CHECKING_IDENTITY = "stackd is still checking that this is its own cluster"
SHUTTING_DOWN = "stackd is shutting down"


FREE_ENDINGS = 10  # up to this many unrequested endings are never held back


class Brake:
    """What is held back: ``held``, the stack's id and what would have been done to it."""

    def __init__(self, clock: Clock) -> None:
        self.held: dict[str, str] = {}
        self._clock = clock
        self._endings: dict[str, float] = {}
        self._confirmed: frozenset[str] = frozenset()
        self._confirmed_until = 0.0

    def why_held(self) -> str:
        """How many stacks are held back, and what to do; empty if none are."""
        if not self.held:
            return ""
        return (
            f"{len(self.held)} stacks would be ended or removed although nobody asked for it; "
            "see `stackd reconcile --plan`, release with `stackd reconcile --confirm`"
        )

    def hold_back(
        self, endings: Mapping[str, str], among: Collection[str], max_share: float, also: Collection[str] = ()
    ) -> frozenset[str]:
        """The ids of ``endings`` (id → what would be done, unrequested) that may not go ahead; ``among`` are all ids, ``also``
        those that would follow.

        What was done within the last minute counts as well, each id once. A held id stays held until it no longer applies
        (``forget``) or is confirmed.
        """
        now = self._clock.monotonic()
        self._endings = {name: at for name, at in self._endings.items() if at >= now - WINDOW_SECONDS}
        confirmed = self.confirmed
        unconfirmed = {name: what for name, what in endings.items() if name not in confirmed}
        counted = self._endings.keys() | self.held.keys() | unconfirmed.keys() | (set(also) - confirmed)
        total = len(counted | set(among))
        if not unconfirmed or len(counted) <= FREE_ENDINGS or len(counted) <= max_share * total:
            self._endings = dict.fromkeys(unconfirmed, now) | self._endings
            self.forget(unconfirmed)
            return frozenset()
        if not self.held:
            what = "would be ended or removed although nobody asked for it"
            log.error("brake: %d of %d stacks %s", len(counted), total, what)
        self.held.update(unconfirmed)
        return frozenset(unconfirmed)

    def forget(self, stack_ids: Iterable[str]) -> None:
        """Stop holding these ids: they were carried out, or no longer apply."""
        for stack_id in stack_ids:
            self.held.pop(stack_id, None)

    @property
    def confirmed(self) -> frozenset[str]:
        """The ids whose endings the operator has released, as long as that confirmation is valid."""
        return self._confirmed if self._clock.monotonic() < self._confirmed_until else frozenset()

    def confirm(self) -> frozenset[str]:
        """Release what is held now, for a minute. The endings that led to it no longer count. Returns the ids."""
        self._confirmed = frozenset(self.held)
        self._confirmed_until = self._clock.monotonic() + CONFIRMED_SECONDS
        self._endings.clear()
        self.held.clear()
        return self._confirmed


class Gate:
    """What keeps stackd from its work.

    ``contact_tried``   set once the cluster was reached, or a try to reach it has failed
    ``identity``        whether the cluster that answers is known
    ``wrong_cluster``   the sentence about another cluster that answers; empty if none does
    ``unreached``       why the cluster cannot be used; ClusterRefused: it answers, but does not accept stackd
    ``ports_error``, ``policy_error``, ``rights_error``, ``file_error``
                        no node port can be used; no NetworkPolicy protects the stacks; the cluster does not allow stackd
                        to create and delete stacks; the file refuses writes
    ``undeletable``     the stacks whose deletes the cluster has refused again and again, and what it says
    ``prepared``        whether the NetworkPolicies were checked after the start
    ``compared``        whether the rows of a new or restored file were compared with the cluster
    ``closing``         stackd is stopping
    """

    def __init__(
        self, store: Store, cluster: Cluster, mirror: Mirror, wall_clock: WallClock, *, lease_duration: float
    ) -> None:
        self.contact_tried = cluster.connection.contact.tried
        self.identity = cluster.connection.identity
        self.wrong_cluster = ""
        self.unreached: StackdError | None = None
        self.ports_error = self.policy_error = self.rights_error = self.file_error = ""
        self.undeletable: dict[str, str] = {}
        self.prepared = self.closing = False
        self.store, self.cluster = store, cluster
        self.fence, self.mirror, self.brake = cluster.connection.fence, mirror, Brake(wall_clock)
        self.wall_clock = wall_clock
        self.compared = not (self.store.incomplete and len(self.store.stacks))
        self.ownership = Ownership(
            cluster,
            store,
            duration=lease_duration,
            clock=wall_clock.clock,
            confirmed=self.confirmed_cluster,
            set_back=mirror.list_again,
        )

    # ---- whose cluster it is

    @property
    def unverified(self) -> bool:
        """Whether the cluster has yet to confirm its identity: after a start, and each time it was unreachable."""
        return not self.identity.confirmed.is_set()

    async def identify(self) -> None:
        """Ask the cluster for its identity; nothing is created or removed in another one than the file's own."""
        self.identity.due.clear()
        uid = await self.cluster.cluster_uid()
        expected = self.store.identity.cluster_uid
        if not expected:
            await self.store.set_cluster(uid)
            crash_point("bring_up.identified")
        elif expected != uid:
            before = self.wrong_cluster
            whose = self.cluster.identity.name
            self.wrong_cluster = (
                f"the file belongs to the cluster with {whose} uid {expected}, but {uid} answers; nothing is created or "
                "removed until the right cluster is back: check cluster.kubeconfig and cluster.rights, or set another state.path"
            )
            if self.wrong_cluster != before:
                log.error("brake: %s", self.wrong_cluster)
            self.identity.confirmed.set()
            return
        if self.wrong_cluster:
            log.warning("the cluster that the file belongs to answers again; its objects are listed again")
            await self.mirror.relist()  # after a new list the identity is asked for once more
        self.wrong_cluster = ""
        if self.identity.due.is_set():  # asked for again during the request: the answer may be older than that
            self.identity.confirmed.clear()
        else:
            self.identity.confirmed.set()

    # ---- changes in the cluster

    @property
    def watches_lost(self) -> bool:
        """Whether the mirror has not been connected for so long that nothing is done by it."""
        since = self.mirror.disconnected_since
        return self.mirror.synced and since is not None and self.wall_clock.monotonic() - since > AWAY_SECONDS

    def require_cluster(self) -> None:
        """Raise ClusterUnavailable on the wrong cluster, or if the cluster does not answer or the watches have lost it.
        Callers get an answer at once instead of at some deadline, and a long batch job does not hang."""
        if self.wrong_cluster:
            raise ClusterUnavailable(self.wrong_cluster)
        if self.cluster.connection.contact.lost:
            raise self.cluster.connection.contact.error()
        if self.watches_lost:
            raise ClusterUnavailable(
                f"Kubernetes has not answered for over {AWAY_SECONDS:g} s; retry", detail=self.mirror.last_error
            )

    @property
    def is_clear(self) -> bool:
        """Whether the cluster has confirmed that it is the file's own, and is in contact."""
        known = self.identity.confirmed.is_set() and self.unreached is None and not self.wrong_cluster
        contact = self.cluster.connection.contact
        return known and contact.lost_since is None and self.mirror.disconnected_since is None

    def clear_since(self, when: float) -> bool:
        """Whether nothing has kept stackd from its work since then, on the contact's clock."""
        return self.is_clear and not self.closing and self.cluster.connection.contact.lost_at < when

    async def right_cluster(self) -> None:
        """Return once the cluster has confirmed that it is the file's own: an object that another cluster does not have
        is not proven gone. Raises ClusterUnavailable, without waiting if the cluster does not accept stackd."""
        if self.is_clear:
            return
        if isinstance(self.unreached, ClusterRefused):
            raise ClusterUnavailable(REJECTED, detail=str(self.unreached))
        self.require_cluster()
        if not await set_within(self.identity.confirmed, IDENTITY_SECONDS):
            raise ClusterUnavailable(f"{CHECKING_IDENTITY}; retry", detail=str(self.unreached or ""))
        self.require_cluster()

    async def confirmed_cluster(self) -> None:
        """Ask again; return once the cluster that answers is confirmed as the file's own. Raises ClusterUnavailable."""
        self.identity.doubt()
        await self.right_cluster()

    def may_promise(self, error: StackdError) -> None:
        """Raise NotOwner unless this stackd can promise to carry on a change that failed with ``error``. Otherwise
        another stackd may own the stacks by now, and does not know of the change."""
        if isinstance(error, NotOwner):
            raise error
        self.fence.require()

    # ---- what nobody asked for

    @property
    def view_is_unverified(self) -> bool:
        """Whether nothing may be written by what is seen of the cluster. All stacks are looked at when that is over."""
        return not self.mirror.synced or self.unverified or bool(self.wrong_cluster)

    @property
    def may_expire(self) -> bool:
        """Whether a stack may expire: a restored file, or one whose stacks another stackd has taken over, may not know of
        an extension."""
        return self.compared and self.fence.open and not self.wrong_cluster

    @property
    def braked(self) -> bool:
        return bool(self.wrong_cluster or self.brake.held)

    def why_no_pass(self) -> str:
        """Why no pass of the reconciliation can be made now; empty if one can."""
        if self.wrong_cluster:
            return self.wrong_cluster
        if self.unverified:
            return CHECKING_IDENTITY
        if not self.mirror.synced:
            return "the cluster has not been seen yet"
        if not self.compared:
            return "the file is new or restored, and its rows have not been compared with the cluster yet"
        stale = self.mirror.staleness()
        return f"the cluster has sent nothing for {stale:.0f} s" if stale > STALE_SECONDS else ""

    # ---- requests

    def admit(self) -> None:
        """Raise unless new work can be accepted: not while stackd stops, not without a view of the right cluster, not
        before the file has all stacks that the cluster has, and not without the required NetworkPolicy."""
        if self.closing:
            raise ShuttingDown(SHUTTING_DOWN)
        if self.wrong_cluster:
            raise Held(f"no stack can be created: {self.wrong_cluster}")
        if not self.mirror.synced:
            raise ClusterUnavailable("no stack can be created: waiting for the cluster", detail=self._why_not_reached())
        self.require_cluster()
        if self.store.incomplete:
            raise ClusterUnavailable(f"no stack can be created: {ADOPTING}; retry soon")
        if self.policy_error:
            raise Held(self.policy_error)
        self.fence.require()

    async def admitted(self) -> None:
        """Return when new work can be accepted; just after a start, wait a moment for contact with the cluster. Raises
        as ``admit`` does. Does not wait once a try to reach the cluster has failed."""
        if not self.mirror.synced or self.store.incomplete:
            await self._first_contact()
        self.admit()

    async def stacks_known(self) -> None:
        """Return when the file has all stacks that the cluster has; just after a start, wait a moment for that, and for the
        templates.

        Otherwise raises ClusterUnavailable or ShuttingDown: a stack that the file lacks must not be taken for deleted.
        """
        await self._first_contact()
        if not self.store.incomplete:
            return
        if self.closing:
            raise ShuttingDown(SHUTTING_DOWN)
        if not self.mirror.synced:
            sentence = "stackd does not know the stacks yet: waiting for the cluster"
            raise ClusterUnavailable(sentence, detail=self._why_not_reached())
        raise ClusterUnavailable(f"{ADOPTING}; retry soon")

    async def owner_known(self, patience: float | None = None) -> None:
        """Return when it is known who owns the stacks; just after a start, or after this process was suspended for longer
        than its Lease, wait up to ``patience`` seconds for that. Does not wait once a try to reach the cluster was made,
        or while a brake is on. Raises NotOwner if another stackd may have owned the stacks for long."""
        ownership, timeout = self.ownership, FIRST_CONTACT_SECONDS if patience is None else patience
        if ownership.role is Role.STANDBY and not (ownership.standby or self.closing or self.braked):
            await first_of(ownership.owned, ownership.stands_by, self.contact_tried, timeout=timeout)
        if ownership.unverified:
            await ownership.verified(timeout)
        if ownership.unverified:
            raise NotOwner("stackd does not know whether it still owns the stacks; retry")

    def require_lease(self) -> None:
        """Raise ClusterUnavailable or NotOwner if this owner's Lease has lapsed: then nothing is intended, either."""
        if self.ownership.reported is Role.LAPSED:
            self.require_cluster()
            self.fence.require()

    def reported(self, error: Exception) -> Exception:
        """What a client gets for this error: only the owner knows that there is no such stack."""
        if not isinstance(error, NotFound) or self.fence.open:
            return error
        return NotOwner(f"{error.sentence} here, but another stackd may own the stacks now, and have it; retry")

    async def _first_contact(self) -> None:
        if not (self.closing or self.braked):
            await set_within(self.contact_tried, FIRST_CONTACT_SECONDS)

    # ---- why not

    def readiness(self) -> dict[str, str]:
        """What may keep stackd from being ready, as the metrics name it, and in a sentence how it does; empty if not."""
        standby = self.ownership.standby
        sentences = {
            "cluster": self._why_no_cluster(),
            "lease": self.ownership.why_closed(),
            "wrong_cluster": self.wrong_cluster,
            "brake": self.brake.why_held(),
            "stopping": SHUTTING_DOWN if self.closing else "",
            "clock": self.wall_clock.why_untrusted(),
            "adopting": ADOPTING if self.mirror.synced and self.store.incomplete else "",
            "node_ports": self.ports_error,
            "network_policy": self.policy_error,
            "rights": self.rights_error,
            "deletes": self._why_undeletable(),
            "file": self.file_error,
        }
        return {"standby": standby, **(dict.fromkeys(sentences, "") if standby else sentences)}

    def why_not_ready(self) -> list[str]:
        return [*filter(None, self.readiness().values())]

    def _why_undeletable(self) -> str:
        stays = [name for name in self.undeletable if name in self.store.stacks]
        if not stays:
            return ""
        return f"{len(stays)} stacks cannot be deleted, such as {stays[0]}: {self.undeletable[stays[0]]}"

    def _why_no_cluster(self) -> str:
        """Why the cluster is not there for changes; empty if it is, or if it was asked who it is only just now."""
        if not self.mirror.synced:
            return f"waiting for the cluster: {self._why_not_reached()}"
        contact = self.cluster.connection.contact
        if contact.lost:
            return f"{contact.error()}; reads return the last known state"
        if (stale := self.mirror.staleness()) > STALE_SECONDS:
            why = f" ({self.mirror.last_error})" if self.mirror.last_error else ""
            return f"Kubernetes has sent nothing for {stale:.0f} s{why}; reads return the last known state"
        if self.watches_lost:
            return f"nothing can be created or deleted: the watches are interrupted: {self.mirror.last_error}"
        if self.mirror.withheld:
            return f"statuses are late: {WITHHELD}"
        if not self.unverified:
            return ""
        asking = self.identity.doubted_for <= AWAY_SECONDS
        why = str(self.unreached or ("" if asking else CHECKING_IDENTITY))
        return f"nothing can be created or deleted: {why}" if why else ""

    def _why_not_reached(self) -> str:
        """Why the cluster has not been seen since the start, if that is known."""
        why = str(self.unreached or "") or self.ownership.error or self.mirror.last_error
        return why or "pods, services and nodes are being listed"

"""How long stackd waits: the times that somebody might tune, or compare with each other, with the reason for each.

In seconds, or as the name says. A time that only one algorithm makes sense of stays beside it.
"""

from __future__ import annotations

from stackd.clock import NANOSECONDS
from stackd.workqueue import RetryPolicy

# ---- who waits for a stack, and for how long

# So much longer than one call may take: then the error of the call itself is the answer.
CALL_EXTRA_SECONDS = 1.0
# How long a restart waits for a node to take the new pod, so that it can name the address; no node is no failure.
PLACED_SECONDS = 2.0
# How long a create waits for an equal one that came first.
EQUAL_CREATE_SECONDS = 60.0
# The timeout of the last request for the pod of a create whose time is over.
LAST_ASK_SECONDS = 5.0
# How long a failed create waits for its undo; after that, the undo goes on in the background.
UNDO_SECONDS = 2.0
# The same while Kubernetes does not answer: only for the intent to be written.
INTENT_SECONDS = 0.1
# How long a create waits for the first list of routes after a start.
ROUTES_LISTED_SECONDS = 2.0
# How long a start, and a write just after one, wait for the first list of the templates.
TEMPLATES_LISTED_SECONDS = 5.0
# How long a create waits until the stacks of pools that make room for it are gone.
PREEMPTION_SECONDS = 20.0
# How long a request waits for the first contact with the cluster, while no try has failed.
FIRST_CONTACT_SECONDS = 5.0
# How long a change waits for the cluster to say who it is; as long as one call may take.
IDENTITY_SECONDS = 10.0
# How long the last log lines of a stack that is deleted are waited for, by nobody.
CAPTURE_SECONDS = 2.0
# How long an expiry waits for them: no client waits for it, but a longer wait would make it late.
EXPIRY_WAITS_SECONDS = 0.25
# How long a client that reads a log waits for its turn.
READ_WAITS_SECONDS = 5.0

# ---- a start and a stop

# How long a start waits for the cluster, before it completes without it. Meanwhile connections queue at a handed-over
# socket, and the service manager waits.
START_SECONDS = 5.0
# Between two tries to adopt the stacks that a new or restored file lacks.
COMPLETE_SECONDS = 0.5
# How long answers about stacks wait for a first look at all that a new or restored file has got.
FIRST_LOOK_SECONDS = 2.0
# The longest that a stop or a takeover writes outdated records of stacks.
RECORDS_SECONDS = 10.0
# The longest that a stop takes to give its Lease back or shorten it: a standby does not wait for all of its duration.
SHORTEN_SECONDS = 2.0
# What the service manager is asked for beside ``server.shutdown_timeout``: the two above, and closing the file.
STOP_EXTRA_SECONDS = 15.0
# How long the Lease of an owner that is restarted is kept for its next start; then a standby takes over.
LEASE_KEPT_SECONDS = 10

# ---- when Kubernetes counts as away, and when a clock was set

# The watches may be away for so long before nothing is done by what they have shown.
AWAY_SECONDS = 2.0
# A mirror that has heard nothing for longer is not acted upon, nor called ready.
STALE_SECONDS = 120.0
# While a new pod is awaited, a watch of pods that is silent for this long is opened again over another connection.
SUSPECT_SECONDS = 2.0
# When a pod is asked for again that the cluster has and the watch does not report: it may report it by then.
ASK_AGAIN_SECONDS = 2.0
# How often the API server is asked for the time while the clock is not trusted.
ASK_TIME_SECONDS = 5.0
# Between two checks the wall clock and the monotonic one drift apart by less, unless the former is set.
CLOCK_SET_SECONDS = 0.5

# ---- what decisions about stacks wait for

# How long before and after its last renewal an owner may have created a pod and not its Service.
UNFINISHED_NANOSECONDS = 60 * NANOSECONDS
# A create goes on for so long after the end of its stack: one that lives shorter than its create takes is created, and
# expires then.
LATE_CREATE_NANOSECONDS = 2 * NANOSECONDS
# How long the new pod of a stack that was restarted waits for a node before the row names it: usually both are one write.
PLACING_NANOSECONDS = NANOSECONDS
# The new pod of a shared stack has to be ready for so long before it takes the place of one that serves.
PROVEN_NANOSECONDS = 5 * NANOSECONDS
# How long the earlier pod stays once the new one serves: nodes learn a little later where to send connections to, and
# those that are open may come to an end.
LINGER_NANOSECONDS = 10 * NANOSECONDS
# The earlier pod goes once the new one is so old, even if the stack's status changes meanwhile.
LONGEST_LINGER = 120 * NANOSECONDS
# How long the new pod of a shared stack waits for a node before the earlier one has to make room for it.
ROOM_NANOSECONDS = 20 * NANOSECONDS
# How long an existing stack asks for its old node port: the API server frees a port a little after it has reported that
# the port's Service is gone.
KEEP_PORT_SECONDS = 2.0
# Endings that nobody asked for within this time are counted together by the brake, even if they come one by one.
WINDOW_SECONDS = 60.0
# A confirmation that no pass could use by then expires: the operator has not seen what is held later.
CONFIRMED_SECONDS = 60.0

# ---- what a template owns

# A shared stack that runs and is not ready for so long gets a new pod; the present one stays until that is ready.
UNREADY_SECONDS = 30.0
# A template whose stacks have ended by themselves counts as working again once one of them has run for this long.
PROVEN_SECONDS = 10.0
# Seconds until a failing template is tried again, after the first failure
FIRST_PAUSE = 1.0
# and after many.
LONGEST_PAUSE = 300.0
# The longest pause if the template is not at fault: no room, no node port or no quota is left.
NO_ROOM_PAUSE = 30.0
# How long a pool is not refilled after its stacks were deleted to make room for creates.
AFTER_PREEMPTION_SECONDS = 30.0
# When to look again while clients' creates wait for a slot, or while others are made: until then, nothing is made.
CROWDED_SECONDS = 0.1
# How often a template with a pool is checked.
POOL_CHECK_SECONDS = 3600.0
# Nodes forward to a new pod a little later than it is ready: no check begins before.
FORWARDED_NANOSECONDS = 5 * NANOSECONDS
# When a check is tried again that could not be run.
CHECK_AGAIN_SECONDS = 60.0
# When an image is pulled again: kubelets remove images that nobody has used for a while.
PULL_AGAIN_SECONDS = 6 * 3600.0

# ---- jobs, and what is kept

# A job's progress is written at least this often while a slow cluster works through a chunk.
COUNT_EVERY_SECONDS = 0.5
# For how long after its end it is followed what has come of a job's stacks.
FOLLOW_NANOSECONDS = 120 * NANOSECONDS
# How long an Idempotency-Key is remembered.
KEEP_CLAIMS = 24 * 3600 * NANOSECONDS

# ---- what runs at intervals

# Whether the clock was set, or stacks may expire from now on.
EXPIRE_SECONDS = 1.0
# Old jobs, timelines and keys are removed.
PURGE_SECONDS = 60.0
# When links were used is written.
VISITS_SECONDS = 60.0
# What has come of finished jobs is written.
OUTCOMES_SECONDS = 5.0
# Spare Services are begun.
SPARES_SECONDS = 1.0
# Quotas are read, while somebody asks.
QUOTAS_SECONDS = 20.0
# NetworkPolicies are checked.
POLICIES_SECONDS = 30.0
# stackd's rights are asked for; also in the pass after a refusal.
RIGHTS_SECONDS = 60.0
# For this long after the last question the quotas are refreshed.
INTEREST_SECONDS = 300.0
# How often others' node ports are asked for at most,
PORTS_SECONDS = 60.0
# and for how long.
PORTS_LIMIT_SECONDS = 3.0

# ---- the delays after failures

# Of a round of requests for a stack.
STACK_RETRIES = RetryPolicy(first=0.5, longest=30.0)
# Of the first contact with the cluster; the longest equals that of the watches.
CONTACT_RETRIES = RetryPolicy(first=1.0, longest=5.0)
# Of what a template owns, while nothing can be done: the cluster may be back.
TEMPLATE_RETRIES = RetryPolicy(first=1.0, longest=1.0)
# Of a key's jobs, while they cannot go on.
JOB_RETRIES = RetryPolicy(first=1.0, longest=1.0)
# Of a pull: a registry may limit how often it is asked.
PULL_RETRIES = RetryPolicy(first=5.0, longest=300.0)
# Of keeping the events and logs of a stack that has failed.
DIAGNOSTICS_RETRIES = RetryPolicy(first=2.0, longest=2.0, most=3)

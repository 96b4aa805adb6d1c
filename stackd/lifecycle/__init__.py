"""What stackd does with a stack, and the only place where store and cluster meet.

create, delete, ttl, restart          what is asked for: one verb per file (delete: a batch, too; ttl: expire and extend;
                                      restart: stop and start, too)
capacity, needs                       how many more would fit
idempotency                           the same request twice; and what is forgotten after a while
objects                               a stack's pod with all that is added to it; its Service and its node ports
repair                                what living stacks lack is put back
observe, status, diagnostics          what is seen, what it means, and why it is so
plan, reconcile, brake                what was missed, and when to stop and wait for the operator
bring_up, rebuild, readiness          the cluster: is it the right one; rows from its objects; what keeps stackd from being ready
ownership, lease_rules                which of two stackd may change anything
prepull                               images that are on the nodes before they are asked for
pools, assign, refill, pace           stacks that wait: which may be given, and to whom; given; made anew; what comes first
template_history                      the last hour of each template
hiding                                generated values are kept out of what others say of a stack
wall_clock, nodes                     whether the clock can be believed; which nodes take stacks
context, crashpoints                  what every verb is given; where the fault tests let the process die
"""

"""What stackd does with a stack, and the only place where store and cluster meet.

next_step, steps, worker              decides; one executor for each step; the one queue, by stack
create, delete, ttl, restart          the verbs, one per file (ttl expires and extends; restart also stops and starts)
create_request                        what a create is asked for
capacity                              how many more stacks would fit
idempotency                           repeated requests under one Idempotency-Key; purging old keys, jobs and timelines
objects                               a stack's pod with stackd's additions; its Service and its node ports
observe, status, diagnostics          observes pods, derives statuses from them, keeps the reasons of failures
reconcile, brake                      finds what was missed; stops and waits for the operator where too much would go
bring_up, rebuild                     checks the cluster; recovers rows from its objects
gate                                  whether stackd may change the cluster, accepts work and is ready; if not, why
ownership, lease_rules                which of two stackd may change anything
prepull                               pulls images onto nodes before stacks need them
pools, assign, refill                 pooled stacks: which may be given; giving them; making new ones
hiding                                hides generated values in what others say about a stack
wall_clock, nodes                     whether the wall clock can be trusted; which nodes take stacks
context, crashpoints                  what every verb gets; where the fault tests kill the process
"""

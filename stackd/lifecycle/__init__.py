"""What stackd does with a stack, and the only place where store and cluster meet.

context, gate              what every verb gets; whether stackd may change the cluster, accepts work and is ready
next_step, steps, worker   decides; one executor for each step; the one queue, by stack
create, verbs              makes a stack; deletes, stops, starts, restarts and extends it
objects, hiding            a stack's pod, Service and routes; hides its generated values in what others say about it
observe, status            observes pods; derives statuses from them
diagnostics                keeps the reasons of failures, and logs
reconcile, rebuild         finds what was missed, and expires stacks; recovers rows from objects
brake                      stops and waits for the operator where too much would end; whether the clock can be trusted
ownership                  which of two stackd may change anything
pools, assign, refill      pooled stacks: which may be assigned; assigning them; making new ones
prepull, nodes, capacity   pulls images before stacks need them; which nodes take stacks; how many more would fit
idempotency                repeated requests under one Idempotency-Key; purging old keys, jobs and timelines
crashpoints                where the fault tests kill the process
"""

"""What stackd does with a stack, and the only place where store and cluster meet.

context, gate              what every verb gets; whether stackd may change the cluster, accepts work and is ready; the brake,
                           which waits for the operator where too much would end
next_step, steps, worker   decides; one executor for each step; the one queue, by stack
create, verbs              makes a stack; deletes, stops, starts, restarts and extends it
objects                    a stack's pod, Service and routes
observe, status            observes pods; derives statuses from them
diagnostics                keeps the reasons of failures, and logs
reconcile, rebuild         finds what was missed, expires stacks, and removes old history; recovers rows from objects
audit                      who was refused, reloads, changes of keys, takeovers; and the file of log.audit
ownership                  which of two stackd may change anything
pools, assign, refill      pooled stacks: which may be assigned; assigning them; making new ones
prepull, nodes             pulls images before stacks need them; which nodes take stacks; how many more would fit
"""

"""What stackd does with a stack, and the only place where store and cluster meet.

context, gate              what every verb gets; whether stackd may change the cluster, accepts work and is ready; the brake,
                           which waits for the operator where too much would end
loop, reconcile            which stack is looked at when, and who waits for it; the only code that touches a stack
next_step, steps           decides; one executor for each kind of step
observe, status            writes what is seen of pods; derives statuses from it
create, verbs              what clients want: a stack made; deleted, stopped, started, restarted, extended
objects                    a stack's pod, Service and routes
diagnostics                keeps the reasons of failures, and logs
passes, rebuild            finds what was missed, and removes old history; recovers rows from objects
bring_up                   reaches the cluster, and checks what must exist in it
audit                      who was refused, reloads, changes of keys, takeovers; and the file of log.audit
ownership                  which of two stackd may change anything
pools, assign, refill      pooled stacks: which may be assigned; assigning them; making new ones
prepull, nodes, capacity   pulls images before stacks need them; which nodes take stacks; how many more would fit
"""

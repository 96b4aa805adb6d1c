"""What stackd does with a stack, and the only place where store and cluster meet.

decide                  what is to be done now about a stack, and why: the only place that decides (pure)
desired, view           the objects that a stack should have (pure); what is known of them now
apply, transitions      sends the requests that were decided on; changes the row as was decided
reconcile, loop         the only code that touches a stack; which stack is looked at when, and who waits for it
observe, status         writes what is seen of pods; derives statuses from it (pure)
create, verbs           what clients want: a stack made; deleted, stopped, started, restarted, extended
context                 what all of these share
gate, ownership         whether stackd may change the cluster, accepts work and is ready, and the brake; which of two may
bring_up                reaches the cluster, and checks what must exist in it
passes, rebuild         finds what was missed, and removes old history; recovers rows from objects
templates               what is in force: those of files, and those of the API
pools, assign           pooled stacks: which may be assigned; assigning them
owned, refill           what is to be done about what a template owns: stacks, check, images (pure); the loop that does it
checks, health          runs the checks of templates; what they have said
prepull                 pulls images before stacks need them
template_pods           the pods that checks and pulls want, and the waiting for them
spares, keep_spares     Services that wait for a stack, and which is taken; has as many as are configured
nodes, capacity         which nodes take stacks; how many more would fit
diagnostics, audit      keeps the reasons of failures, and logs; who was refused, reloads, changes of keys, takeovers
"""

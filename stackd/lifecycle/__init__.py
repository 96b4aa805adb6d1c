"""The room: what stackd does with a stack, one verb per file, and the only place where store and cluster meet.

create, delete, expire, batch    what is asked for
extend, restart                  … of a stack that lives: a later end; stop, start, another pod
create_once, dry_run, capacity, quotas, waiting, logs      what is asked about it, before and after
observe, status, follow, evidence                          what is seen, and why it is so
retire, reconcile, brake         what must go, what was missed, and when to stop and wait for the operator
bring_up, rebuild, replay, purge
room, crashpoints                what every verb is given; where the fault tests let the process die
"""

"""The room: what stackd does with a stack, one verb per file, and the only place where store and cluster meet.

create, delete, expire, batch    what is asked for
observe, status                  what is seen
retire, reconcile, brake         what must go, what was missed, and when to stop and wait for the operator
bring_up, rebuild, replay, purge
room, crashpoints                what every verb is given; where the fault tests let the process die
"""

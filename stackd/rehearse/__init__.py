"""The rehearsal: tries on a real daemon and its cluster, through the API alone, whether an event will hold.

    plan              what the players do: arrivals, kinds of stacks, hold, churn
    preflight         may it start, and does it fit
    connection        requests with their times, and the event stream
    run               the order of the phases, and the tasks beside the players
    player            one player                 rehearsal   what the players share
    attempts          the result of each press of start
    measure, goals    figures and verdict        outcome, report, charts   the output at the end

A client like any other: it knows nothing of the daemon's insides.
"""

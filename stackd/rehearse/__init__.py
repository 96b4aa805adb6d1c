"""The rehearsal: will it hold, asked of a real daemon and its cluster through the API alone.

    plan              what is done: arrivals, kinds of stacks, hold, churn
    preflight         may it start, and can it fit
    connection        requests with their times, and the event stream
    run               the order of the phases, and what goes on beside the players
    player            one player                 rehearsal   what the players share
    attempts          what came of each press of start
    measure, goals    figures and verdict        outcome, report, charts   what is told at the end

A client like any other: it knows nothing of the daemon's insides.
"""

"""The rehearsal: will it hold, asked of a real daemon and its cluster through the API alone.

    plan              what is done: arrivals, kinds of stacks, hold, churn
    preflight         may it begin, and can it fit
    connection        the wire
    run               the order of the phases        player, upkeep      what is done in them
    rehearsal         what is common to the players  attempts                            what came of each press of start
    daemon_metrics    where a create's time goes, as the daemon counts it
    measure, goals    figures and verdict            report, charts                      the page

A client like any other: it knows nothing of the daemon's insides.
"""

"""The rehearsal: tries on a real daemon and its cluster, through the API alone, whether an event will hold.

    plan         what the players do: arrivals, kinds of stacks, hold, churn; may it start, and does it fit
    connection   requests with their times, and the event stream
    run          the order of the phases, and the tasks beside the players
    player       what the players share, and one player
    measure      the result of each press of start, and figures
    outcome      goals, verdict and tables        report   the page

A client like any other: it knows nothing of the daemon's insides.
"""

"""The rehearsal: tries on a real daemon and its cluster, through the API alone, whether an event will hold.

    plan         what the players do: arrivals, kinds of stacks, hold, churn; may it start, and does it fit
    connection   requests with their times, and the event stream
    player       one player, and what the players share
    run          the order of the phases, and the tasks beside the players
    measure      the result of each press of start, and figures
    outcome      goals, verdict and tables
    report       charts and the page

A client like any other: it knows nothing of the daemon's insides. The benchmarks use its figures, tables and charts.
"""

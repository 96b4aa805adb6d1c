"""Everything that serves players' links and the page /play, above ``stackd.web``: the daemon imports ``Players``, nothing else.

tokens    what a link allows, its signed text, and the key that a player is to the rest of stackd
players   whose request it is, sessions, budgets, and why a player's stack has ended
state     what the page shows
routes    the page's own routes
links     the API's routes that make, list and revoke links
messages  what organisers say to players, and the API's routes for that

Elsewhere, by the owners of libraries: the table of links (``store/links.py``), the commands (``cli/links.py``,
``cli/players.py``), and the page's files (``web/static/play``). Without this import there are no links, and no such routes.
"""

from stackd.play import links, messages, routes
from stackd.play.players import Players
from stackd.web.app import ROUTES

__all__ = ["ROUTES", "Players", "links", "messages", "routes"]

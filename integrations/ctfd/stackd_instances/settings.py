"""The plugin's settings: in CTFd's table, or in the environment, which wins."""

from __future__ import annotations

import os
import secrets

from CTFd.models import Configs, db
from CTFd.utils import get_config, set_config
from sqlalchemy.exc import IntegrityError

from .client import Stackd

URL, KEY, SITE = "stackd_url", "stackd_key", "stackd_site"
SITE_ID = -7833  # of the row with SITE; CTFd's own ids are positive
INSTANCES, STARTS = "stackd_instances_per_account", "stackd_starts_per_minute"
COST = "stackd_cost_per_account"
MAKES_ROOM = "stackd_stop_the_oldest"
HELPERS = "stackd_helpers"
GRACE, OVER = "stackd_minutes_after_the_end", "stackd_over_since"
NUMBERS = {
    INSTANCES: (1, 1, 1000), STARTS: (6, 1, 1000), COST: (0, 0, 100_000), MAKES_ROOM: (0, 0, 1), GRACE: (15, 0, 1440),
}  # fmt: skip
"""The default of each number, the least and the most. ``COST`` 0: instances may cost as much as they do. ``GRACE``: minutes
from ``OVER``, when the event was first seen to be over, until its instances are stopped."""
ENVIRONMENT = {URL: "STACKD_URL", KEY: "STACKD_KEY"}


TOGETHER = "STACKD_KEY is in the environment of CTFd, so STACKD_URL has to be there, too."


def fixed(name: str) -> str:
    """Why the environment decides about the URL or the key; "" if the page does.

    With the key in the environment, an admin of CTFd could otherwise have it sent to any address.
    """
    if os.environ.get(ENVIRONMENT[name]):
        return f"The variable {ENVIRONMENT[name]} sets it."
    return TOGETHER if name == URL and os.environ.get(ENVIRONMENT[KEY]) else ""


def text(name: str) -> str:
    """The URL or the key; "" if there is none."""
    return str((os.environ.get(ENVIRONMENT[name]) if fixed(name) else get_config(name)) or "").strip()


def number(name: str) -> int:
    """One of ``NUMBERS``."""
    value = get_config(name)
    return NUMBERS[name][0] if value in (None, "") else int(value)


def helpers() -> list[str]:
    """The keys of the users who may help: not names, which anybody may take later."""
    return str(get_config(HELPERS) or "").split()


def stackd() -> Stackd:
    """stackd with this CTFd's key."""
    return Stackd(url=text(URL), key=text(KEY), cafile=os.environ.get("STACKD_CA_FILE", ""))


def site() -> str:
    """The label by which this CTFd knows its stacks again, if several use one stackd without keys of their own."""
    return str(get_config(SITE) or _named())


def _named() -> str:
    """Name this CTFd, once: its processes and requests may come here at the same moment, and one id can be inserted only once."""
    db.session.commit()
    if Configs.query.filter_by(key=SITE).first() is None:
        db.session.add(Configs(id=SITE_ID, key=SITE, value=f"s{secrets.token_hex(8)}"))
        try:
            db.session.commit()
        except IntegrityError:  # another one has
            db.session.rollback()
    name = str(Configs.query.filter_by(key=SITE).first().value)
    set_config(SITE, name)  # what the cache had is out of date
    return name

"""What a challenge says about its instances: reads the admin form, and renders create requests and addresses.

Knows nothing of CTFd or the database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

FROM_STACK, FROM_CTFD = "stack", "ctfd"
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
DEFAULT_TEXT = "{host}:{port}"


def seconds(text: str, what: str) -> int:
    """The seconds in ``"30m"`` or ``"1h30m"``. Raises ValueError with a sentence about ``what``."""
    text = str(text).strip().lower()
    parts = re.findall(r"(\d{1,6})([dhms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{what}: write a length of time such as 30m or 1h30m, not {text[:40]!r}")
    return sum(int(number) * UNITS[unit] for number, unit in parts)


def length(text: str) -> str:
    """A length of time as stackd reads it: ``"30M"`` as ``"30m"``."""
    return str(text).strip().lower()


def moment(text: Any) -> datetime | None:
    """``2026-02-10T09:00:00Z`` as CTFd keeps it: in UTC, without a zone. "" and null are none. Raises ValueError."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", str(text)))
    except ValueError:
        raise ValueError("Scheduled At: write a time such as 2026-02-10T09:00:00Z") from None
    return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)


def instant(text: Any, what: str) -> int:
    """The seconds since 1970 of ``2026-02-10T09:00+01:00``; 0 if there is no text. Raises ValueError about ``what``."""
    if not text:
        return 0
    found = re.search(r"([Zz]|[+-]\d\d:?\d\d)$", str(text)) and seconds_since_1970(str(text).upper())
    if found is None:
        raise ValueError(f"{what}: write a time with its zone such as 2026-02-10T09:00+01:00, not {str(text)[:40]!r}")
    return found


def hours(opens: Any, closes: Any) -> tuple[int, int]:
    """From when until when instances can be started, in seconds since 1970; 0: without such an end. Raises ValueError."""
    begin, end = instant(opens, "Opens"), instant(closes, "Closes")
    if end and end <= begin:
        raise ValueError("Closes: it must be after Opens")
    return begin, end


def over(closes: Any, now: int) -> bool:
    """Whether it has closed. What is no time, past the form, is none."""
    with suppress(ValueError):
        return 0 < instant(closes, "Closes") <= now
    return False


def seconds_since_1970(text: Any) -> int | None:
    """A time of stackd's; None if it is none."""
    try:
        return int(datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp())
    except ValueError:
        return None


def texts(text: str) -> dict[int, str]:
    """The connection text of each container port, one a line: ``80 http://{host}:{port}``.

    A line without a port is for all other ports: key 0. Raises ValueError.
    """
    found: dict[int, str] = {}
    for line in filter(None, map(str.strip, str(text).splitlines())):
        number, _, rest = line.partition(" ")
        port, shown = (int(number), rest.strip()) if number.isdecimal() else (0, line)
        if port in found:
            raise ValueError(f"Connection: two lines for {f'port {port}' if port else 'all other ports'}")
        for name in re.findall(r"\{(\w*)\}", shown):
            if name not in ("host", "port", "url"):
                raise ValueError(f"Connection: {{{name}}} is unknown; there are {{host}}, {{port}} and {{url}}")
        if not shown:
            raise ValueError(f"Connection: the line of port {port} has no text")
        found[port] = shown
    return found


def addresses(shown: Mapping[int, str], stack: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What players see for each port of a stack: the text, the container's port, and the link if it is one."""
    reached = {(each["port"], each["protocol"]): each for each in stack.get("addresses") or ()}
    found = []
    for port in stack.get("ports") or ():
        number = int(port["container_port"])
        address = reached.get((number, port["protocol"]), {"text": ""})
        text, where = shown.get(number) or shown.get(0) or "{url}", address["text"]
        if ("://" in where and "{url}" not in text) or text == DEFAULT_TEXT:
            text = "{url}"
        if not where and ("node_port" not in port or re.search(r"\{(host|url)\}", text)):
            continue  # it has no address yet, or its node has none
        link = address.get("url", "") if text == "{url}" else ""
        host, _, digits = where.rpartition(":")
        values = {"url": where, "host": host.strip("[]"), "port": digits or str(port.get("node_port"))}
        for name, value in (("{host}:{port}", where), *((f"{{{name}}}", value) for name, value in values.items())):
            text = text.replace(name, value)
        link = link or (text if re.fullmatch(r"https?://\S+", text) else "")
        found.append({"text": text, "url": link, "port": number})
    return found


def check(form: Mapping[str, Any]) -> None:
    """Raise ValueError with a sentence for the admin if the fields do not fit together."""
    if not form.get("stackd_template"):
        raise ValueError("Choose a template")
    if form.get("stackd_flag_source") not in (FROM_STACK, FROM_CTFD):
        raise ValueError("Flag: choose the stack's value or CTFd's flags")
    texts(form.get("stackd_connection") or "")
    if form.get("stackd_cost") is not None and not 0 <= form["stackd_cost"] <= 1000:
        raise ValueError("Cost: write a number from 0 to 1000")
    if form.get("stackd_ttl") and not seconds(form["stackd_ttl"], "Time to live"):
        raise ValueError("Time to live: it must be longer than nothing")
    hours(form.get("stackd_opens"), form.get("stackd_closes"))
    count = str(form.get("stackd_extensions") if form.get("stackd_extensions") is not None else "")
    if not count.isdecimal() or int(count) > 1000:
        raise ValueError("Extensions: write a number from 0 to 1000")
    if int(count) and not seconds(form.get("stackd_extension") or "", "Extension"):
        raise ValueError("Extension: it must be longer than nothing")


def labels(site: str, account: str, key: str, name: str) -> dict[str, str]:
    """The labels of an account's instance of the challenge with this key: ``player`` is ``user-7`` or ``team-7``, and limits
    count by it, or by ``player_challenge``; by ``ctfd`` and ``instance`` the plugin finds the stack again.
    """
    player = account.rpartition("-")[0]
    return {"ctfd": site, "player": player, "player_challenge": f"{player}-{key[:12]}", "instance": name}


def wanted(site: str, row: Any) -> dict[str, Any]:
    """The body of the create request of a row."""
    return body(row.fields, labels(site, row.account, row.fields["stackd_key"], row.name))


def body(fields: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """The body of the create request of a challenge with these fields."""
    wanted: dict[str, Any] = {"template": fields["stackd_template"]}
    if fields.get("stackd_ttl"):
        wanted["ttl"] = length(fields["stackd_ttl"])
    return wanted | {"labels": dict(labels)}
